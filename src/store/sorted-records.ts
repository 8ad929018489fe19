/**
 * Sequences of chunk entries sorted by digest, and their merge: several sorted sequences become one
 * without ever being in memory. What the entries are merged into is the caller's business.
 */
import { DIGEST_BYTES } from '../core/index.ts'
import { CHUNK_ENTRY_BYTES, digestPrefix } from './chunk-record.ts'
import { corrupt } from './errors.ts'
import { readFully } from './spool-file.ts'

/** A position in a sorted sequence of entries. */
export interface SortedCursor {
  /** The current entry is `CHUNK_ENTRY_BYTES` at `at` in `bytes`; valid until the next `advance`. */
  readonly bytes: Buffer
  readonly at: number
  /** Which blob the entry is of, in the numbering of the merge's result. */
  readonly blob: number
  /** Moves to the first or next entry; false at the end. */
  advance(): boolean
}

/** Entries of one read of a table. */
const TABLE_PIECE_ENTRIES = 2048

/** Entries that lie one after another in a file: the chunk table of a blob's index. */
export class TableCursor implements SortedCursor {
  readonly blob: number
  readonly bytes = Buffer.allocUnsafe(TABLE_PIECE_ENTRIES * CHUNK_ENTRY_BYTES)
  readonly #fd: number
  readonly #what: string
  #position: number
  #remaining: number
  #end = 0
  at = -CHUNK_ENTRY_BYTES

  /** @param position of the first entry in the file */
  constructor(fd: number, position: number, count: number, blob: number, what: string) {
    this.#fd = fd
    this.#position = position
    this.#remaining = count
    this.blob = blob
    this.#what = what
  }

  advance(): boolean {
    this.at += CHUNK_ENTRY_BYTES
    if (this.at < this.#end) return true
    if (this.#remaining === 0) return false
    const count = Math.min(TABLE_PIECE_ENTRIES, this.#remaining)
    this.#end = count * CHUNK_ENTRY_BYTES
    readFully(this.#fd, this.bytes.subarray(0, this.#end), this.#position, this.#what)
    this.#position += this.#end
    this.#remaining -= count
    this.at = 0
    return true
  }
}

/** -1, 0 or 1 as the digest at `a` in `left` sorts before, with or after the one at `b` in `right`. */
export function compareDigests(left: Buffer, a: number, right: Buffer, b: number): number {
  const difference = digestPrefix(left, a) - digestPrefix(right, b)
  if (difference !== 0) return difference < 0 ? -1 : 1
  return left.compare(right, b, b + DIGEST_BYTES, a, a + DIGEST_BYTES)
}

/**
 * Calls `take` for each entry of all cursors in the order of the digests. Of entries with the same
 * digest the one of the earliest cursor is taken: a chunk that is stored twice is found in one place.
 *
 * @throws ERR_STORE_CORRUPT when a cursor is not in ascending order
 */
export function mergeSorted(
  cursors: readonly SortedCursor[],
  take: (bytes: Buffer, at: number, blob: number) => void,
): void {
  // Few cursors (tiers are merged by the handful): the smallest is found by looking at each.
  const live = cursors.filter((cursor) => cursor.advance())
  const last = Buffer.alloc(DIGEST_BYTES)
  let first = true
  for (;;) {
    let least: SortedCursor | undefined
    for (const cursor of live) {
      if (
        least === undefined ||
        compareDigests(cursor.bytes, cursor.at, least.bytes, least.at) < 0
      ) {
        least = cursor
      }
    }
    if (least === undefined) return
    const order = first ? 1 : compareDigests(least.bytes, least.at, last, 0)
    if (order < 0) throw corrupt('a sorted run of chunks', 'its digests do not ascend')
    if (order > 0) {
      take(least.bytes, least.at, least.blob)
      least.bytes.copy(last, 0, least.at, least.at + DIGEST_BYTES)
      first = false
    }
    if (!least.advance()) live.splice(live.indexOf(least), 1)
  }
}
