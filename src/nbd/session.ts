/**
 * The transmission phase of one connection: takes parsed requests through validateRequest, execute,
 * toNbdErrno and encodeReply, keeps the bounds on what is in flight, and puts replies into the output queue.
 * It touches no socket; connection.ts feeds it bytes and asks whether it wants more.
 */
import type { Budget } from './budget.ts'
import { BudgetShare } from './budget.ts'
import type { RequestHeader } from './codec.ts'
import { encodeError, encodeReply, replyHeaderSize } from './codec.ts'
import { messageOf, NbdError, toNbdErrno } from './errors.ts'
import type { NbdExport, ReplyPiece } from './export.ts'
import type { NbdLimits } from './limits.ts'
import type { Meter } from './meter.ts'
import type { OutputQueue } from './output.ts'
import { COPY_REPLY_BYTES, sizeOf } from './output.ts'
import type { ReadOwner } from './pending-read.ts'
import { PendingRead } from './pending-read.ts'
import type { NbdErrno } from './protocol.ts'
import { nameOf, NBD_CMD } from './protocol.ts'
import type { RequestRules } from './request.ts'
import { replyBytes, validateRequest } from './request.ts'
import { StreamLine } from './stream-reply.ts'
import type { TransmissionHandler } from './transmission.ts'
import { Transmission } from './transmission.ts'

export interface SessionOptions {
  readonly target: NbdExport
  readonly structured: boolean
  readonly limits: NbdLimits
  readonly output: OutputQueue
  readonly meter: Meter
  readonly budget: Budget
}

export interface SessionHandler {
  /** A reply was queued, or room came back, outside of receive(): call pump() soon. */
  onPumpNeeded(): void
  /** So much was done in this turn of the event loop that others come first: call nextTurn() in the next. */
  onTurnSpent(): void
  /** DISC: finish what is in flight, then close. */
  onDisconnect(): void
  /** Close now: the client broke the protocol, or a reply cannot be completed. */
  onFatal(error: NbdError): void
  /** An export broke its contract or threw. */
  onExportError(error: unknown): void
}

/**
 * What one connection gets done in a turn of the event loop, so that one receive full of requests (2,340 in 64 KiB) does
 * not keep all others waiting: a full queue of the Linux client, four reads of 1 MiB. Some milliseconds at most.
 */
const TURN_REQUESTS = 128
const TURN_BYTES = 4 * 1024 * 1024

/**
 * Hints of one receive that are acted on: they are answered at once, so that no limit of what is in flight holds them
 * back. NBD proto: "NBD_CMD_CACHE": a server need not do anything.
 */
const MAX_HINTS = 8

export class Session implements TransmissionHandler, ReadOwner {
  readonly target: NbdExport
  readonly meter: Meter
  readonly #structured: boolean
  readonly #output: OutputQueue
  readonly #limits: NbdLimits
  readonly #rules: RequestRules
  /** Bytes of the reads in flight, counted as the budget counts them. */
  readonly #share: BudgetShare
  readonly #handler: SessionHandler
  readonly #transmission: Transmission
  readonly #streams: StreamLine
  readonly #headerSize: number
  readonly #controllers = new Set<AbortController>()

  #inFlight = 0
  /** Taken in this turn of the event loop. */
  #turnRequests = 0
  #turnBytes = 0
  /** NBD_CMD_CACHE acted on since the last receive began. */
  #hints = 0
  /** Reads answered by the fast path since the last pump(): they share one duration. */
  #fastReads = 0
  #receivedAt = 0
  #pumping = false
  #stopped = false
  #closed = false

