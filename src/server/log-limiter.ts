/**
 * Keeps a storm of equal events from flooding the log: of each kind the first few of an interval are written, and
 * the first after it says how many were left out. It writes nothing itself.
 */

/** Kinds are codes and event names, a closed set; this only bounds a mistake. */
const MAX_KINDS = 1000

export interface LogLimiterOptions {
  /** Events of one kind that are written in each interval. */
  readonly burst?: number
  readonly intervalMs?: number
  /** Milliseconds of a monotonic clock. */
  readonly now?: () => number
}

interface Window {
  since: number
  admitted: number
  suppressed: number
}

export class LogLimiter {
  readonly #burst: number
  readonly #intervalMs: number
  readonly #now: () => number
  readonly #windows = new Map<string, Window>()

  constructor(options: LogLimiterOptions = {}) {
    this.#burst = options.burst ?? 5
    this.#intervalMs = options.intervalMs ?? 10_000
    this.#now = options.now ?? (() => performance.now())
  }

  /**
   * Fields to add to the line of an event of this kind, `suppressed` among them when events before it were left
   * out; undefined: leave this one out as well.
   */
  admit(kind: string): { readonly suppressed?: number } | undefined {
    const now = this.#now()
    let window = this.#windows.get(kind)
    if (window === undefined || now - window.since >= this.#intervalMs) {
      const suppressed = window?.suppressed ?? 0
      if (this.#windows.size >= MAX_KINDS) this.#windows.clear()
      window = { since: now, admitted: 1, suppressed: 0 }
      this.#windows.set(kind, window)
      return suppressed === 0 ? {} : { suppressed }
    }
    if (window.admitted < this.#burst) {
      window.admitted++
      return {}
    }
    window.suppressed++
    return undefined
  }
}
