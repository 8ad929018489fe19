/**
 * What one image has touched and added, in shared memory that every thread can count in. Each figure exists
 * twice, for even and odd epochs: a thread that still sees the last epoch counts there, where nobody looks, so a
 * reset needs no lock and loses nothing. The keeper clears the other half before it starts an epoch.
 */

/** Offsets in BigInt64 words: [even, odd] of each. */
const TOUCHED = 0
const ADDED = 2
const HEADER_BYTES = 32

/** Structured-cloneable; made when an image is opened, registered with the keeper, given to every worker. */
export interface ImageAccountingMemory {
  /** Pages of the image's blobs, each blob's counted from its own ordinal base. */
  readonly pages: number
  readonly buffer: SharedArrayBuffer
}

/** @param pages one more than the highest page ordinal; 2 bits of memory each */
export function createImageAccounting(pages: number): ImageAccountingMemory {
  const bitmapBytes = Math.ceil(pages / 32) * 4
  return { pages, buffer: new SharedArrayBuffer(HEADER_BYTES + 2 * bitmapBytes) }
}

export class ImageAccounting {
  readonly memory: ImageAccountingMemory
  readonly #bytes: BigInt64Array
  readonly #bits: readonly [Int32Array, Int32Array]

  constructor(memory: ImageAccountingMemory) {
    const words = Math.ceil(memory.pages / 32)
    this.memory = memory
    this.#bytes = new BigInt64Array(memory.buffer, 0, 4)
    this.#bits = [
      new Int32Array(memory.buffer, HEADER_BYTES, words),
      new Int32Array(memory.buffer, HEADER_BYTES + words * 4, words),
    ]
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
  }
}
