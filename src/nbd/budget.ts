/**
 * The bound on reply bytes over all connections of a server. Every connection has a little of its own; what it holds
 * beyond that comes out of the budget. Who finds it used up waits here, and they are served in the order of their
 * coming: a large read is not overtaken by small ones for ever.
 */

/** What a connection may hold without asking, so that it can read a little even when others have used up the budget. */
const OWN_BYTES = 128 * 1024
/**
 * What a read counts at least: one that waits costs its provider a place in its queues and as a rule a page of its
 * memory, however little it asks for. Thousands of small reads would else be let in for a few megabytes.
 */
const MIN_CHARGE_BYTES = 32 * 1024
/**
 * The largest part of the budget that one read counts. A larger one does not wait, with everybody behind it, until all
 * others are done; replies of that size are streamed in pieces rather than held.
 */
const READ_PART = 1 / 4

export class Budget {
  readonly limit: number
  readonly #maxCharge: number
  #used = 0
  readonly #waiters = new Set<() => void>()

  constructor(limit: number) {
    this.limit = limit
    this.#maxCharge = Math.ceil(limit * READ_PART)
  }

  get used(): number {
    return this.#used
  }

  /** What a read of `length` bytes counts. */
  charge(length: number): number {
    return Math.min(Math.max(length, MIN_CHARGE_BYTES), this.#maxCharge)
  }

  /** True if `bytes` may be taken by the one who would wait with `wake`. */
  fits(bytes: number, wake: () => void): boolean {
    const first = this.#first()
    if (first !== undefined && first !== wake) return false
    return this.#used + bytes <= this.limit
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
    if (this.#used < this.limit) this.#first()?.()
  }

  /** Without an iterator, which is an object, while nobody waits. */
  #first(): (() => void) | undefined {
    if (this.#waiters.size === 0) return undefined
    const [first] = this.#waiters
    return first
  }
}

/** What one connection holds, as charge() counts it, and its place in the line. */
export class BudgetShare {
  readonly #budget: Budget
  readonly #wake: () => void
  #bytes = 0

  /** `wake`: there may be room for what hasRoom() refused last. */
  constructor(budget: Budget, wake: () => void) {
    this.#budget = budget
    this.#wake = wake
  }

  get bytes(): number {
    return this.#bytes
  }

  charge(length: number): number {
    return this.#budget.charge(length)
  }

  /** True if `bytes` more may be taken now. If not, the connection stands in line, until it has room or leaves. */
  hasRoom(bytes: number): boolean {
    const more = beyondOwn(this.#bytes + bytes) - beyondOwn(this.#bytes)
    if (more === 0 || this.#budget.fits(more, this.#wake)) {
      this.leave()
      return true
    }
    this.#budget.wait(this.#wake)
    return false
  }

  take(bytes: number): void {
    const before = beyondOwn(this.#bytes)
    this.#bytes += bytes
    const more = beyondOwn(this.#bytes) - before
    if (more > 0) this.#budget.take(more)
  }

  give(bytes: number): void {
    const before = beyondOwn(this.#bytes)
    this.#bytes -= bytes
    const less = before - beyondOwn(this.#bytes)
    if (less > 0) this.#budget.give(less)
  }

  /** Waits no longer. */
  leave(): void {
    this.#budget.cancel(this.#wake)
  }

  /** Gives everything back. */
  close(): void {
    this.leave()
    this.give(this.#bytes)
  }
}

function beyondOwn(bytes: number): number {
  return Math.max(0, bytes - OWN_BYTES)
}
