/**
 * A set of inode numbers in flat memory: open addressing over 64-bit floats. A Set of numbers would take
 * several times the memory and stops at 16.7 million members.
 */
import type { Nid } from './nid.ts'

const INITIAL_SLOTS = 1024
/** Beyond 3/4 full, probes grow long. */
const MAX_LOAD = 0.75
/** 2^32 / golden ratio: spreads neighbouring numbers over the table (Knuth, volume 3, 6.4). */
const MULTIPLIER = 0x9e3779b1

/** 11 to 22 bytes a member; while it grows, half as much again. */
export class NidSet {
  /** nid + 1, so that 0 is an empty slot. */
  #slots = new Float64Array(INITIAL_SLOTS)
  #size = 0

  get size(): number {
    return this.#size
  }

  has(nid: Nid): boolean {
    return this.#slots[this.#find(nid + 1)] === nid + 1
  }

  /** True when the nid was not in the set yet. */
  add(nid: Nid): boolean {
    const slot = this.#find(nid + 1)
    if (this.#slots[slot] !== 0) return false
    this.#slots[slot] = nid + 1
    this.#size++
    if (this.#size > this.#slots.length * MAX_LOAD) this.#grow()
    return true
  }

  /** The slot that holds `key`, or the empty one where it belongs. */
  #find(key: number): number {
    const mask = this.#slots.length - 1
    // Both halves count: metabox numbers differ from plain ones in the high half only.
    const mixed = Math.imul((key % 0x1_0000_0000) ^ (key / 0x1_0000_0000), MULTIPLIER)
    let slot = (mixed ^ (mixed >>> 15)) & mask
    for (let held = this.#slots[slot]; held !== 0 && held !== key; held = this.#slots[slot]) {
      slot = (slot + 1) & mask
    }
    return slot
  }

  #grow(): void {
    const old = this.#slots
    this.#slots = new Float64Array(old.length * 2)
    for (const key of old) {
      if (key !== 0) this.#slots[this.#find(key)] = key
    }
  }
}