  constructor(options: SessionOptions, handler: SessionHandler) {
    this.target = options.target
    this.meter = options.meter
    this.#structured = options.structured
    this.#output = options.output
    this.#limits = options.limits
    this.#handler = handler
    this.#share = new BudgetShare(options.budget, () => handler.onPumpNeeded())
    this.#rules = {
      size: options.target.size,
      structured: options.structured,
      maxRequestBytes: options.limits.maxRequestBytes,
    }
    this.#headerSize = replyHeaderSize(options.structured, 1)
    this.#transmission = new Transmission(this, options.limits.maxSwallowBytes)
    this.#streams = new StreamLine(options.output, options.structured, {
      onPumpNeeded: () => handler.onPumpNeeded(),
      onFinished: (read) => this.#finishRead(read, read.length),
      onFailed: (read, error, partial) => this.#streamFailed(read, error, partial),
      onBroken: (read, error) => this.#streamBroken(read, error),
    })
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** True while the parser is stopped: read no more from the socket. */
  get blocked(): boolean {
    return this.#transmission.state === 'blocked'
  }

  /** Everything that will be answered is answered and written. */
  get idle(): boolean {
    return this.#inFlight === 0 && (this.#stopped || !this.blocked)
  }

  /**
   * Bytes from the client, received at `now` (performance.now()). The chunk may be reused afterwards.
   * @returns how many reads it asked for, if it was small reads alone and all are answered and written; else 0
   */
  receive(chunk: Buffer, now: number): number {
    if (this.#stopped) return 0
    if (!this.blocked) this.#startTurn()
    this.#hints = 0
    const before = this.meter.requests
    this.#receivedAt = now
    this.#pumping = true
    this.#transmission.push(chunk)
    this.#pumping = false
    const fastReads = this.#fastReads
    this.pump()
    const answered = this.#inFlight === 0 && !this.blocked
    return answered && this.meter.requests - before === fastReads ? fastReads : 0
  }

  /** Goes on where onTurnSpent() has stopped. */
  nextTurn(): void {
    this.#startTurn()
    this.pump()
  }

  /** Writes what is queued and goes on with requests that there was no room for. */
  pump(): void {
    if (this.#pumping || this.#closed) return
    this.#pumping = true
    let before
    do {
      before = this.meter.requests
      if (this.#fastReads > 0) {
        this.meter.latency(performance.now() - this.#receivedAt, this.#fastReads)
        this.#fastReads = 0
      }
      this.#output.flush()
      if (!this.#stopped) this.#transmission.resume()
    } while (this.meter.requests !== before)
    this.#pumping = false
    this.meter.inFlight(this.#inFlight, this.#share.bytes)
    this.#streams.checkRoom()
  }

  /** Takes no further request: what is in flight is still answered. */
  stop(): void {
    this.#stopped = true
    this.#share.leave()
  }

  /** The connection is gone and the output queue aborted. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.stop()
    this.#share.close()
    this.#inFlight = 0
    this.meter.inFlight(0, 0)
    for (const controller of this.#controllers) controller.abort()
    this.#controllers.clear()
    this.#streams.close()
    this.target.close()
  }

  /** From the output queue: so many requests are answered and written. */
  written(requests: number, bytes: number): void {
    if (this.#closed) return
    this.#inFlight -= requests
    if (bytes > 0) this.#share.give(bytes)
  }

  hasRoom(request: RequestHeader): boolean {
    const { maxInFlight, maxInFlightBytes } = this.#limits
    if (this.#inFlight >= maxInFlight) return false
    if (this.#turnRequests >= TURN_REQUESTS || this.#turnBytes >= TURN_BYTES) {
      this.#handler.onTurnSpent()
      return false
    }
    const bytes = replyBytes(request, this.#rules)
    if (bytes === 0) return true
    if (this.#inFlight > 0 && this.#share.bytes + bytes > maxInFlightBytes) return false
    return this.#share.hasRoom(this.#share.charge(bytes))
  }

  onRequest(request: RequestHeader): void {
    this.#inFlight++
    this.#turnRequests++
    this.meter.request(request.type)
    const errno = validateRequest(request, this.#rules)
    if (errno === undefined) {
      this.#execute(request)
    } else {
      const command = nameOf(NBD_CMD, 'NBD_CMD', request.type)
      this.#replyError(request, request.type, errno, `${command} refused: ${WHY[errno] ?? errno}`)
      this.#output.endRequest(0)
    }
  }

  onDisconnect(): void {
    this.meter.request(NBD_CMD.DISC)
    this.stop()
    this.#handler.onDisconnect()
  }

  onViolation(error: NbdError): void {
    this.stop()
    this.#handler.onFatal(error)
  }

  sendRead(read: PendingRead, parts: readonly Uint8Array[], release: () => void): void {
    const length = sizeOf(parts)
    if (this.#closed || length !== read.length) {
      this.#release(release)
      if (!this.#closed) this.#contractBroken(read, length)
      return
    }
    this.#replyHeader(read, read.length)
    if (length <= COPY_REPLY_BYTES) {
      for (const part of parts) this.#output.copy(part)
      this.#release(release)
    } else {
      this.#output.append(parts, release)
    }
    this.#finishRead(read, length)
    if (!this.#pumping) this.#handler.onPumpNeeded()
  }

  streamRead(read: PendingRead, pieces: AsyncIterable<ReplyPiece>): void {
    this.#streams.add(read, pieces)
  }

  failRead(read: PendingRead, errno: NbdErrno, message: string): void {
    if (this.#closed) return
    this.#replyError(read, NBD_CMD.READ, errno, message)
    this.#finishRead(read, 0)
    if (!this.#pumping) this.#handler.onPumpNeeded()
  }

  watch(controller: AbortController): void {
    if (this.#closed) controller.abort()
    else this.#controllers.add(controller)
  }

  unwatch(controller: AbortController): void {
    this.#controllers.delete(controller)
  }

  #startTurn(): void {
    this.#turnRequests = 0
    this.#turnBytes = 0
  }

  /** Carries out a valid request. */
  #execute(request: RequestHeader): void {
    const { type, length } = request
    if (type === NBD_CMD.READ && length > 0) {
      this.#turnBytes += length
      this.#share.take(this.#share.charge(length))
      this.meter.readAsked(length)
      if (length <= COPY_REPLY_BYTES && this.#readInto(request)) return
      this.#read(request)
      return
    }
    if (type === NBD_CMD.CACHE) this.#cache(request)
    this.#replyHeader(request, 0)
    this.#output.endRequest(0)
  }

  /** The fast path: the export copies into the reply that is being gathered. */
  #readInto(request: RequestHeader): boolean {
    const { target } = this
    if (target.readInto === undefined) return false
    const { offset, length } = request
    const header = this.#headerSize
    const gather = this.#output.reserve(header + length)
    const at = gather.used
    if (!target.readInto(gather.bytes, at + header, offset, length)) return false
    const { cookieHigh, cookieLow } = request
    encodeReply(gather.view, at, this.#structured, cookieHigh, cookieLow, offset, length)
    this.#output.commit(header + length)
    this.#output.endRequest(this.#share.charge(length))
    this.meter.readServed(length)
    this.#fastReads++
    return true
  }

  #read(request: RequestHeader): void {
    const read = new PendingRead(this, request, this.#receivedAt)
    try {
      this.target.read(request.offset, request.length, read)
    } catch (error) {
      this.#handler.onExportError(error)
      read.fail(toNbdErrno(error), messageOf(error))
    }
  }

  #cache({ offset, length }: RequestHeader): void {
    if (length === 0 || ++this.#hints > MAX_HINTS) return
    try {
      this.target.cache?.(offset, Math.min(length, this.#limits.maxRequestBytes))
    } catch (error) {
      // The client asked for a hint to be taken: it loses nothing when that fails.
      this.#handler.onExportError(error)
    }
  }

  /** The header of a reply without error, `length` bytes of data to follow. */
  #replyHeader(request: RequestHeader | PendingRead, length: number): void {
    const size = replyHeaderSize(this.#structured, length)
    const { view, used } = this.#output.reserve(size)
    const { cookieHigh, cookieLow, offset } = request
    encodeReply(view, used, this.#structured, cookieHigh, cookieLow, offset, length)
    this.#output.commit(size)
  }

  #replyError(
    request: RequestHeader | PendingRead,
    type: number,
    errno: NbdErrno,
    message: string,
  ): void {
    this.meter.error(type, errno)
    const { cookieHigh, cookieLow } = request
    this.#output.copy(encodeError(this.#structured, cookieHigh, cookieLow, errno, message))
  }

  /** The last byte of a read's reply is queued. */
  #finishRead(read: PendingRead, served: number): void {
    if (served > 0) this.meter.readServed(served)
    this.meter.latency(performance.now() - read.receivedAt, 1)
    this.#output.endRequest(this.#share.charge(read.length))
  }

  #contractBroken(read: PendingRead, length: number): void {
    const what = `export '${this.target.name}' answered a read of ${read.length} bytes`
    this.#handler.onExportError(new NbdError('ERR_NBD_EXPORT', `${what} with ${length}`))
    this.failRead(read, 'EIO', 'internal error')
  }

  #streamFailed(read: PendingRead, error: unknown, partial: boolean): void {
    this.#handler.onExportError(error)
    if (partial) {
      this.meter.error(NBD_CMD.READ, toNbdErrno(error))
      this.#finishRead(read, 0)
      return
    }
    this.failRead(read, toNbdErrno(error), messageOf(error))
  }

  #streamBroken(read: PendingRead, error: unknown): void {
    this.meter.error(NBD_CMD.READ, toNbdErrno(error))
    const where = `read of ${read.length} bytes at ${read.offset} failed behind its header`
    this.#handler.onExportError(error)
    this.#handler.onFatal(new NbdError('ERR_NBD_READ', where, error))
  }

  #release(release: () => void): void {
    try {
      release()
    } catch (error) {
      this.#handler.onExportError(error)
    }
  }
}

const WHY: Partial<Record<NbdErrno, string>> = {
  EPERM: 'the export is read-only.',
  EINVAL: 'unknown command or flag, or a range outside of the export or the limits.',
}
