/**
 * The keeper decides: which page gets which frame, who starts a fill and who joins it, what is evicted, who is
 * granted pins and in which order. It is the only writer of the index and of frame keys, and it never touches
 * page bytes. No threads, ports or timers in here: messages come in by method calls and leave by the functions
 * given with each reader and fill thread.
 *
 * Grants are all or nothing and first come, first served: a read that needs frames when none can be had waits,
 * holding nothing, and no later read that needs frames overtakes it. So readers cannot block each other with
 * half of what they need. A read in line whose pages others bring in needs no frames any more, and leaves it.
 */
import { AppError, counterRow, type ErrorRecord, toErrorRecord } from '../core/index.ts'
import { type BlobKey, type BlobRecord, BlobTable, type OpenedBlob } from './blob-table.ts'
import { CACHE_COUNTER, count, type EvictionReason, FILL_ERROR_CODES } from './counters.ts'
import { type AccountingTotals, EpochLedger } from './epoch-ledger.ts'
import { type Fill, FillBook } from './fill-book.ts'
import { FillQueue } from './fill-queue.ts'
import { FramePool } from './frame-pool.ts'
import { FRAME, recordOf } from './frame-table.ts'
import { Grant } from './grant.ts'
import type { ImageAccountingMemory } from './image-accounting.ts'
import { type CacheMemory, CONTROL, openCacheMemory } from './memory.ts'
import {
  type FetchRequest,
  type FillerMessage,
  type FillReport,
  GRANTED,
  type KeeperCalls,
  type ReaderAnswer,
  type ReaderRequest,
  type ReadRequest,
} from './messages.ts'
import type { PageIndex } from './page-index.ts'
import { pin, unpin } from './pin-protocol.ts'
import { type CachePolicy, SecondChance } from './policy.ts'
import { SampleReader } from './sample-ring.ts'

export interface KeeperOptions {
  /** A read that is not granted by then fails with ERR_CACHE_FILL_TIMEOUT. */
  readonly fillTimeoutMs?: number
  /**
   * Reads that may wait for frames: so many for each reader that there is, in all. The next one fails with
   * ERR_CACHE_OVERLOADED.
   */
  readonly maxWaiting?: number
  readonly policy?: (table: Int32Array) => CachePolicy
  /** Milliseconds of a monotonic clock. */
  readonly now?: () => number
}

const DEFAULT_FILL_TIMEOUT_MS = 30_000
/**
 * More than a worker's NBD clients may have under way with the default limits: 4 reads for each of 4096 connections,
 * and 32,768 beyond these (docs/reference/nbd.md).
 */
const DEFAULT_MAX_WAITING = 65_536
/** Readers unpin without telling: how often waiting reads look for frames again. */
const WAITING_POLL_MS = 1
/** How often deadlines and dropped blobs are looked at. */
const IDLE_POLL_MS = 100

/** Made once: clients that go away with all their reads should cost little. */
const CANCELLED = toErrorRecord(new AppError('ERR_ABORTED', 'the read was cancelled'))

interface Reader {
  readonly post: (answers: ReaderAnswer[]) => void
  outbox: ReaderAnswer[]
  /** Not answered yet, by the reader's numbers. */
  readonly grants: Map<number, Grant>
}

export class Keeper implements KeeperCalls {
  readonly #memory: CacheMemory
  readonly #table: Int32Array
  readonly #index: PageIndex
  readonly #counters: Float64Array
  readonly #blobs: BlobTable
  readonly #ledger: EpochLedger
  readonly #pool: FramePool
  readonly #fills: FillBook
  readonly #queue: FillQueue
  readonly #readers: Reader[] = []
  /** Not answered yet. Those in #waiting hold nothing; the others have a frame for every page. */
  readonly #grants = new Set<Grant>()
  readonly #waiting = new Set<Grant>()
  /** Those in #waiting, by the first page that each of them lacks. */
  readonly #lacking = new Map<string, Set<Grant>>()
  /** The last read that wanted frames found none. */
  #isOutOfFrames = false
  readonly #drops = new Map<number, () => void>()
  readonly #fillTimeoutMs: number
  readonly #maxWaiting: number
  readonly #now: () => number
  #nextSweepMs = 0

