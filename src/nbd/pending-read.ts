/**
 * The ReadReply that an export gets for a read that the fast path could not answer. It makes sure that a read
 * is answered once, whatever the export calls, and hands the answer to the session.
 */
import type { ReadReply, ReplyPiece } from './export.ts'
import type { NbdErrno } from './protocol.ts'

/** The session as seen from one of its reads. */
export interface ReadOwner {
  sendRead(read: PendingRead, parts: readonly Uint8Array[], release: () => void): void
  streamRead(read: PendingRead, pieces: AsyncIterable<ReplyPiece>): void
  failRead(read: PendingRead, errno: NbdErrno, message: string): void
  /** Aborts the controller when the connection ends, unless unwatched before. */
  watch(controller: AbortController): void
  unwatch(controller: AbortController): void
}

export class PendingRead implements ReadReply {
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offset: number
  readonly length: number
  readonly flags: number
  /** performance.now() at which the request was received. */
  readonly receivedAt: number
  readonly #owner: ReadOwner
  #answered = false
  #controller: AbortController | undefined

  constructor(
    owner: ReadOwner,
    request: {
      flags: number
      cookieHigh: number
      cookieLow: number
      offset: number
      length: number
    },
    receivedAt: number,
  ) {
    this.#owner = owner
    this.flags = request.flags
    this.cookieHigh = request.cookieHigh
    this.cookieLow = request.cookieLow
    this.offset = request.offset
    this.length = request.length
    this.receivedAt = receivedAt
  }

  get aborted(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (!this.#answered) this.#owner.watch(this.#controller)
    }
    return this.#controller.signal
  }

  send(parts: readonly Uint8Array[], release: () => void): void {
    if (this.#answer()) this.#owner.sendRead(this, parts, release)
    else release()
  }

  stream(pieces: AsyncIterable<ReplyPiece>): void {
    // A stream needs its signal until its last piece: the session ends the watch.
    if (this.#answered) return
    this.#answered = true
    this.#owner.streamRead(this, pieces)
  }

  fail(errno: NbdErrno, message: string): void {
    if (this.#answer()) this.#owner.failRead(this, errno, message)
  }

  /** Nobody waits for the signal any more. */
  unwatch(): void {
    if (this.#controller !== undefined) this.#owner.unwatch(this.#controller)
  }

  #answer(): boolean {
    if (this.#answered) return false
    this.#answered = true
    this.unwatch()
    return true
  }
}
