/**
 * The word operations by which readers and the keeper share a frame. One Int32 holds the number of pins and
 * the EVICTING bit, and is changed by atomic read-modify-write only: no plain or atomic store, because a reader
 * that lost a race may hold a transient pin at any moment, and a store would erase it.
 *
 * Reader:  look up → `pin` → re-read the key → use → `unpin`
 * Keeper:  `claim` (only from 0) → remove the index entry, rewrite key and bytes → `publish`
 *
 * A frame whose EVICTING bit is set belongs to the keeper alone; a frame without it has a stable key while any
 * pin is held. docs/adr/0002 has the argument, test/cache/pin-interleaving.test.ts the proof.
 */

/** Above every possible number of pins, below the sign bit. */
export const EVICTING = 1 << 30

/**
 * Takes a pin. False: the keeper owns the frame; nothing is held. True: a pin is held, but the frame may have
 * been given to another page since it was looked up, so the caller has to compare the key again.
 */
export function pin(words: Int32Array, at: number): boolean {
  if (addPin(words, at)) return true
  unpin(words, at)
  return false
}

/** The first step of `pin`, which leaves a pin even when it says false. */
export function addPin(words: Int32Array, at: number): boolean {
  return (Atomics.add(words, at, 1) & EVICTING) === 0
}

export function unpin(words: Int32Array, at: number): void {
  Atomics.sub(words, at, 1)
}

/** The keeper takes an unpinned frame for itself. False: somebody holds a pin, or it has it already. */
export function claim(words: Int32Array, at: number): boolean {
  return Atomics.compareExchange(words, at, 0, EVICTING) === 0
}

/** Like `claim` for a frame that no index entry ever pointed to. */
export function claimUnused(words: Int32Array, at: number): void {
  Atomics.or(words, at, EVICTING)
}

/** Hands a claimed frame to readers, with `pins` pins taken for those who wait for it. */
export function publish(words: Int32Array, at: number, pins: number): void {
  if (pins > 0) Atomics.add(words, at, pins)
  Atomics.and(words, at, ~EVICTING)
}

export function pinsOf(word: number): number {
  return word & (EVICTING - 1)
}
