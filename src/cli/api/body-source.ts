/** What is sent as the body of a POST: a local file, or a stream whose length nobody knows. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Readable } from 'node:stream'

import { AppError, formatSize, KIB } from '../../core/index.ts'

const PIECE_BYTES = 256 * KIB

export interface BodySource extends AsyncDisposable {
  /** For people: what is sent. */
  readonly name: string
  /** Undefined when only the end will tell. */
  readonly sizeBytes: number | undefined
  /** The bytes, once; each piece is the receiver's. Fails when they turn out not to be whole. */
  pieces(): AsyncIterable<Buffer>
}

/** A regular file. A fifo is refused like a directory, without waiting for its writer. @throws ERR_CLI_FILE_UNREADABLE */
export async function openLocalFile(path: string): Promise<BodySource> {
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
      name: basename(path),
      sizeBytes: status.size,
      pieces: () => piecesOf(handle, path, status.size),
      [Symbol.asyncDispose]: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** Standard input. It is its owner's: what is not read of it is left there. */
export function streamSource(name: string, stream: Readable): BodySource {
  return {
    name,
    sizeBytes: undefined,
    pieces: () => stream as AsyncIterable<Buffer>,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

async function* piecesOf(
  handle: FileHandle,
  path: string,
  sizeBytes: number,
): AsyncGenerator<Buffer, void, void> {
  for (let offset = 0; offset < sizeBytes;) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, sizeBytes - offset)) // only what was read is handed on
    const { bytesRead } = await handle.read(piece, 0, piece.length, offset)
    if (bytesRead === 0) {
      throw new AppError(
        'ERR_CLI_FILE_CHANGED',
        `${path} ended at ${formatSize(offset)} while it was sent, it was ${formatSize(sizeBytes)} before`,
      )
    }
    offset += bytesRead
    yield piece.subarray(0, bytesRead)
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  EACCES: 'permission denied',
}

export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? String(error.code) : ''
  return REASONS[code] ?? error.message
}

export function unreadable(path: string, why: string, cause?: unknown): AppError {
  return new AppError('ERR_CLI_FILE_UNREADABLE', `cannot read ${path}: ${why}`, { cause })
}
