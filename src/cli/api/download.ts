/**
 * Receives bytes of the server into a local file: zeros become holes, the digest is compared, and the file has its name
 * only when it is whole.
 */
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { open, rename, rm } from 'node:fs/promises'

import type { Digest } from '../../core/index.ts'
import { AppError, formatSize, KIB } from '../../core/index.ts'
import type { ApiClient } from './client.ts'

export interface Download {
  /** Path of the API. */
  readonly from: string
  readonly to: string
  readonly sizeBytes: number
  /** What the bytes must hash to, where that is known. */
  readonly digest: Digest | undefined
}

/** Runs of zeros of this length and position stay holes. */
const HOLE_BYTES = 64 * KIB
const ZEROS = Buffer.alloc(HOLE_BYTES)

/** @throws ERR_CLI_FILE_UNWRITABLE, ERR_CLI_DOWNLOAD, and what ApiClient throws: nothing is left behind */
export async function download(
  client: ApiClient,
  { from, to, sizeBytes, digest }: Download,
  onReceived: (bytes: number) => void,
): Promise<void> {
  const partial = `${to}.part`
  try {
    const file = await open(partial, 'w').catch((error: unknown) => {
      throw unwritable(to, error)
    })
    try {
      const found = await receive(client, from, new SparseWriter(file, to), onReceived)
      if (found.sizeBytes !== sizeBytes || (digest !== undefined && found.digest !== digest)) {
        throw new AppError(
          'ERR_CLI_DOWNLOAD',
          `${client.urlOf(from)} gave ${formatSize(found.sizeBytes)} with the digest ${found.digest}, ` +
            `expected ${formatSize(sizeBytes)}${digest === undefined ? '' : ` with ${digest}`}`,
        )
      }
      await file.truncate(sizeBytes)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(partial, to).catch((error: unknown) => {
      throw unwritable(to, error)
    })
  } catch (error) {
    await rm(partial, { force: true })
    throw error
  }
}

async function receive(
  client: ApiClient,
  from: string,
  writer: SparseWriter,
  onReceived: (bytes: number) => void,
): Promise<{ readonly sizeBytes: number; readonly digest: Digest }> {
  const response = await client.stream(from, { headers: { accept: '*/*' } })
  const hasher = createHash('sha256')
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      hasher.update(chunk)
      await writer.push(chunk)
      onReceived(writer.length)
    }
  } catch (error) {
    throw client.connectionError(error)
  }
  await writer.end()
  return { sizeBytes: writer.length, digest: `sha256:${hasher.digest('hex')}` }
}

/** Gathers what comes into pieces of one hole's size. */
class SparseWriter {
  readonly #file: FileHandle
  readonly #path: string
  readonly #piece = Buffer.alloc(HOLE_BYTES)
  #filled = 0
  #written = 0

  /** @param path what errors call the file */
  constructor(file: FileHandle, path: string) {
    this.#file = file
    this.#path = path
  }

  get length(): number {
    return this.#written + this.#filled
  }

  async push(chunk: Buffer): Promise<void> {
    for (let at = 0; at < chunk.length;) {
      const count = chunk.copy(this.#piece, this.#filled, at)
      this.#filled += count
      at += count
      if (this.#filled === HOLE_BYTES) await this.end()
    }
  }

  async end(): Promise<void> {
    const piece = this.#piece.subarray(0, this.#filled)
    if (!piece.equals(ZEROS.subarray(0, piece.length))) {
      for (let done = 0; done < piece.length;) {
        const { bytesWritten } = await this.#file
          .write(piece, done, piece.length - done, this.#written + done)
          .catch((error: unknown) => {
            throw unwritable(this.#path, error)
          })
        done += bytesWritten
      }
    }
    this.#written += this.#filled
    this.#filled = 0
  }
}

function unwritable(path: string, cause: unknown): AppError {
  const why = cause instanceof Error ? cause.message : String(cause)
  return new AppError('ERR_CLI_FILE_UNWRITABLE', `cannot write ${path}: ${why}`, { cause })
}
