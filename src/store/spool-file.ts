/**
 * A file written once from start to end and read back in pieces: buffered, synchronous, for the import
 * process and fill threads only. It knows bytes and nothing of their meaning.
 */
import * as fs from 'node:fs'

import { IMPORT_CALL_BYTES } from '../core/index.ts'
import { corrupt, readError, writeError } from './errors.ts'

/** Large enough that a system call is cheap beside its bytes, small beside an import's other buffers. */
export const SPOOL_BUFFER_BYTES = 256 * 1024

/** Writes all of `bytes` at `position` (null: at the end). `write` may be short. */
export function writeFully(fd: number, bytes: Uint8Array, position: number | null = null): void {
  for (let done = 0; done < bytes.byteLength;) {
    const at = position === null ? null : position + done
    const length = Math.min(bytes.byteLength - done, IMPORT_CALL_BYTES)
    done += fs.writeSync(fd, bytes, done, length, at)
  }
}

/** Fills `target` from `position`. @throws ERR_STORE_CORRUPT when the file ends before that, ERR_STORE_READ_FAILED */
export function readFully(fd: number, target: Uint8Array, position: number, what: string): void {
  for (let done = 0; done < target.byteLength;) {
    let count: number
    try {
      const length = Math.min(target.byteLength - done, IMPORT_CALL_BYTES)
      count = fs.readSync(fd, target, done, length, position + done)
    } catch (error) {
      throw readError(error, what)
    }
    if (count === 0) throw corrupt(what, `it ends before byte ${position + done}`)
    done += count
  }
}

export class SpoolFile implements Disposable {
  readonly path: string
  readonly #buffer = Buffer.allocUnsafe(SPOOL_BUFFER_BYTES)
  #fd: number
  #buffered = 0
  #length = 0

  /** Creates the file, which must not exist. @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  constructor(path: string) {
    this.path = path
    try {
      this.#fd = fs.openSync(path, 'wx+')
    } catch (error) {
      throw writeError(error, path)
    }
  }

  /** Bytes appended so far. */
  get length(): number {
    return this.#length
  }

  /** The bytes are copied. @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  append(bytes: Uint8Array): void {
    this.#length += bytes.byteLength
    if (bytes.byteLength >= SPOOL_BUFFER_BYTES) {
      this.flush()
      this.#write(bytes)
      return
    }
    let rest = bytes
    while (rest.byteLength > 0) {
      const piece = rest.subarray(0, SPOOL_BUFFER_BYTES - this.#buffered)
      this.#buffer.set(piece, this.#buffered)
      this.#buffered += piece.byteLength
      rest = rest.subarray(piece.byteLength)
      if (this.#buffered === SPOOL_BUFFER_BYTES) this.flush()
    }
  }

  /** Hands everything appended to the kernel. */
  flush(): void {
    if (this.#buffered === 0) return
    this.#write(this.#buffer.subarray(0, this.#buffered))
    this.#buffered = 0
  }

  /** Overwrites bytes that were flushed. */
  overwrite(bytes: Uint8Array, position: number): void {
    try {
      writeFully(this.#fd, bytes, position)
    } catch (error) {
      throw writeError(error, this.path)
    }
  }

  /** Calls `take` with pieces of [from, end) in order; a piece is valid during the call. */
  read(from: number, take: (piece: Buffer) => void): void {
    this.flush()
    const buffer = Buffer.allocUnsafe(SPOOL_BUFFER_BYTES)
    for (let at = from; at < this.#length;) {
      const piece = buffer.subarray(0, Math.min(buffer.byteLength, this.#length - at))
      readFully(this.#fd, piece, at, this.path)
      take(piece)
      at += piece.byteLength
    }
  }

  /** Fills `target` from `position`; everything there must be flushed. */
  readAt(target: Uint8Array, position: number): void {
    readFully(this.#fd, target, position, this.path)
  }

  /** Everything appended is on disk when this returns. */
  sync(): void {
    this.flush()
    try {
      fs.fsyncSync(this.#fd)
    } catch (error) {
      throw writeError(error, this.path)
    }
  }

  /** Hands everything to the kernel and closes the file, which stays. */
  close(): void {
    this.flush()
    this.#release()
  }

  /** Closes and removes the file. Also fine when it was removed or consumed by others. */
  [Symbol.dispose](): void {
    this.#buffered = 0
    this.#release()
    fs.rmSync(this.path, { force: true })
  }

  #release(): void {
    if (this.#fd >= 0) fs.closeSync(this.#fd)
    this.#fd = -1
  }

  #write(bytes: Uint8Array): void {
    try {
      writeFully(this.#fd, bytes)
    } catch (error) {
      throw writeError(error, this.path)
    }
  }
}