  constructor(memory: CacheMemory, options: KeeperOptions = {}) {
    const { table, index, control } = openCacheMemory(memory)
    const { frames, frameSize } = memory
    const policy = options.policy?.(table) ?? new SecondChance(table)
    const counters = counterRow(memory.counters, 0)
    const now = options.now ?? (() => performance.now())
    const blobs = new BlobTable(frameSize)
    const ledger = new EpochLedger(table, control, blobs)
    const shared = { frames, frameSize, table, index, policy, blobs, ledger, counters, now }
    const pool = new FramePool({ ...shared, samples: new SampleReader(memory.samples) })
    control[CONTROL.SAMPLE_EVERY] = policy.sampleEvery
    this.#memory = memory
    this.#table = table
    this.#index = index
    this.#counters = counters
    this.#blobs = blobs
    this.#ledger = ledger
    this.#pool = pool
    this.#fills = new FillBook({ ...shared, pool })
    this.#queue = new FillQueue(frameSize)
    this.#fillTimeoutMs = options.fillTimeoutMs ?? DEFAULT_FILL_TIMEOUT_MS
    this.#maxWaiting = options.maxWaiting ?? DEFAULT_MAX_WAITING
    this.#now = now
  }

  addReader(post: (answers: ReaderAnswer[]) => void): number {
    this.#readers.push({ post, outbox: [], grants: new Map() })
    return this.#readers.length - 1
  }

  addFiller(post: (message: FillerMessage) => void): void {
    this.#queue.addThread(post)
    this.#queue.dispatch()
  }

  fromReader(reader: number, requests: readonly ReaderRequest[]): void {
    let cancelled = false
    for (const request of requests) {
      switch (request.type) {
        case 'read':
          this.#read(reader, request)
          break
        case 'cancel':
          this.#cancel(reader, request.id)
          cancelled = true
          break
        case 'readahead':
          this.#fetch(request)
          break
        case 'prefetch':
          this.#fetch(request)
          this.#readers[reader]?.outbox.push({ id: request.id, frames: [], how: [] })
      }
    }
    if (cancelled) this.#admitWaiting()
    this.#flush()
  }

  fromFiller(reports: readonly FillReport[]): void {
    for (const { frame, error } of reports) {
      const fill = this.#fills.at(frame)
      if (fill === undefined) continue
      this.#queue.done(fill)
      if (error !== undefined) this.#fail(fill, error)
      else if (fill.blob.dropped) this.#fail(fill, toErrorRecord(blobUnknown(fill.blob.blobNo)))
      else this.#publish(fill)
    }
    this.#admitWaiting()
    this.#flush()
  }

