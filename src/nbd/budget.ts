/**
 * The bound on reply bytes over all connections of a server. A connection that finds it used up waits here, and
 * they are served in the order of their coming: a large read is not overtaken by small ones for ever.
 */
export class Budget {
  readonly limit: number
  #used = 0
  readonly #waiters = new Set<() => void>()

  constructor(limit: number) {
    this.limit = limit
  }

  get used(): number {
    return this.#used
  }

  /** True if `bytes` may be taken by the one who would wait with `wake`. More than the limit fits alone. */
  fits(bytes: number, wake: () => void): boolean {
    const [first] = this.#waiters
    if (first !== undefined && first !== wake) return false
    return this.#used === 0 || this.#used + bytes <= this.limit
  }

  take(bytes: number): void {
    this.#used += bytes
  }

  give(bytes: number): void {
    this.#used -= bytes
    this.#wakeFirst()
  }

  /** Calls `wake` when there may be room for it, perhaps several times, until cancel(). */
  wait(wake: () => void): void {
    this.#waiters.add(wake)
  }

  /** It has what it waited for, or waits no longer. */
  cancel(wake: () => void): void {
    if (this.#waiters.delete(wake)) this.#wakeFirst()
  }

  #wakeFirst(): void {
    if (this.#used >= this.limit) return
    const [first] = this.#waiters
    first?.()
  }
}
