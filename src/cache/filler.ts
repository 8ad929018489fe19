/**
 * A fill thread's body: reads pages from the source straight into their frames, checks every 16 KiB against its
 * digest, zeroes the rest of a short last page, and reports. It decides nothing and publishes nothing; a frame
 * is its own from the order to the report.
 */
import { hash } from 'node:crypto'
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'

import { AppError, DIGEST_BYTES, isAppError, toErrorRecord } from '../core/index.ts'
import type { Arena } from './arena.ts'
import type { BlobKey } from './blob-table.ts'
import { type CacheMemory, openCacheMemory } from './memory.ts'
import { type FillerMessage, type FillReport, MAX_FILL_READ_BYTES } from './messages.ts'
import { DIGEST_PAGE_BYTES, type PageSource } from './page-source.ts'

export interface FillerOptions {
  readonly memory: CacheMemory
  /** From `KeeperClient.connectFiller`. */
  readonly port: MessagePort
  readonly source: PageSource
  /** Reads under way at a time: 1 for a source that blocks, more for one that waits for a network. */
  readonly concurrency?: number
}

interface Order {
  readonly frame: number
  readonly blobNo: number
  readonly pageNo: number
  readonly validBytes: number
}

interface OpenBlob {
  readonly key: BlobKey
  opened: Promise<void> | 'yes' | undefined
}

const ORDER_NUMBERS = 4
/** A page of the background may have found somebody who waits since it was sent: it gets its turn. */
const DEMAND_READS_IN_A_ROW = 4

/** Serves until the port closes. */
export function runFiller(options: FillerOptions): void {
  const filler = new Filler(options)
  options.port.on('message', (message: FillerMessage) => filler.accept(message))
}

class Filler {
  readonly #port: MessagePort
  readonly #source: PageSource
  readonly #concurrency: number
  readonly #frameSize: number
  readonly #arena: Arena
  readonly #blobs = new Map<number, OpenBlob>()
  readonly #demand: Order[] = []
  readonly #background: Order[] = []
  #demandReads = 0
  #reports: FillReport[] = []
  #running = 0

  constructor({ memory, port, source, concurrency = 1 }: FillerOptions) {
    this.#port = port
    this.#source = source
    this.#concurrency = concurrency
    this.#frameSize = memory.frameSize
    this.#arena = openCacheMemory(memory).arena
  }

  accept(message: FillerMessage): void {
    this.#note(message)
    this.#work()
  }

  #note({ blobs, demand, background, forget }: FillerMessage): void {
    for (const [blobNo, key] of blobs) this.#blobs.set(blobNo, { key, opened: undefined })
    takeOrders(demand, this.#demand)
    takeOrders(background, this.#background)
    for (const blobNo of forget) void this.#forget(blobNo)
  }

  #work(): void {
    while (this.#running < this.#concurrency && this.#demand.length + this.#background.length > 0) {
      this.#running++
      void this.#run()
    }
  }

  /** One read: the next order and those that continue it, of those that somebody waits for first. */
  async #run(): Promise<void> {
    const orders = this.#takeRun()
    try {
      await this.#fill(orders)
    } catch (error) {
      // One bad sector must not fail its neighbours, so each page of a failed run is read alone.
      if (orders.length === 1) for (const order of orders) this.#fail(order, error)
      else for (const order of orders) await this.#fillAlone(order)
    }
    this.#running--
    if (this.#reports.length > 0) {
      this.#port.postMessage(this.#reports)
      this.#reports = []
    }
    // A source that blocks never gives the event loop its turn: new demand is looked for between two reads.
    for (
      let next = receiveMessageOnPort(this.#port);
      next;
      next = receiveMessageOnPort(this.#port)
    ) {
      this.#note(next.message as FillerMessage)
    }
    this.#work()
  }

  async #fillAlone(order: Order, again = false): Promise<void> {
    try {
      await this.#fill([order], again)
    } catch (error) {
      this.#fail(order, error)
    }
  }

