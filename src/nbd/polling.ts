/**
 * Keeps the event loop awake for a moment after a reply, and while a read waits for the disk, because waking it
 * from epoll costs a dependent read more than serving it. Adaptive: it polls only while what it waits for does come
 * within the window, never for more than a share of the thread's time, and it can be switched off. One poller serves
 * all connections of a thread; it knows nothing of what they do.
 */

export interface PollingOptions {
  /** Microseconds to stay awake after a reply; 50 to 200 pay, the default is 100. */
  readonly windowMicros?: number
  /** The largest part of the thread's time, 0 to 1, that may go into polling. Default 0.75. */
  readonly maxShare?: number
}

const DEFAULT_WINDOW_MICROS = 100
const DEFAULT_MAX_SHARE = 0.75
/**
 * How long to stay awake for a read that is not in memory: a page from a solid-state disk is there by then. It passes
 * through two more threads; while this one occupies its processor they share another one, and hand over without
 * waking any.
 */
const FILL_WINDOW_MS = 0.4
/** Milliseconds over which the share is kept: time saved up beyond it is lost. */
const SHARE_HORIZON_MS = 100
/** Weight of the newest request in the average of requests that came in time: about the last 16 count. */
const LEARNING_RATE = 1 / 16
/** Polling begins above and ends below these parts of requests in time, so that it does not flutter. */
const START_ABOVE = 0.6
const STOP_BELOW = 0.3

/**
 * A turn of polling takes some microseconds. One that takes this long means that the thread lost its
 * processor: a poller uses up the time slice that its next request needs, so that sleeping is better then.
 */
const STALL_MS = 0.5
/** How long it does not poll after a stall; doubled by each stall that follows soon, up to a second, else halved. */
const MIN_PAUSE_MS = 20
/** A stall so soon after a pause means that the processor is still wanted by others. */
const SOON_MS = 20
const MAX_PAUSE_MS = 1000

/** What the poller needs of its surroundings; replaced in tests. */
export interface PollingClock {
  /** Milliseconds with fractions. */
  now(): number
  /** Calls back in the next turn of the event loop, which does not sleep until then. */
  nextTurn(callback: () => void): void
}

const CLOCK: PollingClock = {
  now: () => performance.now(),
  nextTurn: (callback) => void setImmediate(callback),
}

export class Poller {
  readonly #windowMs: number
  readonly #maxShare: number
  readonly #clock: PollingClock
  readonly #onSpent: (seconds: number) => void
  readonly #turn = (): void => this.#onTurn()
  /** Moving average: the part of requests that came within the window after the last reply. */
  #inTime = 0
  /** Moving average: the part of reads not in memory that were answered within their window. Hopeful at first. */
  #fillsInTime = 1
  #lastReply = -Infinity
  /** Since when reads have been waiting for the disk, none of them answered. */
  #waitingSince: number | undefined
  #deadline = 0
  #armed = false
  #lastTurn = 0
  /** Milliseconds of polling that may be spent now. */
  #credit = 0
  #creditAt: number
  #pauseUntil = 0
  #pauseMs = MIN_PAUSE_MS

  constructor(
    options: PollingOptions,
    onSpent: (seconds: number) => void,
    clock: PollingClock = CLOCK,
  ) {
    this.#windowMs = (options.windowMicros ?? DEFAULT_WINDOW_MICROS) / 1000
    this.#maxShare = options.maxShare ?? DEFAULT_MAX_SHARE
    this.#onSpent = onSpent
    this.#clock = clock
    this.#creditAt = clock.now()
  }

  /** True while the loop is being kept awake. */
  get polling(): boolean {
    return this.#armed
  }

  /** Requests have been received at `received` and served by now. */
  served(received: number): void {
    this.#requested(received)
    const now = this.#clock.now()
    this.#lastReply = now
    // Either processor time was lost while serving, or so much was served that waking up hardly counts.
    if (now - received > STALL_MS) this.#pauseUntil = Math.max(this.#pauseUntil, now + MIN_PAUSE_MS)
    this.#stayAwake(now, this.#windowMs)
  }

  /** Requests have been received at `received`, and some of them wait for the disk. */
  waiting(received: number): void {
    this.#requested(received)
    const now = this.#clock.now()
    this.#waitingSince ??= now
    if (this.#fillsInTime >= STOP_BELOW) this.#stayAwake(now, FILL_WINDOW_MS)
  }

  /** Some of the requests that waited for the disk have been served by now; `more` still wait. */
  answered(more: boolean): void {
    const now = this.#clock.now()
    if (this.#waitingSince !== undefined) {
      const inTime = now - this.#waitingSince <= FILL_WINDOW_MS ? 1 : 0
      this.#fillsInTime += (inTime - this.#fillsInTime) * LEARNING_RATE
    }
    this.#waitingSince = more ? now : undefined
    this.#lastReply = now
    this.#stayAwake(now, this.#windowMs)
  }

  #requested(received: number): void {
    const gap = received - this.#lastReply
    this.#inTime += ((gap <= this.#windowMs ? 1 : 0) - this.#inTime) * LEARNING_RATE
  }

  #stayAwake(now: number, windowMs: number): void {
    this.#deadline = now + windowMs
    if (this.#armed) {
      // The time since the last turn went into serving, not into waiting.
      this.#lastTurn = now
      return
    }
    if (this.#inTime < START_ABOVE || !this.#hasCredit(now)) return
    this.#armed = true
    this.#lastTurn = now
    this.#clock.nextTurn(this.#turn)
  }

  #onTurn(): void {
    const now = this.#clock.now()
    const spent = now - this.#lastTurn
    this.#lastTurn = now
    this.#credit -= spent
    this.#onSpent(spent / 1000)
    if (spent > STALL_MS) this.#pause(now)
    if (now < this.#deadline && this.#inTime >= STOP_BELOW && this.#hasCredit(now)) {
      this.#clock.nextTurn(this.#turn)
    } else {
      this.#armed = false
    }
  }

  #pause(now: number): void {
    const soon = now - this.#pauseUntil < SOON_MS
    const factor = soon ? 2 : 0.5
    this.#pauseMs = Math.min(Math.max(this.#pauseMs * factor, MIN_PAUSE_MS), MAX_PAUSE_MS)
    this.#pauseUntil = now + this.#pauseMs
  }

  #hasCredit(now: number): boolean {
    if (now < this.#pauseUntil) return false
    const earned = (now - this.#creditAt) * this.#maxShare
    this.#credit = Math.min(this.#credit + earned, SHARE_HORIZON_MS * this.#maxShare)
    this.#creditAt = now
    return this.#credit > 0
  }
}
