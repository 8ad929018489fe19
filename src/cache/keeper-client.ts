/**
 * The keeper's calls from the thread that opens blobs and images, and the making of ports for readers and fill
 * threads.
 */
import { MessageChannel, type MessagePort } from 'node:worker_threads'

import { AppError, fromErrorRecord } from '../core/index.ts'
import type { BlobKey, OpenedBlob } from './blob-table.ts'
import type { EvictionReason } from './counters.ts'
import type { AccountingTotals } from './epoch-ledger.ts'
import type { ImageAccountingMemory } from './image-accounting.ts'
import type {
  ControlAnswer,
  ControlMessage,
  KeeperCallName,
  KeeperCalls,
  PortRole,
} from './messages.ts'

type Awaitable<K extends KeeperCallName> = Promise<Awaited<ReturnType<KeeperCalls[K]>>>

/** All calls fail with ERR_CACHE_CLOSED once the port is closed. */
export class KeeperClient {
  readonly #port: MessagePort
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>()
  #lastId = 0
  #closed = false

  /** @param port one end of a channel; the other was given to `runKeeper` */
  constructor(port: MessagePort) {
    this.#port = port
    port.on('message', (answer: ControlAnswer) => this.#settle(answer))
    port.on('close', () => this.#close())
    port.unref()
  }

  /** A port for a PageReader, to be transferred to its thread. */
  connectReader(): MessagePort {
    return this.#connect('reader')
  }

  /** A port for a fill thread. */
  connectFiller(): MessagePort {
    return this.#connect('filler')
  }

  /**
   * The blobs' numbers, made at the first open of each (domain, digest).
   * @throws ERR_CACHE_RANGE for a size that is impossible or not that of the first open
   */
  openBlobs(keys: readonly BlobKey[]): Promise<OpenedBlob[]> {
    return this.#call('openBlobs', keys)
  }

  /** Evicts all pages of a blob, reason `removed`; resolves when none is left, pinned ones included. */
  dropBlob(blobNo: number): Promise<void> {
    return this.#call('dropBlob', blobNo)
  }

  /** Before the image's first read. Ids are 1 to MAX_IMAGE_ID and never used again. */
  registerImage(imageId: number, accounting: ImageAccountingMemory): Promise<void> {
    return this.#call('registerImage', imageId, accounting)
  }

  /** After the image's last read in every thread. */
  unregisterImage(imageId: number): Promise<void> {
    return this.#call('unregisterImage', imageId)
  }

  /** Evicts unpinned pages of at least `bytes`, if there are so many. @returns bytes of the frames freed */
  evict(reason: EvictionReason, bytes: number): Promise<number> {
    return this.#call('evict', reason, bytes)
  }

  /** Starts an epoch of the accounting: touched and added are 0 again. */
  resetEpoch(): Promise<AccountingTotals> {
    return this.#call('resetEpoch')
  }

  accounting(): Promise<AccountingTotals> {
    return this.#call('accounting')
  }

  /** Domains and the numbers under which their counters stand. */
  domains(): Promise<[domain: string, domainNo: number][]> {
    return this.#call('domains')
  }

  close(): void {
    this.#port.close()
    this.#close()
  }

  #connect(role: PortRole): MessagePort {
    const { port1, port2 } = new MessageChannel()
    const message: ControlMessage = { type: 'connect', role }
    this.#port.postMessage({ ...message, port: port1 }, [port1])
    return port2
  }

  #call<K extends KeeperCallName>(name: K, ...args: Parameters<KeeperCalls[K]>): Awaitable<K> {
    if (this.#closed) return Promise.reject(closed())
    const id = ++this.#lastId
    const pending = Promise.withResolvers<unknown>()
    this.#pending.set(id, pending)
    if (this.#pending.size === 1) this.#port.ref()
    const message: ControlMessage = { type: 'call', id, name, args }
    this.#port.postMessage(message)
    return pending.promise as Awaitable<K>
  }

  #settle({ id, result, error }: ControlAnswer): void {
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    if (this.#pending.size === 0) this.#port.unref()
    if (error === undefined) pending?.resolve(result)
    else pending?.reject(fromErrorRecord(error))
  }

  #close(): void {
    this.#closed = true
    for (const { reject } of this.#pending.values()) reject(closed())
    this.#pending.clear()
  }
}

function closed(): AppError {
  return new AppError('ERR_CACHE_CLOSED', 'the connection to the page cache is closed')
}
