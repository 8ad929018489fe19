/**
 * Receives a request's body into a file that the control plane has made: bounded memory, bounded size, and
 * an end to bodies that do not move. It neither admits nor publishes anything.
 */
import type { FileHandle } from 'node:fs/promises'
import { open } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'

import { AppError, formatSize } from '../../core/index.ts'
import { writeError } from '../../store/index.ts'
import {
  HTTP_TIMEOUTS,
  PIECE_OVERHEAD_BYTES,
  UPLOAD_BUFFER_BYTES,
  UPLOAD_MIN_PROGRESS_BYTES,
} from './limits.ts'

export interface ReceiveOptions {
  readonly path: string
  readonly limitBytes: number
  /** ms; how long a body may take for UPLOAD_MIN_PROGRESS_BYTES. */
  readonly progressPeriodMs?: number
}

/**
 * Refuses bodies whose bytes are not those of what is uploaded: coded ones, and parts of one (RFC 9110 §14.5).
 * @throws ERR_HTTP_MEDIA_TYPE_UNSUPPORTED, ERR_HTTP_REQUEST_INVALID
 */
export function checkBodyIsWhole({ headers }: IncomingMessage): void {
  const coding = headers['content-encoding'] ?? 'identity'
  if (coding.toLowerCase() !== 'identity') {
    throw new AppError(
      'ERR_HTTP_MEDIA_TYPE_UNSUPPORTED',
      'the body has a Content-Encoding, uploads are taken as they are only',
    )
  }
  if (headers['content-range'] !== undefined) {
    throw new AppError('ERR_HTTP_REQUEST_INVALID', 'the body is a part, uploads are whole', {
      hint: 'uploads cannot be resumed: send all of it again, without Content-Range',
    })
  }
}

/** The announced size of a body; undefined when it is chunked. */
export function announcedSize(request: IncomingMessage): number | undefined {
  if (request.headers['transfer-encoding'] !== undefined) return undefined
  return Number(request.headers['content-length'] ?? 0)
}

/**
 * Writes the whole body to `path`. @returns its size in bytes
 * @throws ERR_HTTP_BODY_TOO_LARGE, ERR_HTTP_BODY_TIMEOUT, ERR_HTTP_UPLOAD_ABORTED, ERR_STORE_FULL,
 * ERR_STORE_WRITE_FAILED
 */
export async function receiveBody(
  request: IncomingMessage,
  options: ReceiveOptions,
): Promise<number> {
  try {
    await using file = await open(options.path, 'w')
    return await new BodyReceiver(request, file, options).run()
  } catch (error) {
    throw writeError(error, options.path)
  }
}

class BodyReceiver {
  readonly #request: IncomingMessage
  readonly #file: FileHandle
  readonly #options: ReceiveOptions
  #pending: Buffer[] = []
  /** Memory of the pieces that are pending or being written. */
  #heldBytes = 0
  #received = 0
  #written = 0
  #writing = false
  #lastWrite: Promise<void> = Promise.resolve()
  #complete = false
  #settled = false

  constructor(request: IncomingMessage, file: FileHandle, options: ReceiveOptions) {
    this.#request = request
    this.#file = file
    this.#options = options
  }

  async run(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const settle = (error?: Error): void => {
      if (this.#settled) return
      this.#settled = true
      if (error === undefined) resolve()
      else reject(error)
    }
    const onData = (chunk: Buffer): void => this.#take(chunk, settle)
    const onEnd = (): void => {
      this.#complete = true
      this.#startDrain(settle)
    }
    const onClose = (): void => {
      if (!this.#complete) settle(aborted(this.#received))
    }
    const timer = this.#watchProgress(settle)
    this.#request.on('data', onData)
    this.#request.once('end', onEnd)
    this.#request.once('close', onClose)
    this.#request.once('error', onClose)
    // The client may have left while the upload was admitted: then no event tells it any more.
    if (this.#request.destroyed) onClose()
    try {
      await promise
    } finally {
      clearInterval(timer)
      this.#request.off('data', onData)
      this.#request.off('end', onEnd)
      this.#request.pause()
      // The file is closed next: a write still under way would meet whatever gets its descriptor.
      await this.#lastWrite
    }
    return this.#written
  }

  #take(chunk: Buffer, settle: (error?: Error) => void): void {
    this.#received += chunk.length
    if (this.#received > this.#options.limitBytes) {
      settle(tooLarge(this.#options.limitBytes))
      return
    }
    this.#pending.push(chunk)
    this.#heldBytes += memoryOf(chunk)
    if (this.#heldBytes >= UPLOAD_BUFFER_BYTES) this.#request.pause()
    this.#startDrain(settle)
  }

  #startDrain(settle: (error?: Error) => void): void {
    if (!this.#writing) this.#lastWrite = this.#drain(settle)
  }

  /** Never rejects. */
  async #drain(settle: (error?: Error) => void): Promise<void> {
    this.#writing = true
    try {
      while (this.#pending.length > 0 && !this.#settled) {
        const pieces = this.#pending
        this.#pending = []
        await this.#write(pieces)
        for (const piece of pieces) this.#heldBytes -= memoryOf(piece)
        if (this.#heldBytes < UPLOAD_BUFFER_BYTES) this.#request.resume()
      }
      if (this.#complete) settle()
    } catch (error) {
      settle(writeError(error, this.#options.path))
    } finally {
      this.#writing = false
    }
  }

  async #write(pieces: readonly Buffer[]): Promise<void> {
    let rest = pieces
    while (rest.length > 0) {
      const { bytesWritten } = await this.#file.writev(rest, this.#written)
      this.#written += bytesWritten
      // A full disk may take a part: writing the rest then gives the error itself.
      rest = withoutFirst(rest, bytesWritten)
    }
  }

  #watchProgress(settle: (error?: Error) => void): NodeJS.Timeout {
    const periodMs = this.#options.progressPeriodMs ?? HTTP_TIMEOUTS.uploadPeriodMs
    let before = 0
    return setInterval(() => {
      const waitsForClient = !this.#writing && !this.#complete
      if (waitsForClient && this.#received - before < UPLOAD_MIN_PROGRESS_BYTES) {
        settle(tooSlow(this.#received - before, periodMs))
      }
      before = this.#received
    }, periodMs)
  }
}

function memoryOf(piece: Buffer): number {
  return piece.length + PIECE_OVERHEAD_BYTES
}

/** `pieces` without their first `bytes` bytes. */
function withoutFirst(pieces: readonly Buffer[], bytes: number): readonly Buffer[] {
  let left = bytes
  for (const [i, piece] of pieces.entries()) {
    if (left < piece.length) return [piece.subarray(left), ...pieces.slice(i + 1)]
    left -= piece.length
  }
  return []
}

function aborted(received: number): AppError {
  return new AppError(
    'ERR_HTTP_UPLOAD_ABORTED',
    `the connection ended after ${received} bytes of the body`,
  )
}

function tooLarge(limit: number): AppError {
  return new AppError(
    'ERR_HTTP_BODY_TOO_LARGE',
    `the body is larger than the ${formatSize(limit)} that were admitted`,
  )
}

function tooSlow(bytes: number, periodMs: number): AppError {
  return new AppError(
    'ERR_HTTP_BODY_TIMEOUT',
    `only ${bytes} bytes of the body came in ${periodMs} ms`,
    { hint: `send at least ${UPLOAD_MIN_PROGRESS_BYTES} bytes in that time` },
  )
}
