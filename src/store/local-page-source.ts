// oxlint-disable node/no-sync -- runs on fill threads, where a blocking read is the cheapest one
/**
 * Reads pages and page digests of blobs straight from the files of a local store into the cache's
 * frames, past the kernel's page cache where the file system can (O_DIRECT). For fill threads:
 * everything is synchronous. What is read is checked by the cache, not here. Files stay open until a read of
 * them goes wrong: the next one opens what then has the name, such as a good copy that was renamed over a bad one.
 */
import * as fs from 'node:fs'
import { join } from 'node:path'

import { LRUCache } from 'lru-cache'

import type { BlobKey } from '../cache/blob-table.ts'
import type { PageSource } from '../cache/page-source.ts'
import type { AppError } from '../core/index.ts'
import { DIGEST_BYTES, checkRange, parseDigest } from '../core/index.ts'
import type { BlobIndexHeader } from './blob-index-codec.ts'
import { BLOB_INDEX_HEADER_BYTES, decodeBlobIndexHeader, layoutOf } from './blob-index-codec.ts'
import { missingBlob } from './blob-store.ts'
import type { ReadCalls } from './direct-file.ts'
import { DirectFile, DirectPolicy } from './direct-file.ts'
import { corrupt, errnoOf, readError } from './errors.ts'
import { blobIndexKey, blobKey } from './layout.ts'
import { readFully } from './spool-file.ts'

export interface LocalPageSourceOptions {
  readonly dataDir: string
  /** Blobs kept open, two descriptors each. */
  readonly maxOpenBlobs?: number
  /** Memory for page digests, bytes. */
  readonly digestCacheBytes?: number
  /** False reads through the kernel's page cache from the start. */
  readonly direct?: boolean
  /** Called once per file system that cannot read directly, with the errno and a file there. */
  readonly onFallback?: (errno: string, file: string) => void
  /** For tests. */
  readonly calls?: ReadCalls
}

/** Well below the usual limit of 1,024 descriptors per process. */
const DEFAULT_OPEN_BLOBS = 128
/** 2 MiB of digests cover 1 GiB of blobs; what is not here costs a read of 4 KiB from the kernel's page cache. */
const DEFAULT_DIGEST_CACHE_BYTES = 2 * 1024 * 1024
/** Digests are read and kept in pieces of 4 KiB: those of 2 MiB of a blob. */
const PIECE_DIGESTS = 128
const PIECE_BYTES = PIECE_DIGESTS * DIGEST_BYTES

interface OpenBlob {
  readonly file: DirectFile
  readonly indexPath: string
  readonly indexFd: number
  readonly header: BlobIndexHeader
  readonly pageCount: number
}

export class LocalPageSource implements PageSource, AsyncDisposable {
  readonly #dataDir: string
  readonly #policy: DirectPolicy
  readonly #open: LRUCache<string, OpenBlob>
  readonly #digests: LRUCache<string, Buffer>

