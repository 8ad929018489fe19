/**
 * Which page goes when memory is needed. Hits happen in other threads, so a policy sees only the use counters
 * that readers leave in the frame table, a sample of the hits, and every fill. The simulator drives these same
 * classes under the same limits.
 */
import { FRAME, MAX_USE, recordOf } from './frame-table.ts'

export interface CachePolicy {
  /** `onSample` gets one hit of about so many; 0: none. */
  readonly sampleEvery: number
  /** A hit that was sampled. They come in bunches, before a victim is asked for, and some are lost. */
  onSample(blobNo: number, pageNo: number): void
  onFill(frame: number): void
  /**
   * The frame to evict, or -1 if none can be. `canEvict` takes the frame for the keeper when it says true, so
   * that frame must be returned.
   */
  nextVictim(canEvict: (frame: number) => boolean): number
}

/**
 * Second chance (Corbató 1968; with counters it is GCLOCK, Smith 1978): a hand goes round the frames; a page used
 * since the last round loses one use and stays, an unused one goes. Samples are not needed.
 */
export class SecondChance implements CachePolicy {
  /** The use counters say more. */
  readonly sampleEvery = 0
  readonly #table: Int32Array
  readonly #frames: number
  #hand = 0

  constructor(table: Int32Array) {
    this.#table = table
    this.#frames = table.length / recordOf(1)
  }

  onSample(): void {
    // None are asked for.
  }

  /** Starts without credit: a page read once leaves before a page read twice. */
  onFill(frame: number): void {
    this.#table[recordOf(frame) + FRAME.USE] = 0
  }

  /**
   * Gives up after a round in which no frame could lose a use, or after enough rounds to use up every count:
   * readers may add uses faster than the hand takes them.
   */
  nextVictim(canEvict: (frame: number) => boolean): number {
    let idle = 0
    for (let left = this.#frames * (MAX_USE + 2); left > 0 && idle < this.#frames; left--) {
      const frame = this.#hand
      this.#hand = frame + 1 === this.#frames ? 0 : frame + 1
      const record = recordOf(frame)
      const uses = this.#table[record + FRAME.USE] ?? 0
      if (uses > 0) {
        this.#table[record + FRAME.USE] = uses - 1
        idle = this.#table[record + FRAME.STATE] === 0 ? 0 : idle + 1
      } else if (canEvict(frame)) {
        return frame
      } else {
        idle++
      }
    }
    return -1
  }
}
