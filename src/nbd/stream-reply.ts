/**
 * Replies too large to hold at once. Streams of a connection take turns, so that one of them holds pieces at
 * a time. A structured reply is one chunk per piece, other replies may go between; a simple reply, and one
 * with DF, is a single run of bytes that holds the line from its first piece to its last.
 */
import { encodeDataChunk, encodeErrorOffset, encodeReply, replyHeaderSize } from './codec.ts'
import { messageOf, NbdError, toNbdErrno } from './errors.ts'
import type { ReplyPiece } from './export.ts'
import type { OutputQueue } from './output.ts'
import { sizeOf } from './output.ts'
import type { PendingRead } from './pending-read.ts'
import { NBD_CMD_FLAG, NBD_SIZE } from './protocol.ts'

export interface StreamHandler {
  /** Bytes were queued: pump soon. */
  onPumpNeeded(): void
  onFinished(read: PendingRead): void
  /** Failed; `partial` says that the client was told already, behind some of the bytes. */
  onFailed(read: PendingRead, error: unknown, partial: boolean): void
  /** Failed behind the header of a simple reply: the connection has to go. */
  onBroken(read: PendingRead, error: unknown): void
}

/** Bytes waiting for the socket at which no further piece is asked for. */
const QUEUE_BYTES = 1024 * 1024
const ZEROES = Buffer.alloc(64 * 1024)

export class StreamLine {
  readonly #output: OutputQueue
  readonly #structured: boolean
  readonly #handler: StreamHandler
  readonly #waiting: { read: PendingRead; pieces: AsyncIterable<ReplyPiece> }[] = []
  #running = false
  /** The connection is gone, or broken and about to go. */
  #closed = false
  #wake: (() => void) | undefined

  constructor(output: OutputQueue, structured: boolean, handler: StreamHandler) {
    this.#output = output
    this.#structured = structured
    this.#handler = handler
  }