  constructor(options: LocalPageSourceOptions) {
    this.#dataDir = options.dataDir
    this.#policy = new DirectPolicy(
      options.direct ?? true,
      options.onFallback ?? (() => undefined),
      options.calls,
    )
    this.#open = new LRUCache({
      max: options.maxOpenBlobs ?? DEFAULT_OPEN_BLOBS,
      dispose: (blob) => {
        blob.file[Symbol.dispose]()
        fs.closeSync(blob.indexFd)
      },
    })
    const digestBytes = options.digestCacheBytes ?? DEFAULT_DIGEST_CACHE_BYTES
    this.#digests = new LRUCache({ max: Math.max(1, Math.floor(digestBytes / PIECE_BYTES)) })
  }

  /**
   * @throws ERR_STORE_BLOB_MISSING; ERR_STORE_CORRUPT when file, index and expected size do not agree;
   *   ERR_STORE_READ_FAILED
   */
  openBlob(blob: BlobKey): void {
    this.#openBlob(blob)
  }

  /** The next read opens its files anew: once for each read that went wrong, however many pages were bad. */
  suspectBlob(blob: BlobKey): void {
    this.closeBlob(blob)
  }

  /** Closes its files and forgets its digests. */
  closeBlob(blob: BlobKey): void {
    this.#open.delete(keyOf(blob))
    const prefix = `${keyOf(blob)}/`
    for (const key of this.#digests.keys()) if (key.startsWith(prefix)) this.#digests.delete(key)
  }

  /** Bytes of `target` beyond the end of the blob are zeros. Errors as `openBlob`. */
  readPage(blob: BlobKey, offset: number, target: Buffer, length: number): void {
    this.readPages(blob, offset, [target], length)
  }

  /** As `readPage`, in one system call. */
  readPages(blob: BlobKey, offset: number, targets: readonly Buffer[], length: number): void {
    const open = this.#openBlob(blob)
    checkRange(open.header.size, offset, length)
    const room = targets.reduce((sum, target) => sum + target.byteLength, 0)
    checkRange(room, 0, length)
    this.#attempt(blob, () => open.file.read(offset, targets, length))
  }

  pageDigests(blob: BlobKey, firstDigest: number, count: number): Uint8Array {
    const open = this.#openBlob(blob)
    checkRange(open.pageCount, firstDigest, count)
    return this.#attempt(blob, () => this.#digestsOf(blob, open, firstDigest, count))
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#open.clear()
    this.#digests.clear()
    return Promise.resolve()
  }

  /** A file that cannot be read (a stale handle, a bad sector) is not kept open either. */
  #attempt<T>(blob: BlobKey, read: () => T): T {
    try {
      return read()
    } catch (error) {
      this.suspectBlob(blob)
      throw error
    }
  }

  #digestsOf(blob: BlobKey, open: OpenBlob, firstDigest: number, count: number): Uint8Array {
    const from = Math.floor(firstDigest / PIECE_DIGESTS)
    const to = Math.floor((firstDigest + Math.max(count, 1) - 1) / PIECE_DIGESTS)
    const start = (firstDigest - from * PIECE_DIGESTS) * DIGEST_BYTES
    const end = start + count * DIGEST_BYTES
    if (from === to) return this.#piece(blob, open, from).subarray(start, end)
    const pieces: Buffer[] = []
    for (let piece = from; piece <= to; piece++) pieces.push(this.#piece(blob, open, piece))
    return Buffer.concat(pieces).subarray(start, end)
  }

  #piece(blob: BlobKey, open: OpenBlob, piece: number): Buffer {
    const key = `${keyOf(blob)}/${piece}`
    const cached = this.#digests.get(key)
    if (cached !== undefined) return cached
    const first = piece * PIECE_DIGESTS
    const count = Math.min(PIECE_DIGESTS, open.pageCount - first)
    const bytes = Buffer.allocUnsafeSlow(count * DIGEST_BYTES)
    const position = BLOB_INDEX_HEADER_BYTES + first * DIGEST_BYTES
    readFully(open.indexFd, bytes, position, open.indexPath)
    this.#digests.set(key, bytes)
    return bytes
  }

  #openBlob(blob: BlobKey): OpenBlob {
    const key = keyOf(blob)
    const found = this.#open.get(key)
    const open = found ?? this.#openFiles(blob)
    if (open.header.size !== blob.size) {
      throw corrupt(`blob ${blob.digest}`, `${open.header.size} bytes, expected ${blob.size}`)
    }
    if (found === undefined) this.#open.set(key, open)
    return open
  }

  #openFiles(blob: BlobKey): OpenBlob {
    const digest = parseDigest(blob.digest)
    const what = `blob ${digest}`
    const path = join(this.#dataDir, blobKey(blob.domain, digest))
    const indexPath = join(this.#dataDir, blobIndexKey(blob.domain, digest))
    const file = openOr(path, missingBlob(digest, blob.domain), () => {
      return new DirectFile(path, this.#policy)
    })
    let indexFd: number | undefined
    try {
      const noIndex = corrupt(what, 'it has no index file')
      indexFd = openOr(indexPath, noIndex, () => fs.openSync(indexPath, 'r'))
      const indexSize = fs.fstatSync(indexFd).size
      const head = Buffer.alloc(Math.min(BLOB_INDEX_HEADER_BYTES, indexSize))
      readFully(indexFd, head, 0, indexPath)
      const header = decodeBlobIndexHeader(head, digest, indexSize)
      if (file.size !== header.size) {
        throw corrupt(what, `${file.size} bytes, expected ${header.size}`)
      }
      return { file, indexPath, indexFd, header, pageCount: layoutOf(header).pageCount }
    } catch (error) {
      if (indexFd !== undefined) fs.closeSync(indexFd)
      file[Symbol.dispose]()
      throw error
    }
  }
}

function openOr<T>(path: string, absent: AppError, open: () => T): T {
  try {
    return open()
  } catch (error) {
    throw errnoOf(error) === 'ENOENT' ? absent : readError(error, path)
  }
}

function keyOf(blob: BlobKey): string {
  return `${blob.domain}/${blob.digest}`
}
