/** A file whose bytes are imported: the image itself, a device, or an archive. Synchronous, for the import process. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

import { IMPORT_CALL_BYTES, MIB } from '../../core/index.ts'
import { imageError } from '../errors.ts'

/** Large enough that the cost of a system call does not show, small enough to stay in the L2/L3 cache. */
const WINDOW_BYTES = MIB

interface ByteRange {
  readonly offset: number
  readonly length: number
}

export class SourceFile implements Disposable {
  /** Bytes. */
  readonly size: number
  readonly #fd: number
  /** Byte of the file where these bytes start. */
  readonly #base: number
  /** Made when it is needed first. */
  #window: Buffer | undefined
  #start = 0
  #filled = 0

  private constructor(fd: number, range: ByteRange | undefined) {
    this.#fd = fd
    this.#base = range?.offset ?? 0
    this.size = range?.length ?? fstatSync(fd).size
  }

  /** @param range the part of the file that counts; default: all of it @throws ERR_IMPORT_SOURCE */
  static open(path: string, range?: ByteRange): SourceFile {
    try {
      return new SourceFile(openSync(path, 'r'), range)
    } catch (error) {
      throw imageError('ERR_IMPORT_SOURCE', `cannot open the bytes to import`, { cause: error })
    }
  }

  /** Fills `target` from `position`. @throws ERR_IMPORT_SOURCE */
  read(target: Buffer, position: number): void {
    for (let done = 0; done < target.length;) {
      let read: number
      try {
        const length = Math.min(target.length - done, IMPORT_CALL_BYTES)
        read = readSync(this.#fd, target, done, length, this.#base + position + done)
      } catch (error) {
        throw imageError('ERR_IMPORT_SOURCE', `cannot read byte ${position + done} to import`, {
          cause: error,
        })
      }
      if (read === 0) {
        throw imageError(
          'ERR_IMPORT_SOURCE',
          `the bytes to import end at ${position + done}, expected ${this.size}`,
        )
      }
      done += read
    }
  }

  /** Bytes in memory that the next call may overwrite: for readers that go forward. @throws ERR_IMPORT_SOURCE */
  view(offset: number, length: number): Buffer {
    if (length > WINDOW_BYTES) {
      const bytes = Buffer.allocUnsafeSlow(length) // overwritten by the read
      this.read(bytes, offset)
      return bytes
    }
    this.#window ??= Buffer.allocUnsafeSlow(WINDOW_BYTES) // only what was read is handed out
    const at = offset - this.#start
    if (at >= 0 && at + length <= this.#filled) return this.#window.subarray(at, at + length)
    const filled = Math.min(WINDOW_BYTES, this.size - offset)
    this.#filled = 0
    this.read(this.#window.subarray(0, filled), offset)
    this.#start = offset
    this.#filled = filled
    return this.#window.subarray(0, length)
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }
}
