/**
 * A local file that receives an upload before it is imported: bounded by the space that was set aside
 * for it, removed when it is disposed of or when the store opens again.
 */
import * as fs from 'node:fs/promises'

import { AppError } from '../core/index.ts'
import { writeError } from './errors.ts'

export class StagedUpload implements AsyncDisposable {
  readonly path: string
  readonly #handle: fs.FileHandle
  /** What is set aside for it. */
  readonly maxBytes: number
  readonly #release: () => void
  #size = 0
  #open = true

  private constructor(path: string, handle: fs.FileHandle, maxBytes: number, release: () => void) {
    this.path = path
    this.#handle = handle
    this.maxBytes = maxBytes
    this.#release = release
  }

  /** @param release called once when the file is gone @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  static async create(path: string, maxBytes: number, release: () => void): Promise<StagedUpload> {
    try {
      return new StagedUpload(path, await fs.open(path, 'wx'), maxBytes, release)
    } catch (error) {
      release()
      throw writeError(error, path)
    }
  }

  /** Bytes so far. */
  get size(): number {
    return this.#size
  }

  /**
   * Writes all of `source`, one piece at a time.
   *
   * @throws ERR_STORE_TOO_LARGE beyond the announced size, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED,
   *   ERR_ABORTED; the file is removed
   */
  async receive(source: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<void> {
    try {
      for await (const piece of source) {
        if (signal?.aborted === true) throw new AppError('ERR_ABORTED', 'the upload was cancelled')
        if (this.#size + piece.byteLength > this.maxBytes) {
          throw new AppError(
            'ERR_STORE_TOO_LARGE',
            `the upload is larger than the ${this.maxBytes} bytes that were set aside`,
          )
        }
        await this.#write(piece)
      }
    } catch (error) {
      await this[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Closes and removes the file and gives its space back. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#open) return
    this.#open = false
    try {
      await this.#handle.close()
      await fs.rm(this.path, { force: true })
    } finally {
      this.#release()
    }
  }

  async #write(piece: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < piece.byteLength;) {
        const left = piece.byteLength - done
        const { bytesWritten } = await this.#handle.write(piece, done, left, this.#size)
        done += bytesWritten
        this.#size += bytesWritten
      }
    } catch (error) {
      throw writeError(error, this.path)
    }
  }
}
