/**
 * Counts the requests of one session into the server's counter row. Plain additions; the meaning of the
 * columns is in counters.ts.
 */
import type { NbdCounters } from './counters.ts'
import { commandIndex, errorColumn, latencyBucket, NBD_COUNTER, sizeBucket } from './counters.ts'
import type { NbdErrno } from './protocol.ts'

/** `row[column] += amount`, for an index that the compiler cannot know to be inside. */
export function count(row: NbdCounters, column: number, amount: number): void {
  row[column] = (row[column] ?? 0) + amount
}

export class Meter {
  readonly #row: NbdCounters
  /** What this session has added to the gauges. */
  #inFlight = 0
  #inFlightBytes = 0
  #requests = 0
  #readBytes = 0
  #errors = 0

  constructor(row: NbdCounters) {
    this.#row = row
  }

  get requests(): number {
    return this.#requests
  }

  get readBytes(): number {
    return this.#readBytes
  }

  get errors(): number {
    return this.#errors
  }

  request(type: number): void {
    this.#requests++
    count(this.#row, NBD_COUNTER.REQUESTS + commandIndex(type), 1)
  }

  readAsked(length: number): void {
    count(this.#row, NBD_COUNTER.READ_SIZE + sizeBucket(length), 1)
    count(this.#row, NBD_COUNTER.READ_SIZE_SUM, length)
  }

  error(type: number, errno: NbdErrno): void {
    this.#errors++
    count(this.#row, errorColumn(type, errno), 1)
  }

  readServed(length: number): void {
    this.#readBytes += length
    count(this.#row, NBD_COUNTER.READ_BYTES, length)
  }

  /** `reads` READs took `ms` milliseconds each. */
  latency(ms: number, reads: number): void {
    const seconds = ms / 1000
    count(this.#row, NBD_COUNTER.READ_LATENCY + latencyBucket(seconds), reads)
    count(this.#row, NBD_COUNTER.READ_LATENCY_SUM, seconds * reads)
  }

  /** Brings the gauges to what is in flight now. */
  inFlight(requests: number, bytes: number): void {
    if (requests !== this.#inFlight) {
      count(this.#row, NBD_COUNTER.IN_FLIGHT, requests - this.#inFlight)
      this.#inFlight = requests
    }
    if (bytes !== this.#inFlightBytes) {
      count(this.#row, NBD_COUNTER.IN_FLIGHT_BYTES, bytes - this.#inFlightBytes)
      this.#inFlightBytes = bytes
    }
  }
}
