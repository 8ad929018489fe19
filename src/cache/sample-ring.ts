/**
 * A sample of the hits, for policies that want to know more than the use counters say: one ring per reader in
 * shared memory, written by that reader alone, overwritten when nobody drains it. Losing samples is part of it.
 */

/** Samples that a ring holds; two words each. */
export const RING_SAMPLES = 1024
const HEAD = 0
const RING_WORDS = 1 + 2 * RING_SAMPLES

export function createSampleRings(rings: number): SharedArrayBuffer {
  return new SharedArrayBuffer(rings * RING_WORDS * 4)
}

/** A reader's end. */
export class SampleWriter {
  readonly #words: Int32Array
  #untilNext = 1

  constructor(rings: SharedArrayBuffer, ring: number) {
    this.#words = new Int32Array(rings, ring * RING_WORDS * 4, RING_WORDS)
  }

  /** Keeps one hit of `every`. */
  hit(every: number, blobNo: number, pageNo: number): void {
    if (--this.#untilNext > 0) return
    this.#untilNext = every
    const head = this.#words[HEAD] ?? 0
    const at = 1 + 2 * (head & (RING_SAMPLES - 1))
    this.#words[at] = blobNo
    this.#words[at + 1] = pageNo
    Atomics.store(this.#words, HEAD, head + 1)
  }
}

/** The keeper's end of all rings. */
export class SampleReader {
  readonly #words: Int32Array
  readonly #seen: Int32Array

  constructor(rings: SharedArrayBuffer) {
    this.#words = new Int32Array(rings)
    this.#seen = new Int32Array(this.#words.length / RING_WORDS)
  }

  /** Gives each sample that was not overwritten to `onSample`, oldest first per ring. */
  drain(onSample: (blobNo: number, pageNo: number) => void): void {
    for (let ring = 0; ring < this.#seen.length; ring++) {
      const base = ring * RING_WORDS
      const head = Atomics.load(this.#words, base + HEAD)
      const behind = Math.min((head - (this.#seen[ring] ?? 0)) >>> 0, RING_SAMPLES)
      for (let sample = head - behind; sample !== head; sample++) {
        const at = base + 1 + 2 * (sample & (RING_SAMPLES - 1))
        onSample(this.#words[at] ?? 0, (this.#words[at + 1] ?? 0) >>> 0)
      }
      this.#seen[ring] = head
    }
  }
}
