/**
 * How a worker reads: pages in memory are pinned and used on the spot, without a promise, a thread or an
 * allocation per page; for anything else it asks the keeper. One per thread. It decides nothing about the cache
 * and never reads the store.
 */
import type { MessagePort } from 'node:worker_threads'

import { AppError, counterRow, MIB } from '../core/index.ts'
import type { Arena } from './arena.ts'
import { holdsPage, pinPage, recordOf } from './frame-table.ts'
import { KeeperPort } from './keeper-port.ts'
import { CopiedLease, type Lease, PinnedLease } from './lease.ts'
import { type CacheMemory, openCacheMemory } from './memory.ts'
import { GRANTED } from './messages.ts'
import type { PageIndex } from './page-index.ts'
import { type Cursor, PagePlan, ZEROS } from './page-plan.ts'
import { unpin } from './pin-protocol.ts'
import { type ReadContext, ReadLedger } from './read-ledger.ts'
import type { ReadaheadRange } from './readahead.ts'
import type { RunList } from './run-list.ts'
import { SampleWriter } from './sample-ring.ts'

export interface PageReaderOptions {
  readonly memory: CacheMemory
  /** From `KeeperClient.connectReader`. */
  readonly port: MessagePort
  /** 0 to `threads` - 1 of `createCacheMemory`; one reader per row. */
  readonly counterRow: number
  /** Sequential readahead; on unless false. */
  readonly readahead?: boolean
}

export interface ReadOptions {
  readonly signal?: AbortSignal
}

/** Zeros are handed out from one buffer. Never written, so the kernel keeps no memory for it. */
const ZERO_BYTES = 1_048_576
const zeroes = Buffer.alloc(ZERO_BYTES)
/** Plans kept for reuse; more are made while more reads wait. */
const MAX_SPARE_PLANS = 64
/** Leases of all readers may hold this part of the frames before further ones become small. */
const EASY_PART = 4
/** Frames of a lease from then on: enough to keep a socket busy, and 1,024 stalled clients hold 64 MiB. */
const SCARCE_FRAMES = 4
/**
 * Leases may hold this part before larger replies that are on their way by then are copied. Copies come on top of the
 * cache: when hundreds of cold clients got their first pages, they took 60 MiB beside one of 128.
 */
const LEASED_PART = 2
/**
 * Connections are limited by the bytes of their replies. So that this limits frames as well, a lease holds at most
 * twice the frames that its bytes would fill, and two for its ends; what has smaller pieces of more pages is copied.
 */
const LEASE_FRAMES_PER_FRAME = 2
const LEASE_FRAMES_AT_ENDS = 2
/** Pages of one prefetch message. */
const PREFETCH_PAGES = 256
/** A page takes 70 ns to look up: all hints that come together may cost 0.15 ms, and the working out of so many runs. */
const MAX_PREFETCH_BYTES = 32 * MIB

export class PageReader {
  readonly #frameSize: number
  readonly #budgetFrames: number
  readonly #easyFrames: number
  readonly #leasedFrames: number
  readonly #maxHintedPages: number
  readonly #arena: Arena
  readonly #table: Int32Array
  readonly #index: PageIndex
  readonly #ledger: ReadLedger
  readonly #keeper: KeeperPort
  readonly #readahead: boolean
  readonly #plan = new PagePlan()
  readonly #cursor: Cursor = { run: 0, done: 0 }
  readonly #spare: PagePlan[] = []
  readonly #release = (plan: PagePlan): void => this.#onRelease(plan)
  /** Frames that leases of this reader hold. */
  #held = 0
  /** Pages of hints, or as many bytes, that were looked up and that the keeper has not taken or dropped yet. */
  #hinted = 0

  constructor(options: PageReaderOptions) {
    const { memory, port } = options
    const { arena, table, index, control } = openCacheMemory(memory)
    this.#frameSize = memory.frameSize
    this.#budgetFrames = memory.pinBudgetFrames
    const readers = memory.counters.rows - 1
    this.#easyFrames = memory.frames / EASY_PART / readers
    this.#leasedFrames = memory.frames / LEASED_PART / readers
    this.#maxHintedPages = Math.min(memory.backgroundFrames, MAX_PREFETCH_BYTES / memory.frameSize)
    this.#arena = arena
    this.#table = table
    this.#index = index
    const row = counterRow(memory.counters, options.counterRow + 1)
    const samples = new SampleWriter(memory.samples, options.counterRow)
    this.#ledger = new ReadLedger(table, control, row, samples)
    this.#keeper = new KeeperPort(port, table)
    this.#readahead = options.readahead ?? true
  }

