/**
 * Sends a local file as the body of a POST. The server is asked first (`Expect: 100-continue`), so that a
 * full disk or a wrong reference costs no transfer; an answer that comes early stops the transfer.
 */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { ClientRequest, IncomingMessage } from 'node:http'

import { AppError, formatSize, KIB } from '../../core/index.ts'
import type { ApiClient } from './client.ts'

/** RFC 9110, 10.1.1: a client must not wait for 100 forever; servers before a proxy may never send it. */
const CONTINUE_TIMEOUT_MS = 2000
const PIECE_BYTES = 256 * KIB
/** After the body is sent, the server hashes and syncs what it staged. */
const PUBLISH_TIMEOUT_MS = 10 * 60_000

export interface LocalFile extends AsyncDisposable {
  readonly path: string
  readonly sizeBytes: number
  readonly handle: FileHandle
}

/** Opens a regular file. A fifo is refused like a directory, without waiting for its writer. @throws ERR_CLI_FILE_UNREADABLE */
export async function openLocalFile(path: string): Promise<LocalFile> {
  let handle: FileHandle
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw unreadable(path, reasonOf(error), error)
  }
  try {
    const status = await handle.stat()
    if (!status.isFile()) throw unreadable(path, 'it is not a regular file')
    if (status.size === 0) throw unreadable(path, 'it is empty')
    return {
      path,
      sizeBytes: status.size,
      handle,
      [Symbol.asyncDispose]: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  EACCES: 'permission denied',
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? String(error.code) : ''
  return REASONS[code] ?? error.message
}

/**
 * POSTs the file and gives the JSON answer.
 * @throws ERR_CLI_FILE_CHANGED, and what ApiClient throws
 */
export async function uploadFile<T>(
  client: ApiClient,
  path: string,
  file: LocalFile,
  onSent: (bytes: number) => void,
): Promise<T> {
  const request = client.start(path, {
    method: 'POST',
    headers: {
      'content-type': 'application/octet-stream',
      'content-length': file.sizeBytes,
      expect: '100-continue',
    },
  })
  const answered = answerOf(request, client)
  try {
    await mayContinue(request, answered)
    const outcome = await Promise.race([
      answered.then((response) => ({ response })),
      sendBody(request, file, onSent, client.signal),
    ])
    // an answer before the end of the body is a refusal; the rest of the body stays here
    const response = outcome?.response ?? (await answered)
    await client.refuseProblem(response)
    const body = (await client.readBody(response)).toString('utf8')
    return JSON.parse(body) as T
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new AppError('ERR_CLI_BAD_RESPONSE', `${client.urlOf(path)} did not answer with JSON`)
    }
    throw error
  } finally {
    if (!request.writableFinished) request.destroy()
  }
}

function answerOf(request: ClientRequest, client: ApiClient): Promise<IncomingMessage> {
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve)
    request.on('error', (error) => reject(client.connectionError(error)))
    request.setTimeout(PUBLISH_TIMEOUT_MS, () => {
      request.destroy(new Error('the transfer made no progress'))
    })
  })
  // the body may fail first; the rejection is then looked at nowhere else
  answered.catch(() => undefined)
  return answered
}

/** Resolves when the body may be sent: the server said so, or said nothing for a while, or answered. */
async function mayContinue(
  request: ClientRequest,
  answered: Promise<IncomingMessage>,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>()
  request.once('continue', () => resolve(undefined))
  request.flushHeaders()
  request.once('socket', (socket) => {
    const arm = (): void => {
      setTimeout(() => resolve(undefined), CONTINUE_TIMEOUT_MS).unref()
    }
    if (socket.connecting) socket.once('connect', arm)
    else arm()
  })
  await Promise.race([promise, answered])
}

/** Resolves with nothing when the whole body is handed over, or when the connection is gone. */
async function sendBody(
  request: ClientRequest,
  file: LocalFile,
  onSent: (bytes: number) => void,
  signal: AbortSignal,
): Promise<undefined> {
  let offset = 0
  while (offset < file.sizeBytes) {
    signal.throwIfAborted()
    // each piece is handed to the socket, which keeps it until it is written
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, file.sizeBytes - offset))
    const { bytesRead } = await file.handle.read(piece, 0, piece.length, offset)
    if (bytesRead === 0) {
      throw new AppError(
        'ERR_CLI_FILE_CHANGED',
        `${file.path} ended at ${formatSize(offset)} while it was sent, it was ${formatSize(file.sizeBytes)} before`,
      )
    }
    if (request.destroyed || request.writableEnded) return undefined
    if (!request.write(piece.subarray(0, bytesRead))) await drained(request)
    offset += bytesRead
    onSent(offset)
  }
  request.end()
  return undefined
}

function drained(request: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      request.off('drain', settle)
      request.off('close', settle)
      request.off('response', settle)
      resolve()
    }
    request.once('drain', settle)
    request.once('close', settle)
    request.once('response', settle)
  })
}

function unreadable(path: string, why: string, cause?: unknown): AppError {
  return new AppError('ERR_CLI_FILE_UNREADABLE', `cannot read ${path}: ${why}`, { cause })
}
