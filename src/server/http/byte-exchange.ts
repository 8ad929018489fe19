/**
 * Sends planned bytes: the only file that writes data to a response. Frames go to the socket as they are,
 * pinned no longer than the write of them takes; nothing is read ahead of the socket, and a connection that
 * ends stops the reading at once. It knows nothing of URLs, conditions or ranges' syntax.
 */
import type { ServerResponse } from 'node:http'

import { AppError } from '../../core/index.ts'
import type { Lease } from '../../cache/index.ts'
import type { DataHandle } from '../../images/index.ts'
import type { HttpConnection } from './connection.ts'
import { GATHER_BYTES, HEADER_DELAY_MS, SMALL_BODY_BYTES } from './limits.ts'
import type { OpenData } from './open-data.ts'
import { problemResponse } from './problem.ts'
import type { ByteRange } from './ranges.ts'
import type { ResponsePlan } from './response-plan.ts'

export interface ExchangeObserver {
  /** Once per exchange. `bytes`: payload handed to the socket; `error`: why it ended early. */
  finished(status: number, bytes: number, error: unknown): void
}

/** Where small bodies are put together; used within one turn of the loop only. */
const scratch = Buffer.alloc(SMALL_BODY_BYTES)

/** One response to one request for bytes. It owns `data` and disposes it when the response has ended. */
export class ByteExchange {
  readonly #response: ServerResponse
  readonly #connection: HttpConnection
  readonly #data: OpenData
  readonly #requestId: string
  readonly #observer: ExchangeObserver
  #ended = false
  #bytes = 0

  constructor(
    response: ServerResponse,
    connection: HttpConnection,
    data: OpenData,
    requestId: string,
    observer: ExchangeObserver,
  ) {
    this.#response = response
    this.#connection = connection
    this.#data = data
    this.#requestId = requestId
    this.#observer = observer
  }

  /** Answers by `plan`. The response has to be at the head of its connection. */
  send(plan: ResponsePlan): void {
    // It may have ended while the target was opened: then nobody would tell when to release.
    if (this.#connection.closed) {
      this.#end(plan.status, connectionEnded(undefined))
      return
    }
    const [first] = plan.ranges
    if (first === undefined) {
      this.#writeHead(plan)
      this.#response.end()
      this.#end(plan.status)
      return
    }
    if (plan.ranges.length === 1 && this.#sendFromMemory(plan, first)) return
    void this.#sendCold(plan)
  }

  /** The hot path: all of it is in memory, so nothing is awaited. */
  #sendFromMemory(plan: ResponsePlan, { offset, length }: ByteRange): boolean {
    const { handle } = this.#data
    if (length <= SMALL_BODY_BYTES) {
      if (!handle.readInto(scratch, 0, offset, length)) return false
      this.#writeHead(plan)
      // As a string, node joins header and body and libuv writes both from the stack, in one call.
      this.#response.end(scratch.toString('latin1', 0, length), 'latin1')
      this.#bytes = length
      this.#end(plan.status)
      return true
    }
    if (length > handle.pinBudgetBytes) return false
    const lease = handle.tryRead(offset, length)
    if (lease === undefined) return false
    this.#writeHead(plan)
    const response = this.#response
    const release = this.#holding(lease, () => this.#end(plan.status))
    response.once('close', release)
    this.#bytes = length
    response.cork()
    const last = lease.parts.length - 1
    for (let i = 0; i < last; i++) response.write(lease.parts[i])
    response.end(lease.parts[last], release)
    return true
  }

  async #sendCold(plan: ResponsePlan): Promise<void> {
    const abort = new AbortController()
    const onClose = (): void => abort.abort()
    this.#connection.onClose(onClose)
    const timer = setTimeout(() => this.#flushHead(plan), HEADER_DELAY_MS)
    try {
      await this.#sendRanges(plan, abort.signal, timer)
      this.#end(plan.status)
    } catch (error) {
      this.#fail(error)
    } finally {
      clearTimeout(timer)
      this.#connection.offClose(onClose)
    }
  }

  async #sendRanges(plan: ResponsePlan, signal: AbortSignal, timer: NodeJS.Timeout): Promise<void> {
    const { handle } = this.#data
    const { multipart } = plan
    const gather = new Gather((chunk) => this.#writeChunk(plan, chunk))
    for (const [i, { offset, length }] of plan.ranges.entries()) {
      const header = multipart?.partHeaders[i]
      if (header !== undefined) await gather.add(header)
      // A single range was looked for in memory before: asking again would count its lookups twice.
      if (multipart !== undefined && length <= SMALL_BODY_BYTES) {
        await gather.addRange(handle, offset, length, signal)
        this.#bytes += length
      } else {
        await gather.flush()
        for await (const lease of leases(handle, offset, length, signal)) {
          clearTimeout(timer)
          await this.#writeLease(plan, lease)
        }
      }
    }
    if (multipart !== undefined) await gather.add(multipart.trailer)
    await gather.flush()
    this.#response.end()
  }

