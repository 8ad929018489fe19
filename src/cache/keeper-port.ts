/**
 * A reader's conversation with the keeper: gathers a tick's requests into one message, matches answers to their
 * requests, and gives back the pins of grants that nobody waits for any more.
 */
import type { MessagePort } from 'node:worker_threads'

import { AppError, fromErrorRecord } from '../core/index.ts'
import { recordOf } from './frame-table.ts'
import type { PageList, ReaderAnswer, ReaderRequest, ReadGrant } from './messages.ts'
import { unpin } from './pin-protocol.ts'

interface Waiter {
  readonly resolve: (grant: ReadGrant) => void
  readonly reject: (error: unknown) => void
}

export class KeeperPort {
  readonly #port: MessagePort
  readonly #table: Int32Array
  /** Undefined: given up; its pins are returned on arrival. */
  readonly #waiters = new Map<number, Waiter | undefined>()
  #outbox: ReaderRequest[] = []
  #lastId = 0
  #closed: PromiseWithResolvers<void> | undefined

  constructor(port: MessagePort, table: Int32Array) {
    this.#port = port
    this.#table = table
    port.on('message', (answers: ReaderAnswer[]) => {
      for (const answer of answers) this.#settle(answer)
    })
    port.unref()
  }

  /**
   * All pages pinned, or an error and none.
   * @throws ERR_ABORTED, ERR_CACHE_CLOSED, and what the keeper says: ERR_CACHE_PAGE_CORRUPT,
   * ERR_CACHE_FILL_FAILED, ERR_CACHE_FILL_TIMEOUT, ERR_CACHE_OVERLOADED, ERR_CACHE_BLOB_UNKNOWN, ERR_CACHE_RANGE
   */
  async grant(pages: PageList, imageId: number, signal?: AbortSignal): Promise<ReadGrant> {
    if (signal?.aborted === true) throw aborted(signal)
    if (this.#closed !== undefined) throw closed()
    const { promise, resolve, reject } = Promise.withResolvers<ReadGrant>()
    const id = this.#await({ resolve, reject })
    const onAbort = () => {
      if (this.#giveUp(id)) reject(aborted(signal))
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#send({ type: 'read', id, imageId, pages })
    try {
      return await promise
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  readAhead(pages: PageList, imageId: number): void {
    if (this.#closed === undefined) this.#send({ type: 'readahead', imageId, pages })
  }

  /** Resolves when the keeper has taken the pages or dropped them. */
  async prefetch(pages: PageList, imageId: number): Promise<void> {
    if (this.#closed !== undefined) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const id = this.#await({ resolve: () => resolve(), reject: () => resolve() })
    this.#send({ type: 'prefetch', id, imageId, pages })
    await promise
  }

  /** Resolves when every grant under way has come back and its pins are returned. */
  async close(): Promise<void> {
    this.#closed ??= Promise.withResolvers<void>()
    for (const [id, waiter] of this.#waiters) {
      if (this.#giveUp(id)) waiter?.reject(closed())
    }
    if (this.#waiters.size === 0) this.#closed.resolve()
    await this.#closed.promise
    this.#port.close()
  }

  /** @returns the id of the request whose answer it waits for */
  #await(waiter: Waiter): number {
    if (this.#waiters.size === 0) this.#port.ref()
    const id = ++this.#lastId
    this.#waiters.set(id, waiter)
    return id
  }

  /** The answer is not waited for: the keeper is told, and a grant that it has sent by then is given back. */
  #giveUp(id: number): boolean {
    if (this.#waiters.get(id) === undefined) return false
    this.#waiters.set(id, undefined)
    this.#send({ type: 'cancel', id })
    return true
  }

  #send(request: ReaderRequest): void {
    if (this.#outbox.length === 0) queueMicrotask(() => this.#flush())
    this.#outbox.push(request)
  }

  #flush(): void {
    this.#port.postMessage(this.#outbox)
    this.#outbox = []
  }

  #settle(answer: ReaderAnswer): void {
    const waiter = this.#waiters.get(answer.id)
    this.#waiters.delete(answer.id)
    if (this.#waiters.size === 0) {
      this.#port.unref()
      this.#closed?.resolve()
    }
    if ('error' in answer) waiter?.reject(fromErrorRecord(answer.error))
    else if (waiter === undefined) this.#giveBack(answer)
    else waiter.resolve(answer)
  }

  #giveBack({ frames }: ReadGrant): void {
    for (const frame of frames) unpin(this.#table, recordOf(frame))
  }
}

function aborted(signal: AbortSignal | undefined): AppError {
  return new AppError('ERR_ABORTED', 'the read was cancelled', { cause: signal?.reason })
}

function closed(): AppError {
  return new AppError('ERR_CACHE_CLOSED', 'the page cache is closed')
}
