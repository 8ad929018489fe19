/** Seeded choices for tests: the same seed gives the same numbers, bytes and turns on every machine. */

import { createCipheriv } from 'node:crypto'

/** xorshift32. Seeds that follow one another give alike beginnings: see `spreadSeed`. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1
  }

  /** An integer in [0, below). */
  next(below: number): number {
    let x = this.#state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.#state = x >>> 0
    return this.#state % below
  }

  bytes(length: number): Buffer {
    const out = Buffer.allocUnsafe(length) // overwritten whole by the loop
    for (let i = 0; i < length; i++) out[i] = this.next(256)
    return out
  }

  of<T>(first: T, ...rest: readonly T[]): T {
    return [first, ...rest][this.next(rest.length + 1)] ?? first
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.next(times) === 0
  }
}

/** Makes seeds that follow one another unlike (splitmix32's constants). */
export function spreadSeed(seed: number): number {
  return (Math.imul(seed ^ (seed >>> 16), 0x21f0aaad) ^ 0x9e3779b9) >>> 0
}

/** Many bytes that look random, hundreds of megabytes a second: AES-128 in counter mode, keyed with the seed. */
export function seededBytes(seed: number, length: number): Buffer {
  const key = Buffer.alloc(16)
  key.writeUInt32LE(seed >>> 0)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))
}
