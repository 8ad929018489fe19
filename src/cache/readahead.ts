/**
 * Sequential readahead: what to bring in before it is asked for. One state per open handle, because two readers
 * of one file are two sequences. It looks at blob addresses: import lays chunks down in the order of the files,
 * so a file read in order is a blob read in order.
 */
import { KIB, MIB } from '../core/index.ts'
import type { RunList } from './run-list.ts'

const FIRST_WINDOW_BYTES = 128 * KIB
const MAX_WINDOW_BYTES = MIB
/** A request continues the last one if it starts at most so far behind its end: files are padded, and chunks known from elsewhere are skipped. */
const SLACK_BYTES = 64 * KIB
/** Requests in sequence, the first included, before anything is read ahead. */
const MIN_SEQUENCE = 2

/** A range of a blob's address space; it may reach behind the blob's end. */
export interface ReadaheadRange {
  readonly blobNo: number
  readonly offset: number
  readonly length: number
}

export class SequentialState {
  #blobNo = 0
  /** Where the next request of the sequence starts. */
  #next = 0
  #sequence = 0
  #window = 0
  /** Up to here has been asked for. */
  #ahead = 0

  /**
   * Notes a request. @returns what to read ahead now: nothing for the first requests and random ones, else the
   * next window once half of the last one has been read
   */
  advance(runs: RunList): ReadaheadRange | undefined {
    let first = 0
    while (first < runs.count && runs.blobNo(first) === 0) first++
    if (first === runs.count) return undefined
    let last = runs.count - 1
    while (runs.blobNo(last) === 0) last--
    const distance = runs.offset(first) - this.#next
    const continues =
      runs.blobNo(first) === this.#blobNo && distance >= 0 && distance <= SLACK_BYTES
    this.#blobNo = runs.blobNo(last)
    this.#next = runs.offset(last) + runs.length(last)
    if (!continues || runs.blobNo(first) !== this.#blobNo) {
      this.#sequence = 1
      this.#window = 0
      this.#ahead = 0
      return undefined
    }
    this.#sequence++
    if (this.#sequence < MIN_SEQUENCE) return undefined
    if (this.#ahead - this.#next > this.#window / 2) return undefined
    this.#window = Math.min(Math.max(this.#window * 2, FIRST_WINDOW_BYTES), MAX_WINDOW_BYTES)
    const offset = Math.max(this.#ahead, this.#next)
    const length = this.#next + this.#window - offset
    this.#ahead = offset + length
    return length > 0 ? { blobNo: this.#blobNo, offset, length } : undefined
  }
}
