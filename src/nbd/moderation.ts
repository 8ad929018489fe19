/**
 * Moderation, as network cards do it with interrupts: a client that keeps many small reads in flight sends them one
 * by one, so an event loop that serves each at once pays a receive and a write for hardly more than one read, and
 * wakes the client as often. Resting for a moment between two receives lets them gather, which takes half of the
 * processor time off the server, and some off the client. It pays only while the client has enough in flight to stay
 * busy meanwhile. That cannot be seen from here, so it is probed: after a longer rest, what has gathered is all that
 * the client has. One moderator serves all connections of a thread; it knows nothing of what they do.
 */

/** How long a rest is asked to take. The kernel's timer slack, 50 µs on Linux, comes on top. */
const REST_MS = 0.04
/**
 * Long enough for a client to send all that it wants to have in flight, in two receives: TCP's congestion window holds
 * back what is above a dozen small segments until the first receive has acknowledged them.
 */
const PROBE_MS = 0.25
/** A probe is due so long after the one before; what it says holds until the next. */
const PROBE_EVERY_MS = 100
/** Fewer receives between two probes are not worth moderating. */
const MIN_RECEIVES = 100
/** Receives between two probes that may have been for something else, or have found the client run dry. */
const MAX_INTERRUPTIONS = 20
/** Reads per receive from which a client is known to keep more than one in flight. */
const MIN_MEAN_READS = 1.1
/** A rest gathers about a dozen reads of a fast client, who needs as many again to be busy with meanwhile. */
const MIN_DEPTH = 24
/** A receive of less than this part of what the client has in flight is worth a rest. */
const FEW = 0.25
/** The largest part of what the client has in flight that may gather: with more it has run dry. */
const MAX_GATHERED = 0.9

/** What the moderator needs of its surroundings; replaced in tests. */
export interface ModerationClock {
  /** Stops the thread for `ms` milliseconds, or somewhat longer. */
  sleep(ms: number): void
}

const neverNotified = new Int32Array(new SharedArrayBuffer(4))
const CLOCK: ModerationClock = { sleep: (ms) => void Atomics.wait(neverNotified, 0, 0, ms) }

export class Moderator {
  readonly #clock: ModerationClock
  /** The connection that was served last: while several take turns, their reads gather by themselves. */
  #connection = 0
  #nextProbe = 0
  #receives = 0
  #reads = 0
  #interruptions = 0
  /** Reads that the client keeps in flight, by the last probe. */
  #depth = 0
  #resting = false
  #last: 'none' | 'rest' | 'probe' | 'probed' = 'none'

  constructor(clock: ModerationClock = CLOCK) {
    this.#clock = clock
  }

  /**
   * One receive of a connection has been answered whole, by `reads` small reads from memory, at `now` (milliseconds).
   * May stop the thread for half a millisecond.
   */
  served(connection: number, reads: number, now: number): void {
    if (connection !== this.#connection) {
      this.#connection = connection
      this.#startWindow(now)
      return
    }
    this.#judge(reads)
    this.#receives++
    this.#reads += reads
    if (now >= this.#nextProbe) {
      const probe = this.#pays()
      this.#startWindow(now)
      if (probe) this.#rest('probe', PROBE_MS)
    } else if (this.#resting && reads < this.#depth * FEW) {
      this.#rest('rest', REST_MS)
    }
  }

  /** A receive asked for something else than small reads from memory, or could not be answered whole. */
  interrupted(): void {
    this.#last = 'none'
    if (++this.#interruptions > MAX_INTERRUPTIONS) this.#resting = false
  }

  #startWindow(now: number): void {
    this.#nextProbe = now + PROBE_EVERY_MS
    this.#receives = 0
    this.#reads = 0
    this.#interruptions = 0
    this.#resting = false
    this.#last = 'none'
  }

  /** Whether what was served since the last probe makes another one worth its time. */
  #pays(): boolean {
    return (
      this.#receives >= MIN_RECEIVES &&
      this.#reads >= this.#receives * MIN_MEAN_READS &&
      this.#interruptions <= MAX_INTERRUPTIONS
    )
  }

  /** Draws from what has gathered since the last rest. */
  #judge(reads: number): void {
    if (this.#last === 'probe') {
      this.#depth = reads
      this.#last = 'probed'
      return
    }
    if (this.#last === 'probed') {
      this.#depth += reads
      this.#resting = this.#depth >= MIN_DEPTH
    } else if (this.#last === 'rest' && reads > this.#depth * MAX_GATHERED) {
      this.interrupted()
    }
    this.#last = 'none'
  }

  #rest(kind: 'rest' | 'probe', ms: number): void {
    this.#last = kind
    this.#clock.sleep(ms)
  }
}
