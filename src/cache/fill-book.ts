/**
 * Pages on their way into memory: one fill per page, from the moment it has a frame until it is published or
 * given up. The only code that writes a frame's key and puts it into the index. Who waits for a fill is noted in
 * it, but answered by the keeper.
 */
import type { BlobRecord } from './blob-table.ts'
import {
  CACHE_COUNTER,
  count,
  DOMAIN_COUNTER,
  domainColumn,
  FILL_KINDS,
  FILL_SECONDS_BOUNDS,
  type FillKind,
} from './counters.ts'
import type { EpochLedger } from './epoch-ledger.ts'
import type { FramePool } from './frame-pool.ts'
import { FRAME, recordOf } from './frame-table.ts'
import type { Grant } from './grant.ts'
import { GRANTED } from './messages.ts'
import type { PageIndex } from './page-index.ts'
import { publish } from './pin-protocol.ts'
import type { CachePolicy } from './policy.ts'

/** The queue that a fill is in, and later the list of its thread: pages that somebody waits for, and the others. */
export type FillLane = 'demand' | 'background'

export interface Fill {
  readonly frame: number
  readonly blob: BlobRecord
  readonly pageNo: number
  readonly validBytes: number
  readonly kind: FillKind
  /** On whose behalf: the image of the read that it was begun for, or that took it over. 0: none */
  imageId: number
  readonly startedMs: number
  /** Grants that are not answered, in the order in which they came, with the page's position in each. */
  readonly waiters: Map<Grant, number>
  /** Number of the fill thread that has it; -1: none yet. */
  thread: number
  /** By its kind, unless it was promoted before a thread had it. */
  lane: FillLane
}

export interface FillBookParts {
  readonly frameSize: number
  readonly table: Int32Array
  readonly index: PageIndex
  readonly pool: FramePool
  readonly policy: CachePolicy
  readonly ledger: EpochLedger
  readonly counters: Float64Array
  readonly now: () => number
}

export class FillBook {
  readonly #parts: FillBookParts
  readonly #fills = new Map<number, Fill>()
  #background = 0

  constructor(parts: FillBookParts) {
    this.#parts = parts
  }

  /** The fill that owns the frame, if one does. */
  at(frame: number): Fill | undefined {
    return this.#fills.get(frame)
  }

  /** Pages in flight that were begun for somebody. */
  get demand(): number {
    return this.#fills.size - this.#background
  }

  /** Readahead and prefetch pages in flight. */
  get background(): number {
    return this.#background
  }

  /** Gives the page a frame and a place in the index. Undefined: no frame can be had now. */
  begin(blob: BlobRecord, pageNo: number, kind: FillKind, imageId: number): Fill | undefined {
    const { pool, table, index, frameSize, counters } = this.#parts
    const frame = pool.take()
    if (frame < 0) return undefined
    const record = recordOf(frame)
    const validBytes = blob.validLength(pageNo, frameSize)
    Atomics.store(table, record + FRAME.PAGE, pageNo)
    Atomics.store(table, record + FRAME.BLOB, blob.blobNo)
    Atomics.store(table, record + FRAME.VALID, validBytes)
    if (!index.insert(frame)) {
      pool.free(frame)
      return undefined
    }
    const startedMs = this.#parts.now()
    const fill: Fill = {
      frame,
      blob,
      pageNo,
      validBytes,
      kind,
      imageId,
      startedMs,
      waiters: new Map(),
      thread: -1,
      lane: kind === 'demand' ? 'demand' : 'background',
    }
    this.#fills.set(frame, fill)
    if (kind !== 'demand') this.#background++
    count(counters, CACHE_COUNTER.FILLS_IN_FLIGHT)
    return fill
  }

  /**
   * The grant does not wait for the fill any more. If it was begun for it, the next in line takes over: that
   * one's read has missed, and brings the page in for its image. @returns false if it did not wait
   */
  leave(fill: Fill, grant: Grant): boolean {
    const position = fill.waiters.get(grant)
    if (position === undefined) return false
    fill.waiters.delete(grant)
    if (grant.how[position] === GRANTED.FILLED) {
      const [heir] = fill.waiters
      fill.imageId = heir?.[0].imageId ?? 0
      if (heir !== undefined) heir[0].how[heir[1]] = GRANTED.FILLED
    }
    return true
  }

  /** Ends a fill without a page: it failed, or was never started. */
  giveUp(fill: Fill): void {
    this.#end(fill)
    this.#parts.index.remove(fill.frame)
    this.#parts.pool.free(fill.frame)
  }

  /** Hands a filled and verified page to readers, pinned once for each waiter. */
  publish(fill: Fill): void {
    const { table, policy, ledger, counters, frameSize } = this.#parts
    const { frame, blob, pageNo, validBytes, kind, imageId } = fill
    this.#end(fill)
    const pins = fill.waiters.size
    for (const [grant, position] of fill.waiters) grant.hold(position, frame)
    if (ledger.isRefill(blob, pageNo)) count(counters, CACHE_COUNTER.REFILLS)
    const record = recordOf(frame)
    const unread = kind === 'readahead' && pins === 0
    Atomics.store(table, record + FRAME.FILLER, ledger.onFill(blob, pageNo, validBytes, imageId))
    Atomics.store(table, record + FRAME.READAHEAD, unread ? 1 : 0)
    policy.onFill(frame)
    publish(table, record, pins)
    if (kind === 'readahead' && !unread) count(counters, CACHE_COUNTER.READAHEAD_USED)
    count(counters, CACHE_COUNTER.FILLS + FILL_KINDS.indexOf(kind))
    count(counters, CACHE_COUNTER.FILL_BYTES, validBytes)
    count(counters, CACHE_COUNTER.RESIDENT_FRAMES)
    count(counters, domainColumn(blob.domainNo) + DOMAIN_COUNTER.RESIDENT_BYTES, frameSize)
    this.#countDuration((this.#parts.now() - fill.startedMs) / 1000)
  }

  #end(fill: Fill): void {
    this.#fills.delete(fill.frame)
    if (fill.kind !== 'demand') this.#background--
    count(this.#parts.counters, CACHE_COUNTER.FILLS_IN_FLIGHT, -1)
  }

  #countDuration(seconds: number): void {
    const bound = FILL_SECONDS_BOUNDS.findIndex((limit) => seconds <= limit)
    const bucket = bound < 0 ? FILL_SECONDS_BOUNDS.length : bound
    count(this.#parts.counters, CACHE_COUNTER.FILL_DURATION + bucket)
    count(this.#parts.counters, CACHE_COUNTER.FILL_SECONDS_SUM, seconds)
  }
}