  /**
   * Replies up to this size should be read whole, larger ones streamed. Clients that take nothing keep their
   * leases: the more frames they hold, the less the next ones get, so that they cannot hold all.
   */
  get pinBudgetBytes(): number {
    return this.#bytesOf(this.#isScarce ? this.#scarceFrames : this.#budgetFrames)
  }

  /**
   * Copies the reply to `target` if all its pages are in memory. False: nothing was counted; ask `read`.
   * For small replies: below some 16 KiB a copy is cheaper than a lease.
   */
  copyInto(runs: RunList, context: ReadContext, target: Buffer, targetOffset: number): boolean {
    const plan = this.#plan
    this.#rewind()
    plan.build(runs, this.#frameSize, Infinity, Infinity, this.#cursor)
    if (!this.#pinAll(plan)) return false
    this.#note(plan, undefined, context)
    this.#copy(plan, target, targetOffset)
    this.#unpinAll(plan, plan.pages)
    this.#advance(runs, context)
    return true
  }

  /**
   * The reply in frames, if all its pages are in memory and within the pin budget; a copy if it has small pieces
   * of many pages. Undefined: nothing is pinned or counted; ask `read`, or `stream` above the pin budget.
   */
  tryRead(runs: RunList, context: ReadContext): Lease | undefined {
    const plan = this.#takePlan()
    this.#rewind()
    const fits = plan.build(runs, this.#frameSize, this.#budgetFrames, Infinity, this.#cursor)
    if (!fits || !this.#pinAll(plan)) {
      this.#returnPlan(plan)
      return undefined
    }
    this.#note(plan, undefined, context)
    this.#advance(runs, context)
    return this.#lease(plan)
  }

  /**
   * The reply, brought in as far as it is missing. A reply put together from small pieces of many pages is
   * copied, so that it holds no more frames than its bytes deserve. The runs are not used after the call returns.
   * @throws ERR_CACHE_RANGE above the largest `pinBudgetBytes` or outside of a blob; ERR_ABORTED; ERR_CACHE_PAGE_CORRUPT,
   * ERR_CACHE_FILL_FAILED, ERR_CACHE_FILL_TIMEOUT: nothing of the reply can be used; ERR_CACHE_OVERLOADED;
   * ERR_CACHE_BLOB_UNKNOWN; ERR_CACHE_CLOSED
   */
  async read(runs: RunList, context: ReadContext, options: ReadOptions = {}): Promise<Lease> {
    const plan = this.#takePlan()
    const cursor = { run: 0, done: 0 }
    if (plan.build(runs, this.#frameSize, this.#budgetFrames, Infinity, cursor)) {
      const demand = this.#demand(plan, context, true, options.signal)
      this.#advance(runs, context)
      await demand
      return this.#lease(plan)
    }
    this.#returnPlan(plan)
    const budget = this.#bytesOf(this.#budgetFrames)
    if (runs.byteLength <= budget) return this.#gather(runs, context, options)
    const message = `a read of ${runs.byteLength} bytes is above the pin budget of ${budget}`
    throw new AppError('ERR_CACHE_RANGE', message)
  }

  /**
   * A reply of any size in pieces. The first piece comes when every page of the reply has been filled and
   * verified, so a reply that cannot be served fails before its header is sent; then pages that were evicted
   * meanwhile are filled again, which can fail as `read` does. Holds nothing between pieces but what the
   * consumer holds. The runs are not used after the call returns.
   */
  stream(runs: RunList, context: ReadContext, options: ReadOptions = {}): AsyncIterable<Lease> {
    return this.#stream(runs.clone(), context, options)
  }

  /**
   * Of what a hint asks for, so many bytes are of use now; 0 while earlier hints are worked off. Hints cost
   * a client nothing and may be of any size: what is longer should be cut before its runs are worked out.
   */
  get prefetchBudgetBytes(): number {
    return Math.max(0, this.#maxHintedPages - this.#hinted) * this.#frameSize
  }

  /**
   * Asks for pages to be brought in for the context's image when there is room. Nothing is counted or returned.
   * What is above `prefetchBudgetBytes` is dropped.
   */
  prefetch(runs: RunList, context: ReadContext): void {
    const plan = this.#takePlan()
    const cursor = { run: 0, done: 0 }
    for (let done = false; !done && this.#hinted < this.#maxHintedPages;) {
      const room = Math.min(PREFETCH_PAGES, this.#maxHintedPages - this.#hinted)
      done = plan.build(runs, this.#frameSize, room, room * this.#frameSize, cursor)
      const pages: number[] = []
      for (let position = 0; position < plan.pages; position++) {
        this.#pushAbsent(pages, plan.blobNo(position), plan.pageNo(position))
      }
      const bytes = Math.ceil(plan.byteLength / this.#frameSize)
      void this.#hint(Math.max(plan.pages, bytes), pages, context.imageId)
    }
    this.#returnPlan(plan)
  }

  /** Reads under way fail with ERR_CACHE_CLOSED; leases stay valid. Resolves when no grant is on its way. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#keeper.close()
  }

  async *#stream(
    runs: RunList,
    context: ReadContext,
    { signal }: ReadOptions,
  ): AsyncGenerator<Lease, void, void> {
    for (const counted of [true, false]) {
      const cursor = { run: 0, done: 0 }
      let done: boolean
      do {
        const plan = this.#takePlan()
        done = plan.build(runs, this.#frameSize, this.#budgetFrames, this.pinBudgetBytes, cursor)
        await this.#obtain(plan, context, counted, signal)
        if (counted) this.#letGo(plan)
        else yield this.#lease(plan)
      } while (!done)
    }
  }

  /** Pins every page of the plan, in memory if it can, else by the keeper; if it fails, the plan is gone. */
  async #obtain(
    plan: PagePlan,
    context: ReadContext,
    counted: boolean,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (!this.#pinAll(plan)) return this.#demand(plan, context, counted, signal)
    if (counted) this.#note(plan, undefined, context)
  }

  /** Asks the keeper for every page of the plan; if it fails, the plan is gone. */
  async #demand(
    plan: PagePlan,
    context: ReadContext,
    counted: boolean,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const pages: number[] = []
    for (let position = 0; position < plan.pages; position++) {
      pages.push(plan.blobNo(position), plan.pageNo(position))
    }
    try {
      const { frames, how } = await this.#keeper.grant(pages, context.imageId, signal)
      frames.forEach((frame, position) => plan.setFrame(position, frame))
      if (counted) this.#note(plan, how, context)
    } catch (error) {
      this.#returnPlan(plan)
      throw error
    }
  }

  async #gather(runs: RunList, context: ReadContext, { signal }: ReadOptions): Promise<Lease> {
    const own = runs.clone()
    // Overwritten whole before it is handed out.
    const bytes = Buffer.allocUnsafeSlow(own.byteLength)
    const cursor = { run: 0, done: 0 }
    let to = 0
    let done: boolean
    do {
      const plan = this.#takePlan()
      done = plan.build(own, this.#frameSize, this.#budgetFrames, Infinity, cursor)
      await this.#obtain(plan, context, true, signal)
      to = this.#copy(plan, bytes, to)
      this.#letGo(plan)
    } while (!done)
    return new CopiedLease(bytes)
  }

  /** Pins every page of the plan, or none. */
  #pinAll(plan: PagePlan): boolean {
    let frame = -1
    for (let position = 0; position < plan.pages; position++) {
      const blobNo = plan.blobNo(position)
      const pageNo = plan.pageNo(position)
      // The keeper places neighbours behind each other where it can: most look-ups end here, without the index.
      frame++
      if (!holdsPage(this.#table, frame, blobNo, pageNo)) frame = this.#index.find(blobNo, pageNo)
      if (frame < 0 || !pinPage(this.#table, frame, blobNo, pageNo)) {
        this.#unpinAll(plan, position)
        return false
      }
      plan.setFrame(position, frame)
    }
    return true
  }

  #unpinAll(plan: PagePlan, count: number): void {
    for (let position = 0; position < count; position++) {
      unpin(this.#table, recordOf(plan.frame(position)))
    }
  }

  /** Counts every page of a plan whose frames are pinned. */
  #note(plan: PagePlan, how: readonly number[] | undefined, context: ReadContext): void {
    for (let position = 0; position < plan.pages; position++) {
      this.#ledger.use(
        recordOf(plan.frame(position)),
        how?.[position] ?? GRANTED.RESIDENT,
        plan.ordinal(position),
        plan.bytes(position),
        context,
      )
    }
    if (plan.zeroBytes > 0) this.#ledger.useZeros(plan.zeroBytes, context)
  }

  /**
   * A lease on a plan whose frames are pinned, and which it takes over. Pieces that lie behind each other in memory
   * become one part. A reply that would hold too many frames is copied instead.
   */
  #lease(plan: PagePlan): Lease {
    if (plan.pages > this.#leaseFrames(plan.byteLength)) return this.#copiedLease(plan)
    const { parts } = plan
    let count = 0
    let first = -1
    let last = -1
    let start = 0
    let length = 0
    for (let piece = 0; piece < plan.pieces; piece++) {
      const position = plan.position(piece)
      const pieceLength = plan.length(piece)
      if (position === ZEROS) {
        if (length > 0) parts[count++] = this.#arena.view(first, start, length)
        length = 0
        count = addZeros(parts, count, pieceLength)
        continue
      }
      const frame = plan.frame(position)
      const pieceStart = plan.start(piece)
      const end = start + length - (last - first) * this.#frameSize
      const continues =
        length > 0 &&
        (frame === last
          ? pieceStart === end
          : pieceStart === 0 && end === this.#frameSize && this.#arena.adjacent(last, frame))
      if (continues) {
        length += pieceLength
      } else {
        if (length > 0) parts[count++] = this.#arena.view(first, start, length)
        first = frame
        start = pieceStart
        length = pieceLength
      }
      last = frame
    }
    if (length > 0) parts[count++] = this.#arena.view(first, start, length)
    // Only ever shortened by what is too much: an emptied array would be allocated anew.
    if (parts.length > count) parts.length = count
    this.#held += plan.pages
    return new PinnedLease(plan, this.#frameSize, this.#release)
  }

  #copiedLease(plan: PagePlan): Lease {
    // Overwritten whole.
    const bytes = Buffer.allocUnsafeSlow(plan.byteLength)
    this.#copy(plan, bytes, 0)
    this.#letGo(plan)
    return new CopiedLease(bytes)
  }

  /** Copies the reply of a plan whose frames are pinned. @returns where it ends in `target` */
  #copy(plan: PagePlan, target: Buffer, targetOffset: number): number {
    let to = targetOffset
    for (let piece = 0; piece < plan.pieces; piece++) {
      const length = plan.length(piece)
      const position = plan.position(piece)
      if (position === ZEROS) target.fill(0, to, to + length)
      else this.#arena.copy(plan.frame(position), plan.start(piece), length, target, to)
      to += length
    }
    return to
  }

  #onRelease(plan: PagePlan): void {
    this.#held -= plan.pages
    this.#letGo(plan)
  }

  #letGo(plan: PagePlan): void {
    this.#unpinAll(plan, plan.pages)
    this.#returnPlan(plan)
  }

  get #isScarce(): boolean {
    return this.#held >= this.#easyFrames
  }

  get #scarceFrames(): number {
    return Math.min(SCARCE_FRAMES, this.#budgetFrames)
  }

  /** Frames that a lease on a reply of so many bytes may hold. */
  #leaseFrames(bytes: number): number {
    if (this.#held >= this.#leasedFrames) return this.#scarceFrames
    const frames = Math.ceil(bytes / this.#frameSize)
    return Math.min(LEASE_FRAMES_PER_FRAME * frames + LEASE_FRAMES_AT_ENDS, this.#budgetFrames)
  }

  /** One frame less, so that a range of this size that starts inside a page fits as well. */
  #bytesOf(frames: number): number {
    return (frames - 1) * this.#frameSize
  }

  /** Notes the request in its sequence, and asks for what should come next. */
  #advance(runs: RunList, context: ReadContext): void {
    if (!this.#readahead) return
    const range = context.stream.advance(runs)
    if (range !== undefined) this.#readAhead(range, context.imageId)
  }

  #readAhead({ blobNo, offset, length }: ReadaheadRange, imageId: number): void {
    const pages: number[] = []
    const end = offset + length
    for (let at = Math.floor(offset / this.#frameSize); at * this.#frameSize < end; at++) {
      this.#pushAbsent(pages, blobNo, at)
    }
    if (pages.length > 0) this.#keeper.readAhead(pages, imageId)
  }

  /** Pages that turned out to be in memory count until the end of the tick: looking them up has cost as much. */
  async #hint(lookedUp: number, absent: readonly number[], imageId: number): Promise<void> {
    this.#hinted += lookedUp
    await (absent.length > 0 ? this.#keeper.prefetch(absent, imageId) : undefined)
    this.#hinted -= lookedUp
  }

  #pushAbsent(pages: number[], blobNo: number, pageNo: number): void {
    if (this.#index.find(blobNo, pageNo) < 0) pages.push(blobNo, pageNo)
  }

  #rewind(): void {
    this.#cursor.run = 0
    this.#cursor.done = 0
  }

  #takePlan(): PagePlan {
    return this.#spare.pop() ?? new PagePlan()
  }

  #returnPlan(plan: PagePlan): void {
    if (this.#spare.length < MAX_SPARE_PLANS) this.#spare.push(plan)
  }
}

/** @returns how many parts there are now */
function addZeros(parts: Uint8Array[], from: number, length: number): number {
  let count = from
  for (let left = length; left > 0; left -= ZERO_BYTES) {
    parts[count++] = left >= ZERO_BYTES ? zeroes : zeroes.subarray(0, left)
  }
  return count
}
