/**
 * What one image has touched and added, in shared memory that every thread can count in. Each figure exists
 * twice, for even and odd epochs: a thread that still sees the last epoch counts there, where nobody looks, so a
 * reset needs no lock and loses nothing. The keeper clears the other half before it starts an epoch.
 */

/** Offsets in BigInt64 words: [even, odd] of each. */
const TOUCHED = 0
const ADDED = 2
const HEADER_BYTES = 32
/** Shared hits of one thread: even and odd epochs, plain 64-bit floats that this thread alone writes. */
const HITS_BYTES_PER_THREAD = 16

/** Structured-cloneable; made when an image is opened, registered with the keeper, given to every worker. */
export interface ImageAccountingMemory {
  /** Pages of the image's blobs, each blob's counted from its own ordinal base. */
  readonly pages: number
  /** Threads that may count shared hits. */
  readonly threads: number
  readonly buffer: SharedArrayBuffer
}

/**
 * @param pages one more than the highest page ordinal; 2 bits of memory each
 * @param threads that count shared hits
 */
export function createImageAccounting(pages: number, threads = 1): ImageAccountingMemory {
  const bitmapBytes = Math.ceil(pages / 32) * 4
  const fixedBytes = HEADER_BYTES + threads * HITS_BYTES_PER_THREAD
  return { pages, threads, buffer: new SharedArrayBuffer(fixedBytes + 2 * bitmapBytes) }
}

export class ImageAccounting {
  readonly memory: ImageAccountingMemory
  readonly #bytes: BigInt64Array
  readonly #hits: Float64Array
  readonly #thread: number
  readonly #bits: readonly [Int32Array, Int32Array]

  /** @param thread whose shared hits are counted here, 0 to `threads` - 1 */
  constructor(memory: ImageAccountingMemory, thread = 0) {
    const words = Math.ceil(memory.pages / 32)
    const bitsAt = HEADER_BYTES + memory.threads * HITS_BYTES_PER_THREAD
    this.memory = memory
    this.#bytes = new BigInt64Array(memory.buffer, 0, 4)
    this.#hits = new Float64Array(memory.buffer, HEADER_BYTES, memory.threads * 2)
    this.#thread = thread
    this.#bits = [
      new Int32Array(memory.buffer, bitsAt, words),
      new Int32Array(memory.buffer, bitsAt + words * 4, words),
    ]
  }

  /** A page was found in memory that had been brought there for another image. */
  countSharedHit(epoch: number): void {
    const at = this.#thread * 2 + (epoch & 1)
    this.#hits[at] = (this.#hits[at] ?? 0) + 1
  }

  /** Of all threads. */
  sharedHits(epoch: number): number {
    let sum = 0
    for (let at = epoch & 1; at < this.#hits.length; at += 2) sum += this.#hits[at] ?? 0
    return sum
  }

  /** Counts the page's valid bytes if it was not touched in this epoch. Ordinals outside of the image are ignored. */
  touch(epoch: number, ordinal: number, validBytes: number): void {
    const bits = this.#bits[(epoch & 1) as 0 | 1]
    const word = ordinal >>> 5
    const bit = 1 << (ordinal & 31)
    const seen = bits[word]
    if (seen === undefined || (seen & bit) !== 0) return
    if ((Atomics.or(bits, word, bit) & bit) !== 0) return
    Atomics.add(this.#bytes, TOUCHED + (epoch & 1), BigInt(validBytes))
  }

  add(epoch: number, validBytes: number): void {
    Atomics.add(this.#bytes, ADDED + (epoch & 1), BigInt(validBytes))
  }

  touchedBytes(epoch: number): number {
    return Number(Atomics.load(this.#bytes, TOUCHED + (epoch & 1)))
  }

  addedBytes(epoch: number): number {
    return Number(Atomics.load(this.#bytes, ADDED + (epoch & 1)))
  }

  /** Keeper only: clears the half that the coming epoch will use. */
  prepare(nextEpoch: number): void {
    this.#bits[(nextEpoch & 1) as 0 | 1].fill(0)
    Atomics.store(this.#bytes, TOUCHED + (nextEpoch & 1), 0n)
    Atomics.store(this.#bytes, ADDED + (nextEpoch & 1), 0n)
    for (let at = nextEpoch & 1; at < this.#hits.length; at += 2) this.#hits[at] = 0
  }
}