  /** Resolves when the socket has taken all of the lease, which is released then or when the connection ends. */
  #writeLease(plan: ResponsePlan, lease: Lease): Promise<void> {
    return new Promise((resolve, reject) => {
      const release = this.#holding(lease, (error) => {
        if (error === undefined && !this.#connection.closed) resolve()
        else reject(connectionEnded(error))
      })
      if (this.#connection.closed) return release()
      const response = this.#response
      response.cork()
      if (!response.headersSent) this.#writeHead(plan)
      const last = lease.parts.length - 1
      for (const [i, part] of lease.parts.entries()) {
        this.#bytes += part.byteLength
        if (i === last) response.write(part, release)
        else response.write(part)
      }
      response.uncork()
    })
  }

  #writeChunk(plan: ResponsePlan, chunk: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      const connection = this.#connection
      const settle = (error?: Error | null): void => {
        connection.offClose(onClose)
        if (error || connection.closed) reject(connectionEnded(error))
        else resolve()
      }
      const onClose = (): void => settle()
      if (connection.closed) return settle()
      connection.onClose(onClose)
      if (!this.#response.headersSent) this.#writeHead(plan)
      this.#response.write(chunk, settle)
    })
  }

  /** A function that releases the lease and calls `then`, both once, on its first call or the connection's end. */
  #holding(lease: Lease, then: (error?: Error) => void): (error?: Error | null) => void {
    let held = true
    const connection = this.#connection
    const release = (error?: Error | null): void => {
      if (!held) return
      held = false
      connection.offClose(onClose)
      lease.release()
      then(error ?? undefined)
    }
    const onClose = (): void => release()
    connection.onClose(onClose)
    return release
  }

  #writeHead(plan: ResponsePlan): void {
    this.#response.writeHead(plan.status, [...plan.headers, 'X-Request-Id', this.#requestId])
  }

  #flushHead(plan: ResponsePlan): void {
    if (this.#response.headersSent || this.#connection.closed) return
    this.#writeHead(plan)
    this.#response.flushHeaders()
  }

  #fail(error: unknown): void {
    const response = this.#response
    if (this.#connection.closed || response.headersSent) {
      // The length is promised already: only a broken connection can tell that it will not be met.
      response.destroy()
      this.#end(response.statusCode, error)
      return
    }
    const problem = problemResponse(error, this.#requestId)
    response.writeHead(problem.status, [...problem.headers, 'X-Request-Id', this.#requestId])
    response.end(problem.body)
    this.#end(problem.status, error)
  }

  #end(status: number, error?: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#data[Symbol.dispose]()
    this.#observer.finished(status, this.#bytes, error)
  }
}

/** Puts small pieces together, so that a thousand small parts are a few writes. */
class Gather {
  readonly #write: (chunk: Buffer) => Promise<void>
  #buffer: Buffer | undefined
  #used = 0

  constructor(write: (chunk: Buffer) => Promise<void>) {
    this.#write = write
  }

  async add(bytes: Uint8Array): Promise<void> {
    const buffer = await this.#reserve(bytes.byteLength)
    buffer.set(bytes, this.#used)
    this.#used += bytes.byteLength
  }

  /** At most SMALL_BODY_BYTES of the handle's bytes. */
  async addRange(
    handle: DataHandle,
    offset: number,
    length: number,
    signal: AbortSignal,
  ): Promise<void> {
    const buffer = await this.#reserve(length)
    if (!handle.readInto(buffer, this.#used, offset, length)) {
      const lease = await handle.read(offset, length, { signal })
      let at = this.#used
      for (const part of lease.parts) {
        buffer.set(part, at)
        at += part.byteLength
      }
      lease.release()
    }
    this.#used += length
  }

  async flush(): Promise<void> {
    if (this.#buffer === undefined || this.#used === 0) return
    const chunk = this.#buffer.subarray(0, this.#used)
    this.#used = 0
    await this.#write(chunk)
  }

  async #reserve(bytes: number): Promise<Buffer> {
    this.#buffer ??= Buffer.allocUnsafe(GATHER_BYTES) // only what was written of it is sent
    if (this.#used + bytes > GATHER_BYTES) await this.flush()
    return this.#buffer
  }
}

/** The leases that make up a range: one where it fits the pin budget, a stream of them otherwise. */
async function* leases(
  handle: DataHandle,
  offset: number,
  length: number,
  signal: AbortSignal,
): AsyncGenerator<Lease> {
  if (length <= handle.pinBudgetBytes) yield await handle.read(offset, length, { signal })
  else yield* handle.stream(offset, length, { signal })
}

function connectionEnded(cause: unknown): AppError {
  return new AppError('ERR_ABORTED', 'the client closed the connection', { cause })
}
