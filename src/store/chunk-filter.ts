/**
 * Says "surely not" for most chunks that a run does not hold: a blocked Bloom filter over digests. A
 * digest picks one 64-byte block and eight bits in it, so a question costs one cache miss. Digests are
 * uniform already: their own bytes are the hash functions.
 *
 * Putze, Sanders, Singler: "Cache-, Hash- and Space-Efficient Bloom Filters" (2007).
 */

const BLOCK_WORDS = 16
export const FILTER_BLOCK_BYTES = BLOCK_WORDS * 4
/** 12 bits a chunk: 1.5 of the 2 bytes of memory that the index may take, and about 0.5 % false answers. */
const BITS_PER_CHUNK = 12
const BLOCK_BITS = FILTER_BLOCK_BYTES * 8
const TWO_32 = 0x1_0000_0000

/** Bytes of the digest that choose the block and the bits; the first 8 order the run. */
const BLOCK_AT = 8
const BITS_AT = 12
/** Eight bit numbers of 9 bits, one from each 16-bit half word. */
const PROBES = 8

export class ChunkFilter {
  /** The filter's bits: what is stored in the run's file, in little-endian words. */
  readonly words: Uint32Array
  readonly #blocks: number

  constructor(words: Uint32Array) {
    this.words = words
    this.#blocks = words.length / BLOCK_WORDS
  }

  static forChunks(count: number): ChunkFilter {
    return new ChunkFilter(new Uint32Array(filterBlocks(count) * BLOCK_WORDS))
  }

  /** The digest is the 32 bytes at `at`. */
  add(bytes: Buffer, at: number): void {
    const block = this.#block(bytes, at)
    for (let probe = 0; probe < PROBES; probe++) {
      const bit = bytes.readUInt16LE(at + BITS_AT + probe * 2) & (BLOCK_BITS - 1)
      const word = block + (bit >>> 5)
      this.words[word] = (this.words[word] ?? 0) | (1 << (bit & 31))
    }
  }

  /** False: the digest was never added. True: it was, or one time in about 200 it was not. */
  mayHave(bytes: Buffer, at: number): boolean {
    const block = this.#block(bytes, at)
    for (let probe = 0; probe < PROBES; probe++) {
      const bit = bytes.readUInt16LE(at + BITS_AT + probe * 2) & (BLOCK_BITS - 1)
      if (((this.words[block + (bit >>> 5)] ?? 0) & (1 << (bit & 31))) === 0) return false
    }
    return true
  }

  #block(bytes: Buffer, at: number): number {
    const share = bytes.readUInt32LE(at + BLOCK_AT) / TWO_32
    return Math.floor(share * this.#blocks) * BLOCK_WORDS
  }
}

/** Blocks of a filter for so many chunks. */
export function filterBlocks(count: number): number {
  return Math.max(1, Math.ceil((count * BITS_PER_CHUNK) / BLOCK_BITS))
}
