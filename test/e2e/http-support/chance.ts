/** Seeded choices for fuzzing: the same seed gives the same bytes, splits and endings on every machine. */

export class Chance {
  #state: number

  constructor(seed: number) {
    // Seeds of runs follow one another: spread them (splitmix32's constants), and never start at zero.
    this.#state = (Math.imul(seed ^ (seed >>> 16), 0x21f0aaad) ^ 0x9e3779b9) >>> 0 || 1
  }

  /** An integer in [0, below). */
  below(below: number): number {
    let x = this.#state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.#state = x >>> 0
    return this.#state % below
  }

  of<T>(first: T, ...rest: readonly T[]): T {
    return [first, ...rest][this.below(rest.length + 1)] ?? first
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)))
  }
}
