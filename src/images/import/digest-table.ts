/**
 * The chunks that one import has stored itself: sha256 → row number. Open addressing in typed arrays,
 * 32 bytes of digest and at most 16 bytes of slots a row, because a JavaScript Map of digests would cost
 * four times as much and ends at 16.7 million keys.
 */
import { DIGEST_BYTES } from '../../core/index.ts'

const WORDS = DIGEST_BYTES / 4
const FIRST_SLOTS = 4096
const FREE = 0

export class DigestTable {
  #digests = new Uint32Array((FIRST_SLOTS / 2) * WORDS)
  /** Row + 1; FREE when empty. At most half full. */
  #slots = new Uint32Array(FIRST_SLOTS)
  #rows = 0
  readonly #key = new Uint32Array(WORDS)
  readonly #keyBytes = new Uint8Array(this.#key.buffer)

  get rows(): number {
    return this.#rows
  }

  /** The row of a digest, or −1. `digest` has 32 bytes. */
  find(digest: Uint8Array): number {
    this.#keyBytes.set(digest)
    const slot = this.#slots[this.#probe()] ?? FREE
    return slot === FREE ? -1 : slot - 1
  }

  /** Adds a digest that is not in the table and returns its row: 0, 1, 2, … */
  add(digest: Uint8Array): number {
    if ((this.#rows + 1) * 2 > this.#slots.length) this.#grow()
    this.#keyBytes.set(digest)
    const row = this.#rows++
    this.#digests.set(this.#key, row * WORDS)
    this.#slots[this.#probe()] = row + 1
    return row
  }

  /** The 32 bytes of a row's digest, in the table's own memory. */
  digestAt(row: number): Uint8Array {
    return new Uint8Array(this.#digests.buffer, row * DIGEST_BYTES, DIGEST_BYTES)
  }

  /** The slot of #key, or the free one where it belongs. */
  #probe(): number {
    const mask = this.#slots.length - 1
    // sha256 is uniform: any of its words is a hash.
    let at = (this.#key[0] ?? 0) & mask
    for (;;) {
      const slot = this.#slots[at] ?? FREE
      if (slot === FREE || this.#equals(slot - 1)) return at
      at = (at + 1) & mask
    }
  }

  #equals(row: number): boolean {
    const base = row * WORDS
    for (let word = 0; word < WORDS; word++) {
      if (this.#digests[base + word] !== this.#key[word]) return false
    }
    return true
  }

  #grow(): void {
    const digests = new Uint32Array(this.#digests.length * 2)
    digests.set(this.#digests)
    this.#digests = digests
    this.#slots = new Uint32Array(this.#slots.length * 2)
    for (let row = 0; row < this.#rows; row++) {
      this.#key.set(this.#digests.subarray(row * WORDS, (row + 1) * WORDS))
      this.#slots[this.#probe()] = row + 1
    }
  }
}