  add(read: PendingRead, pieces: AsyncIterable<ReplyPiece>): void {
    if (this.#closed) {
      void abandon(pieces)
      return
    }
    this.#waiting.push({ read, pieces })
    if (!this.#running) void this.#run()
  }

  /** Bytes were written: lets the stream go on when there is room. */
  checkRoom(): void {
    if (this.#wake === undefined || (!this.#closed && this.#full())) return
    const wake = this.#wake
    this.#wake = undefined
    wake()
  }

  /** Nothing is sent any more: the streams in line are ended now, the running one when its next piece has come. */
  close(): void {
    this.#closed = true
    for (const { pieces } of this.#waiting.splice(0)) void abandon(pieces)
    this.checkRoom()
  }

  /** What a simple reply keeps waiting does not count: room for it comes only with the end of the stream. */
  #full(): boolean {
    return this.#output.aheadBytes >= QUEUE_BYTES
  }

  /** Never rejects: every failure is answered or breaks the connection. */
  async #run(): Promise<void> {
    this.#running = true
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const { read, pieces } = next
      const dontFragment = (read.flags & NBD_CMD_FLAG.DF) !== 0
      const reply =
        this.#structured && !dontFragment
          ? new ChunkedReply(this.#output, read)
          : new SingleReply(this.#output, read, this.#structured)
      try {
        await this.#copyPieces(read, pieces, reply)
        if (!this.#closed) {
          reply.finish()
          this.#handler.onFinished(read)
        }
      } catch (error) {
        if (!this.#closed) this.#fail(read, reply, error)
      }
      read.unwatch()
      this.#handler.onPumpNeeded()
    }
    this.#running = false
  }

  async #copyPieces(
    read: PendingRead,
    pieces: AsyncIterable<ReplyPiece>,
    reply: StreamedReply,
  ): Promise<void> {
    for await (const piece of pieces) {
      const length = sizeOf(piece.parts)
      if (this.#closed || reply.sent + length > read.length) {
        piece.release()
        if (this.#closed) return
        throw wrongLength(read, `more than the ${read.length}`)
      }
      if (length === 0) piece.release()
      else reply.piece(piece, length)
      this.#handler.onPumpNeeded()
      while (this.#full() && !this.#closed) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    }
    if (!this.#closed && reply.sent !== read.length) throw wrongLength(read, `${reply.sent}`)
  }

  #fail(read: PendingRead, reply: StreamedReply, error: unknown): void {
    if (reply.sent === 0) {
      this.#handler.onFailed(read, error, false)
    } else if (reply.fail(error)) {
      this.#handler.onFailed(read, error, true)
    } else {
      // The line is held by bytes that nothing can complete: no other stream may begin before `close` comes.
      this.close()
      this.#handler.onBroken(read, error)
    }
  }
}

interface StreamedReply {
  /** Bytes of data queued. */
  readonly sent: number
  piece(piece: ReplyPiece, length: number): void
  /** All bytes are queued. */
  finish(): void
  /** Tells the client about an error behind some of the bytes; false when that is impossible. */
  fail(error: unknown): boolean
}

/** One OFFSET_DATA chunk per piece, DONE in a NONE chunk or an error chunk at the end. */
class ChunkedReply implements StreamedReply {
  readonly #output: OutputQueue
  readonly #read: PendingRead
  sent = 0

  constructor(output: OutputQueue, read: PendingRead) {
    this.#output = output
    this.#read = read
  }

  piece(piece: ReplyPiece, length: number): void {
    const { cookieHigh, cookieLow, offset } = this.#read
    const size = NBD_SIZE.CHUNK_HEADER + NBD_SIZE.CHUNK_OFFSET
    const { view, used } = this.#output.reserve(size)
    encodeDataChunk(view, used, 0, cookieHigh, cookieLow, offset + this.sent, length)
    this.#output.commit(size)
    this.#output.append(piece.parts, piece.release)
    this.sent += length
  }

  finish(): void {
    queueDone(this.#output, this.#read)
  }

  fail(error: unknown): boolean {
    queueErrorOffset(this.#output, this.#read, this.sent, error)
    return true
  }
}

/** One header, then all bytes; the line is held from the first piece on. */
class SingleReply implements StreamedReply {
  readonly #output: OutputQueue
  readonly #read: PendingRead
  readonly #structured: boolean
  sent = 0

  constructor(output: OutputQueue, read: PendingRead, structured: boolean) {
    this.#output = output
    this.#read = read
    this.#structured = structured
  }

  piece(piece: ReplyPiece, length: number): void {
    if (this.sent === 0) {
      queueHeader(this.#output, this.#read, this.#structured)
      this.#output.hold()
    }
    this.#output.append(piece.parts, piece.release, true)
    this.sent += length
  }

  finish(): void {
    this.#output.unhold()
    if (this.#structured) queueDone(this.#output, this.#read)
  }

  /** A chunk cannot be cut short: zeroes up to its length, then an error chunk. */
  fail(error: unknown): boolean {
    if (!this.#structured) return false
    let missing = this.#read.length - this.sent
    while (missing > 0) {
      const length = Math.min(missing, ZEROES.length)
      this.#output.append([ZEROES.subarray(0, length)], doNothing, true)
      missing -= length
    }
    this.#output.unhold()
    queueErrorOffset(this.#output, this.#read, this.sent, error)
    return true
  }
}

function doNothing(): void {}

/** Ends a stream of which no piece will be asked for, so that it lets go of what it has. Never rejects. */
async function abandon(pieces: AsyncIterable<ReplyPiece>): Promise<void> {
  try {
    await pieces[Symbol.asyncIterator]().return?.()
  } catch {
    // The connection is gone: as with the running stream, what fails now concerns nobody.
  }
}

function queueHeader(output: OutputQueue, read: PendingRead, structured: boolean): void {
  const { cookieHigh, cookieLow, offset, length } = read
  const size = replyHeaderSize(structured, length)
  const { view, used } = output.reserve(size)
  // Not DONE: an error may still be found while the chunk is being sent.
  if (structured) encodeDataChunk(view, used, 0, cookieHigh, cookieLow, offset, length)
  else encodeReply(view, used, false, cookieHigh, cookieLow, offset, length)
  output.commit(size)
}

function queueDone(output: OutputQueue, read: PendingRead): void {
  const size = replyHeaderSize(true, 0)
  const { view, used } = output.reserve(size)
  encodeReply(view, used, true, read.cookieHigh, read.cookieLow, read.offset, 0)
  output.commit(size)
}

function queueErrorOffset(
  output: OutputQueue,
  read: PendingRead,
  sent: number,
  error: unknown,
): void {
  const { cookieHigh, cookieLow } = read
  const at = read.offset + sent
  output.copy(encodeErrorOffset(cookieHigh, cookieLow, toNbdErrno(error), messageOf(error), at))
}

function wrongLength(read: PendingRead, got: string): NbdError {
  const what = `stream of ${got} bytes for a read of ${read.length}`
  return new NbdError('ERR_NBD_EXPORT', what)
}
