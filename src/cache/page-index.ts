/**
 * The index from (blobNo, pageNo) to a frame: open addressing with linear probing in shared memory. A slot
 * holds frame + 1 and nothing else; the key is compared in the frame's record. The keeper alone writes. Readers
 * may miss an entry that is being moved, or meet one that is going away: they verify the key after pinning, and
 * a false miss is answered by the keeper, whose own look-ups are exact.
 */
import { FRAME, FRAME_WORDS, holdsPage } from './frame-table.ts'

/**
 * Longest probe. At the load of at most one half that `indexSlots` gives, a run of 128 taken slots is about
 * 1e-9 likely for a million pages; the keeper treats it like a lack of frames.
 */
export const MAX_PROBE = 128

/** Slots for a number of frames: a power of two, at most half full. */
export function indexSlots(frames: number): number {
  return 2 ** Math.ceil(Math.log2(frames * 2))
}

/** Seeded, so that nobody who chooses what is read can choose collisions. */
function hashPage(seed: number, blobNo: number, pageNo: number): number {
  let h = Math.imul(blobNo ^ seed, 0x9e3779b1) ^ Math.imul(pageNo + seed, 0x85ebca77)
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d)
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39)
  return h ^ (h >>> 15)
}

export class PageIndex {
  readonly #slots: Int32Array
  readonly #table: Int32Array
  readonly #mask: number
  readonly #seed: number

  constructor(slots: Int32Array, table: Int32Array, seed: number) {
    this.#slots = slots
    this.#table = table
    this.#mask = slots.length - 1
    this.#seed = seed
  }

  /** The frame of the page, or -1. For readers a hint, for the keeper exact. */
  find(blobNo: number, pageNo: number): number {
    const slots = this.#slots
    const table = this.#table
    let slot = hashPage(this.#seed, blobNo, pageNo) & this.#mask
    for (let probe = 0; probe < MAX_PROBE; probe++) {
      const entry = slots[slot] ?? 0
      if (entry === 0) return -1
      if (holdsPage(table, entry - 1, blobNo, pageNo)) return entry - 1
      slot = (slot + 1) & this.#mask
    }
    return -1
  }

  /** Keeper only; the frame's record must hold the key. False: no slot within the probe bound. */
  insert(frame: number): boolean {
    let slot = this.#home(frame)
    for (let probe = 0; probe < MAX_PROBE; probe++) {
      if (this.#slots[slot] === 0) {
        Atomics.store(this.#slots, slot, frame + 1)
        return true
      }
      slot = (slot + 1) & this.#mask
    }
    return false
  }

  /**
   * Keeper only; the frame's record must still hold the key. Later entries of the run move back into the hole
   * (Knuth, TAOCP 6.4, algorithm R), so the index needs no tombstones and never degrades.
   */
  remove(frame: number): void {
    let hole = this.#home(frame)
    for (let probe = 0; this.#slots[hole] !== frame + 1; probe++) {
      if (probe === MAX_PROBE) throw new Error(`frame ${frame} is not in the index`)
      hole = (hole + 1) & this.#mask
    }
    let next = (hole + 1) & this.#mask
    for (;;) {
      const entry = this.#slots[next] ?? 0
      if (entry === 0) break
      const distance = (next - this.#home(entry - 1)) & this.#mask
      if (distance >= ((next - hole) & this.#mask)) {
        Atomics.store(this.#slots, hole, entry)
        hole = next
      }
      next = (next + 1) & this.#mask
    }
    Atomics.store(this.#slots, hole, 0)
  }

  #home(frame: number): number {
    const record = frame * FRAME_WORDS
    const blobNo = this.#table[record + FRAME.BLOB] ?? 0
    const pageNo = this.#table[record + FRAME.PAGE] ?? 0
    return hashPage(this.#seed, blobNo, pageNo) & this.#mask
  }
}