  #takeRun(): Order[] {
    const most = this.#source.readPages === undefined ? 1 : MAX_FILL_READ_BYTES / this.#frameSize
    const orders = this.#nextList()
    let length = 1
    while (length < most) {
      const last = orders[length - 1]
      const next = orders[length]
      if (last?.blobNo !== next?.blobNo || next?.pageNo !== (last?.pageNo ?? 0) + 1) break
      length++
    }
    return orders.splice(0, length)
  }

  #nextList(): Order[] {
    const demandFirst = this.#demandReads < DEMAND_READS_IN_A_ROW || this.#background.length === 0
    if (this.#demand.length > 0 && demandFirst) {
      this.#demandReads++
      return this.#demand
    }
    this.#demandReads = 0
    return this.#background
  }

  /**
   * Reads, checks and reports. A page with another digest than recorded is read once more, alone, from the file
   * as it is now: an operator may have put a good one in its place.
   */
  async #fill(orders: readonly Order[], again = false): Promise<void> {
    const [first] = orders
    if (first === undefined) return
    const key = await this.#open(first.blobNo)
    const offset = first.pageNo * this.#frameSize
    const length = orders.reduce((sum, order) => sum + order.validBytes, 0)
    const targets = orders.map(({ frame }) => this.#arena.view(frame, 0, this.#frameSize))
    const [target] = targets
    let reading: void | Promise<void> = undefined
    if (targets.length > 1) reading = this.#source.readPages?.(key, offset, targets, length)
    else if (target !== undefined) reading = this.#source.readPage(key, offset, target, length)
    if (reading !== undefined) await reading
    const perFrame = this.#frameSize / DIGEST_PAGE_BYTES
    const count = Math.ceil(length / DIGEST_PAGE_BYTES)
    const asked = this.#source.pageDigests(key, first.pageNo * perFrame, count)
    const digests = asked instanceof Uint8Array ? asked : await asked
    const wrong: [Order, AppError][] = []
    orders.forEach((order, i) => {
      const frame = targets[i]
      if (frame === undefined) return
      frame.fill(0, order.validBytes)
      const own = digests.subarray(i * perFrame * DIGEST_BYTES, (i + 1) * perFrame * DIGEST_BYTES)
      const error = this.#verify(key, order, frame, own)
      if (error === undefined) this.#reports.push({ frame: order.frame })
      else wrong.push([order, error])
    })
    if (wrong.length > 0) this.#source.suspectBlob?.(key)
    for (const [order, error] of wrong) {
      if (again) this.#fail(order, error)
      else await this.#fillAlone(order, true)
    }
  }

  #verify(
    key: BlobKey,
    { pageNo, validBytes }: Order,
    bytes: Buffer,
    digests: Uint8Array,
  ): AppError | undefined {
    for (let at = 0, i = 0; at < validBytes; at += DIGEST_PAGE_BYTES, i++) {
      const piece = bytes.subarray(at, Math.min(at + DIGEST_PAGE_BYTES, validBytes))
      const expected = digests.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES)
      if (hash('sha256', piece, 'buffer').equals(expected)) continue
      const offset = pageNo * this.#frameSize + at
      return new AppError(
        'ERR_CACHE_PAGE_CORRUPT',
        `blob ${key.digest}: ${piece.length} bytes at offset ${offset} do not have the recorded digest`,
        { details: { domain: key.domain, blob: key.digest, offset, length: piece.length } },
      )
    }
    return undefined
  }

  #fail({ frame, blobNo, pageNo }: Order, error: unknown): void {
    const blob = this.#blobs.get(blobNo)?.key.digest ?? `number ${blobNo}`
    const message = error instanceof Error ? error.message : String(error)
    const wrapped = isAppError(error)
      ? error
      : new AppError(
          'ERR_CACHE_FILL_FAILED',
          `page ${pageNo} of blob ${blob} was not read: ${message}`,
        )
    this.#reports.push({ frame, error: toErrorRecord(wrapped) })
  }

  /** Opens the blob at its first page; a failed open is tried again at the next. */
  async #open(blobNo: number): Promise<BlobKey> {
    const blob = this.#blobs.get(blobNo)
    if (blob === undefined) {
      throw new AppError(
        'ERR_CACHE_BLOB_UNKNOWN',
        `fill thread does not know blob number ${blobNo}`,
      )
    }
    if (this.#source.openBlob === undefined || blob.opened === 'yes') return blob.key
    blob.opened ??= Promise.try(() => this.#source.openBlob?.(blob.key))
    try {
      await blob.opened
      blob.opened = 'yes'
    } catch (error) {
      blob.opened = undefined
      throw error
    }
    return blob.key
  }

  async #forget(blobNo: number): Promise<void> {
    const blob = this.#blobs.get(blobNo)
    this.#blobs.delete(blobNo)
    if (blob?.opened === undefined) return
    try {
      await this.#source.closeBlob?.(blob.key)
    } catch {
      // The blob is gone; a source that cannot close it has nobody to tell.
    }
  }
}

function takeOrders(numbers: readonly number[], to: Order[]): void {
  for (let i = 0; i < numbers.length; i += ORDER_NUMBERS) {
    const [frame = 0, blobNo = 0, pageNo = 0, validBytes = 0] = numbers.slice(i, i + ORDER_NUMBERS)
    to.push({ frame, blobNo, pageNo, validBytes })
  }
}