  /** Milliseconds until `poll` should be called; undefined: not before the next message. */
  get pollInMs(): number | undefined {
    if (this.#waiting.size > 0) return WAITING_POLL_MS
    return this.#grants.size > 0 || this.#drops.size > 0 ? IDLE_POLL_MS : undefined
  }

  /** Looks for what happens without a message: frames are unpinned, deadlines pass. */
  poll(): void {
    this.#admitWaiting()
    const now = this.#now()
    if (now >= this.#nextSweepMs) {
      this.#nextSweepMs = now + IDLE_POLL_MS
      this.#expire(now)
      for (const blobNo of this.#drops.keys()) this.#sweepDropped(blobNo)
    }
    this.#flush()
  }

  openBlobs(keys: readonly BlobKey[]): OpenedBlob[] {
    return keys.map((key) => {
      const { blobNo, domainNo } = this.#blobs.open(key)
      return { blobNo, domainNo }
    })
  }

  dropBlob(blobNo: number): Promise<void> {
    if (this.#blobs.drop(blobNo) === undefined) return Promise.resolve()
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#drops.set(blobNo, resolve)
    this.#sweepDropped(blobNo)
    this.#flush()
    return promise
  }

  registerImage(imageId: number, accounting: ImageAccountingMemory): void {
    this.#ledger.registerImage(imageId, accounting)
  }

  unregisterImage(imageId: number): void {
    this.#ledger.unregisterImage(imageId)
  }

  evict(reason: EvictionReason, bytes: number): number {
    let evicted = 0
    for (let frame = 0; frame < this.#pool.used && evicted < bytes; frame++) {
      if (this.#pool.evict(frame, reason)) evicted += this.#memory.frameSize
    }
    return evicted
  }

  resetEpoch(): AccountingTotals {
    this.#ledger.reset()
    return this.#ledger.totals()
  }

  accounting(): AccountingTotals {
    return this.#ledger.totals()
  }

  domains(): [domain: string, domainNo: number][] {
    return this.#blobs.domains()
  }

  #read(reader: number, request: ReadRequest): void {
    const grant = new Grant(reader, request, this.#now() + this.#fillTimeoutMs)
    this.#grants.add(grant)
    this.#readers[reader]?.grants.set(grant.id, grant)
    if (!this.#admit(grant, this.#waiting.size === 0)) this.#wait(grant)
  }

  /** Unknown: its grant is on the way, and the reader gives back the pins when it arrives. */
  #cancel(reader: number, id: number): void {
    const grant = this.#readers[reader]?.grants.get(id)
    if (grant === undefined) return
    this.#leaveLine(grant)
    this.#refuse(grant, CANCELLED)
  }

  /**
   * Gives the read everything at once: pins what is in memory, joins what is being filled, starts the rest.
   * @returns false if frames are lacking, or needed but not to be taken; then nothing is held
   */
  #admit(grant: Grant, mayTakeFrames: boolean): boolean {
    const { pages, frames } = grant
    const fills: { readonly fill: Fill; readonly position: number; readonly how: number }[] = []
    const absent: { readonly blob: BlobRecord; readonly position: number }[] = []
    for (let position = 0; position < frames.length; position++) {
      const blobNo = pages[2 * position] ?? 0
      const pageNo = pages[2 * position + 1] ?? 0
      const blob = this.#blobs.get(blobNo)
      const error = this.#checkPage(blob, blobNo, pageNo)
      if (blob === undefined || error !== undefined) {
        this.#refuse(grant, toErrorRecord(error))
        return true
      }
      const frame = this.#index.find(blobNo, pageNo)
      const fill = this.#fills.at(frame)
      if (frame < 0) {
        absent.push({ blob, position })
      } else if (fill === undefined) {
        pin(this.#table, recordOf(frame))
        grant.hold(position, frame)
      } else {
        fills.push({ fill, position, how: GRANTED.COALESCED })
      }
    }
    if (absent.length > 0 && !(mayTakeFrames && this.#hasRoomFor(absent.length))) {
      this.#putOff(grant, absent.length, absent[0]?.position ?? 0)
      return false
    }
    const begun: Fill[] = []
    for (const { blob, position } of absent) {
      const fill = this.#fills.begin(blob, pages[2 * position + 1] ?? 0, 'demand', grant.imageId)
      this.#isOutOfFrames = fill === undefined
      if (fill === undefined) {
        for (const other of begun) this.#fills.giveUp(other)
        this.#putOff(grant, absent.length, absent[0]?.position ?? 0)
        return false
      }
      begun.push(fill)
      fills.push({ fill, position, how: GRANTED.FILLED })
    }
    this.#forgetLack(grant)
    for (const { fill, position, how } of fills) {
      grant.how[position] = how
      fill.waiters.set(grant, position)
      if (how === GRANTED.COALESCED) this.#queue.promote(fill)
    }
    for (const fill of begun) this.#begun(fill)
    if (grant.complete) this.#answer(grant)
    return true
  }

  /** Queues a new fill, and lets those in line who lacked its page join it, if they lack no other. */
  #begun(fill: Fill): void {
    this.#queue.push(fill)
    if (this.#lacking.size === 0) return
    for (const grant of this.#lacking.get(pageKey(fill.blob.blobNo, fill.pageNo)) ?? []) {
      if (this.#admit(grant, false)) this.#leaveLine(grant)
      else this.#noteLack(grant)
    }
  }

  /** The read cannot be granted now: it holds nothing, and is known by the first of the pages that it lacks. */
  #putOff(grant: Grant, absent: number, firstAbsent: number): void {
    this.#unpin(grant)
    this.#forgetLack(grant)
    grant.absent = absent
    const { pages } = grant
    grant.lack = pageKey(pages[2 * firstAbsent] ?? 0, pages[2 * firstAbsent + 1] ?? 0)
  }

  #noteLack(grant: Grant): void {
    const others = this.#lacking.get(grant.lack)
    if (others === undefined) this.#lacking.set(grant.lack, new Set([grant]))
    else others.add(grant)
  }

  #forgetLack(grant: Grant): void {
    if (this.#lacking.size === 0) return
    const others = this.#lacking.get(grant.lack)
    if (others?.delete(grant) === true && others.size === 0) this.#lacking.delete(grant.lack)
  }

  /**
   * Only so many pages are on their way at a time: the store reads no faster for a longer queue, and the frames in it
   * are taken from pages that others read.
   */
  #hasRoomFor(pages: number): boolean {
    const { demand } = this.#fills
    return demand === 0 || demand + pages <= this.#memory.demandFrames
  }

  #checkPage(blob: BlobRecord | undefined, blobNo: number, pageNo: number): AppError | undefined {
    if (blob === undefined || blob.dropped) return blobUnknown(blobNo)
    if (blob.validLength(pageNo, this.#memory.frameSize) > 0) return undefined
    const { digest, size } = blob.key
    return new AppError(
      'ERR_CACHE_RANGE',
      `page ${pageNo} lies outside of blob ${digest} of ${size} bytes`,
    )
  }

  #wait(grant: Grant): void {
    const most = this.#maxWaiting * this.#readers.length
    if (this.#waiting.size >= most) {
      count(this.#counters, CACHE_COUNTER.OVERLOADS)
      const message = `no frame can be had now, and ${most} reads wait for one already`
      this.#refuse(grant, toErrorRecord(new AppError('ERR_CACHE_OVERLOADED', message)))
      return
    }
    this.#waiting.add(grant)
    this.#noteLack(grant)
    this.#counters[CACHE_COUNTER.GRANTS_WAITING] = this.#waiting.size
  }

  #leaveLine(grant: Grant): boolean {
    const waited = this.#waiting.delete(grant)
    this.#forgetLack(grant)
    this.#counters[CACHE_COUNTER.GRANTS_WAITING] = this.#waiting.size
    return waited
  }

  /** In order of arrival, up to the first that still lacks frames. */
  #admitWaiting(): void {
    for (const grant of this.#waiting) {
      if (!this.#hasRoomFor(grant.absent)) break
      if (!this.#admit(grant, true)) {
        this.#noteLack(grant)
        break
      }
      this.#leaveLine(grant)
    }
  }

  /** Brings in pages that nobody waits for, as long as there is room. */
  #fetch({ type, imageId, pages }: FetchRequest): void {
    const limit = this.#memory.backgroundFrames
    for (let i = 0; i < pages.length; i += 2) {
      const blobNo = pages[i] ?? 0
      const pageNo = pages[i + 1] ?? 0
      const blob = this.#blobs.get(blobNo)
      if (blob === undefined || this.#checkPage(blob, blobNo, pageNo) !== undefined) continue
      if (this.#index.find(blobNo, pageNo) >= 0) continue
      const scarce = this.#isOutOfFrames && this.#waiting.size > 0
      const room = !scarce && this.#fills.background < limit
      const fill = room ? this.#fills.begin(blob, pageNo, type, imageId) : undefined
      if (fill === undefined) count(this.#counters, CACHE_COUNTER.BACKGROUND_DROPPED)
      else this.#begun(fill)
    }
  }

  #publish(fill: Fill): void {
    this.#fills.publish(fill)
    for (const grant of fill.waiters.keys()) {
      if (grant.complete) this.#answer(grant)
    }
  }

  #fail(fill: Fill, error: ErrorRecord): void {
    this.#fills.giveUp(fill)
    this.#countError(error.code)
    for (const grant of fill.waiters.keys()) this.#refuse(grant, error)
  }

  #expire(now: number): void {
    for (const grant of this.#grants) {
      if (grant.deadlineMs > now) break
      const what = this.#leaveLine(grant)
        ? 'it came to no turn in the line for memory'
        : 'the store did not answer'
      const message = `a read of ${grant.frames.length} pages failed: ${what} within ${this.#fillTimeoutMs} ms`
      this.#countError('ERR_CACHE_FILL_TIMEOUT')
      this.#refuse(grant, toErrorRecord(new AppError('ERR_CACHE_FILL_TIMEOUT', message)))
    }
  }

  #countError(code: string): void {
    const known = (FILL_ERROR_CODES as readonly string[]).indexOf(code)
    const column = known < 0 ? FILL_ERROR_CODES.length - 1 : known
    count(this.#counters, CACHE_COUNTER.FILL_ERRORS + column)
  }

  #sweepDropped(blobNo: number): void {
    let left = 0
    for (let frame = 0; frame < this.#pool.used; frame++) {
      if (this.#table[recordOf(frame) + FRAME.BLOB] !== blobNo) continue
      if (!this.#pool.evict(frame, 'removed')) left++
    }
    if (left > 0) return
    this.#drops.get(blobNo)?.()
    this.#drops.delete(blobNo)
    this.#queue.forget(blobNo)
    this.#blobs.forget(blobNo)
  }

  #answer(grant: Grant): void {
    this.#end(grant, grant.answer())
  }

  #refuse(grant: Grant, error: ErrorRecord): void {
    this.#leaveFills(grant)
    this.#unpin(grant)
    this.#end(grant, grant.refuse(error))
  }

  #end(grant: Grant, answer: ReaderAnswer): void {
    this.#grants.delete(grant)
    const reader = this.#readers[grant.reader]
    reader?.grants.delete(grant.id)
    reader?.outbox.push(answer)
  }

