/**
 * The bound on reply bytes over all connections of a server. A connection that finds it used up waits here
 * and is woken in turn when bytes come back.
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

  fits(bytes: number): boolean {
    return this.#used + bytes <= this.limit
  }

  take(bytes: number): void {
    this.#used += bytes
  }

  /** Gives bytes back and wakes those who wait, first come first served, while there is room. */
  give(bytes: number): void {
    this.#used -= bytes
    if (this.#waiters.size === 0) return
    for (const wake of this.#waiters) {
      if (!this.fits(1)) return
      this.#waiters.delete(wake)
      wake()
    }
  }

  /** Calls `wake` once when bytes have come back. The same function waits once only. */
  wait(wake: () => void): void {
    this.#waiters.add(wake)
  }

  cancel(wake: () => void): void {
    this.#waiters.delete(wake)
  }
}
