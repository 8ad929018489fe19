/**
 * Takes the bytes of a blob in their final order, writes them in large pieces and hashes them as they
 * pass: the whole and each 16 KiB page. Memory is one buffer; page digests go to a file of their own.
 * Synchronous: for the import process.
 */
import { createHash, hash } from 'node:crypto'

import type { Digest } from '../core/index.ts'
import { DIGEST_PAGE_BYTES } from './layout.ts'
import { SpoolFile } from './spool-file.ts'

/** 64 pages: each page lies whole inside the buffer. */
const BUFFER_BYTES = 64 * DIGEST_PAGE_BYTES

export class BlobSink implements Disposable {
  readonly #file: SpoolFile
  readonly #pages: SpoolFile
  readonly #hash = createHash('sha256')
  readonly #buffer = Buffer.allocUnsafe(BUFFER_BYTES)
  #buffered = 0
  #size = 0

  /** @param path the blob's staged file; page digests are kept in `path`.pages */
  constructor(path: string) {
    this.#file = new SpoolFile(path)
    try {
      this.#pages = new SpoolFile(`${path}.pages`)
    } catch (error) {
      this.#file[Symbol.dispose]()
      throw error
    }
  }

  /** Bytes taken so far. */
  get size(): number {
    return this.#size
  }

  get path(): string {
    return this.#file.path
  }

  /** @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  write(bytes: Uint8Array): void {
    this.#size += bytes.byteLength
    for (let at = 0; at < bytes.byteLength;) {
      const count = Math.min(bytes.byteLength - at, BUFFER_BYTES - this.#buffered)
      this.#buffer.set(bytes.subarray(at, at + count), this.#buffered)
      this.#buffered += count
      at += count
      if (this.#buffered === BUFFER_BYTES) this.#flush()
    }
  }

  /** The staged file is complete when this returns; nothing more may be written. */
  finish(): { readonly digest: Digest; readonly pageDigests: SpoolFile } {
    this.#flush()
    this.#file.close()
    return { digest: `sha256:${this.#hash.digest('hex')}`, pageDigests: this.#pages }
  }

  /** Removes what is left of both files. */
  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]()
    this.#pages[Symbol.dispose]()
  }

  #flush(): void {
    const filled = this.#buffer.subarray(0, this.#buffered)
    this.#hash.update(filled)
    for (let at = 0; at < filled.byteLength; at += DIGEST_PAGE_BYTES) {
      this.#pages.append(hash('sha256', filled.subarray(at, at + DIGEST_PAGE_BYTES), 'buffer'))
    }
    this.#file.append(filled)
    this.#buffered = 0
  }
}