  /**
   * Fills that nobody else waits for end, so that the store does not work for readers that are gone. What a
   * thread has goes on: the thread cannot be stopped, and the page may be wanted again.
   */
  #leaveFills(grant: Grant): void {
    const { pages, frames } = grant
    for (let position = 0; position < frames.length; position++) {
      if (frames[position] !== -1) continue
      const frame = this.#index.find(pages[2 * position] ?? 0, pages[2 * position + 1] ?? 0)
      const fill = this.#fills.at(frame)
      if (fill === undefined || !this.#fills.leave(fill, grant)) continue
      if (fill.waiters.size === 0 && this.#queue.withdraw(fill)) this.#fills.giveUp(fill)
    }
  }

  #unpin(grant: Grant): void {
    for (const frame of grant.letGo()) unpin(this.#table, recordOf(frame))
  }

  #flush(): void {
    this.#queue.dispatch()
    for (const reader of this.#readers) {
      if (reader.outbox.length === 0) continue
      const answers = reader.outbox
      reader.outbox = []
      reader.post(answers)
    }
  }
}

function pageKey(blobNo: number, pageNo: number): string {
  return `${blobNo}:${pageNo}`
}

function blobUnknown(blobNo: number): AppError {
  return new AppError('ERR_CACHE_BLOB_UNKNOWN', `blob number ${blobNo} is not open in the cache`)
}
