/**
 * The blobs of one domain: written, listed, looked at, deleted, always as a pair of bytes and index.
 * The index is published before the blob and deleted after it, so that a blob that can be seen has one.
 * Page reads are local-page-source.ts.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import * as fs from 'node:fs/promises'

import type { Digest } from '../core/index.ts'
import { AppError, hexOf, IMPORT_CALL_BYTES } from '../core/index.ts'
import { BlobIndex } from './blob-index.ts'
import { BlobSink } from './blob-sink.ts'
import type { StoredBlob } from './blob-writer.ts'
import { BlobWriter, writeBlobIndex } from './blob-writer.ts'
import { corrupt, errnoOf, isDamage, readError } from './errors.ts'
import {
  DIGEST_PAGE_BYTES,
  INDEX_SUFFIX,
  blobIndexKey,
  blobKey,
  blobsPrefix,
  digestOfKey,
} from './layout.ts'
import { stagingName } from './local-engine.ts'
import type {
  ByteRange,
  ListOptions,
  PreparedObject,
  Publishable,
  StorageEngine,
} from './storage-engine.ts'

/** Bytes of one read or write of a whole blob. */
const PIECE_BYTES = 1024 * 1024

export interface BlobHead {
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
}

export interface PutBlobOptions {
  /** What the bytes must hash to. */
  readonly digest?: Digest
  /** How many bytes there must be. */
  readonly size?: number
  readonly signal?: AbortSignal
}

export class BlobStore {
  readonly #engine: StorageEngine
  readonly #domain: string

  constructor(engine: StorageEngine, domain: string) {
    this.#engine = engine
    this.#domain = domain
  }

  /** Starts a new blob in the uploads folder. Synchronous inside: for the import process. */
  async createWriter(): Promise<BlobWriter> {
    return new BlobWriter(await this.#stagingPath(), (digest, blobPath, indexPath) =>
      this.#prepare(digest, blobPath, indexPath),
    )
  }

  /**
   * Stores uploaded bytes as a blob without chunks. Synchronous inside: for the import process.
   *
   * @throws ERR_STORE_DIGEST_MISMATCH, ERR_INVALID_ARGUMENT (no bytes), ERR_STORE_FULL,
   *   ERR_STORE_WRITE_FAILED, ERR_ABORTED: nothing is left behind
   */
  async putStream(
    source: AsyncIterable<Uint8Array>,
    options: PutBlobOptions = {},
  ): Promise<StoredBlob> {
    const path = await this.#stagingPath()
    const indexPath = path + INDEX_SUFFIX
    using sink = new BlobSink(path)
    try {
      for await (const piece of source) {
        if (options.signal?.aborted === true) {
          throw new AppError('ERR_ABORTED', 'the upload was cancelled')
        }
        sink.write(piece)
        if (sink.size > (options.size ?? Infinity)) throw sizeMismatch(options.size, sink.size)
      }
      const size = sink.size
      if (size === 0) throw new AppError('ERR_INVALID_ARGUMENT', 'a blob of 0 bytes is not stored')
      if (options.size !== undefined && options.size !== size) {
        throw sizeMismatch(options.size, size)
      }
      const { digest, pageDigests } = sink.finish()
      if (options.digest !== undefined && options.digest !== digest) {
        throw new AppError(
          'ERR_STORE_DIGEST_MISMATCH',
          `the uploaded bytes are ${digest}, expected ${options.digest}`,
        )
      }
      const blob = { digest, size, region1Length: size, chunkCount: 0 }
      writeBlobIndex(indexPath, blob, pageDigests, [])
      await using prepared = await this.#prepare(digest, path, indexPath)
      return { ...blob, created: (await prepared.publish()) === 'created' }
    } finally {
      await fs.rm(indexPath, { force: true })
    }
  }

  /** Makes sure that blobs which can be seen survive a crash, whoever stored them. @throws ERR_STORE_WRITE_FAILED */
  async settle(digests: readonly Digest[]): Promise<void> {
    // Their indexes are in the same folders.
    await this.#engine.settle(digests.map((digest) => blobKey(this.#domain, digest)))
  }

  async head(digest: Digest): Promise<BlobHead | undefined> {
    const head = await this.#engine.head(blobKey(this.#domain, digest))
    return head === undefined ? undefined : { digest, size: head.size }
  }

  /**
   * The local file that holds exactly the blob's bytes; undefined when the engine has no such files.
   *
   * @throws ERR_STORE_BLOB_MISSING
   */
  async localPath(digest: Digest): Promise<string | undefined> {
    if ((await this.head(digest)) === undefined) throw missingBlob(digest, this.#domain)
    return this.#engine.localPath(blobKey(this.#domain, digest))
  }

  /**
   * Reads a range of a blob into the start of `target`. What is read is not checked against its digest.
   * @throws ERR_STORE_BLOB_MISSING, ERR_STORE_RANGE, ERR_STORE_READ_FAILED
   */
  async read(digest: Digest, range: ByteRange, target: Uint8Array): Promise<void> {
    const bytes = await this.#engine.get(blobKey(this.#domain, digest), range, target)
    if (bytes === undefined) throw missingBlob(digest, this.#domain)
  }

  /**
   * The index of a blob that is there.
   *
   * @throws ERR_STORE_BLOB_MISSING, ERR_STORE_CORRUPT (also for a blob without an index, which only
   *   damage from outside makes: `rebuildIndex`), ERR_STORE_READ_FAILED
   */
  async openIndex(digest: Digest): Promise<BlobIndex> {
    const head = await this.head(digest)
    if (head === undefined) throw missingBlob(digest, this.#domain)
    const key = blobIndexKey(this.#domain, digest)
    const index = await BlobIndex.open(this.#engine, key, digest)
    if (index === undefined) throw corrupt(`blob ${digest}`, 'it has no index file')
    if (index.header.size !== head.size) {
      throw corrupt(`blob ${digest}`, `${head.size} bytes, expected ${index.header.size}`)
    }
    return index
  }

  /** Blobs in the order of their digests. */
  async *list(options: { after?: Digest; pageSize?: number } = {}): AsyncGenerator<BlobHead[]> {
    const listOptions: ListOptions = {
      ...(options.after === undefined ? {} : { after: this.#endOf(options.after) }),
      ...(options.pageSize === undefined ? {} : { pageSize: options.pageSize }),
    }
    for await (const page of this.#engine.list(blobsPrefix(this.#domain), listOptions)) {
      const blobs: BlobHead[] = []
      for (const { key, size } of page) {
        const digest = digestOfKey(key)
        if (digest !== undefined) blobs.push({ digest, size })
      }
      if (blobs.length > 0) yield blobs
    }
  }

  /**
   * Removes blob and index. The caller knows that nobody uses the blob any more, and that no import runs
   * that may be storing it again.
   */
  async delete(digest: Digest): Promise<boolean> {
    const existed = await this.#engine.delete(blobKey(this.#domain, digest))
    await this.#engine.delete(blobIndexKey(this.#domain, digest))
    return existed
  }

  /**
   * Makes a new index (page digests, no chunks) for a blob whose own is lost or damaged, after checking
   * the blob's bytes against its name. For the import process.
   *
   * @throws ERR_STORE_BLOB_MISSING, ERR_STORE_CORRUPT when the bytes are not those of the digest
   */
  async rebuildIndex(digest: Digest): Promise<void> {
    const path = await this.localPath(digest)
    if (path === undefined) throw missingBlob(digest, this.#domain)
    // The bytes go through the sink into a second copy, which is dropped.
    const staged = await this.#stagingPath()
    const indexPath = staged + INDEX_SUFFIX
    using sink = new BlobSink(staged)
    try {
      for await (const piece of createReadStream(path, { highWaterMark: IMPORT_CALL_BYTES })) {
        sink.write(piece as Buffer)
      }
      const size = sink.size
      const found = sink.finish()
      if (found.digest !== digest) throw corrupt(`blob ${digest}`, `its bytes are ${found.digest}`)
      const blob = { digest, size, region1Length: size, chunkCount: 0 }
      writeBlobIndex(indexPath, blob, found.pageDigests, [])
      await using prepared = await this.#prepareIndex(digest, indexPath)
      await prepared?.publish()
    } catch (error) {
      throw errnoOf(error) === undefined ? error : readError(error, path)
    } finally {
      await fs.rm(indexPath, { force: true })
    }
  }

  /**
   * Writes a damaged or lost blob again: the stored bytes as far as they can be read, with what `patch` knows
   * laid over them. The new files take the place of the old ones only if the result has the blob's digest. An
   * index that is whole stays; another is made without the chunk table, which only an import can know. For the
   * import process.
   *
   * @param patch writes what it knows of the bytes from `offset` into `target`, up to 1 MiB; called in the order
   *   of the offsets
   * @returns false when the result has another digest: nothing changed
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, and what `patch` throws: nothing changed
   */
  async restore(
    { digest, size }: BlobHead,
    patch: (offset: number, target: Buffer) => Promise<void>,
  ): Promise<boolean> {
    const staged = await this.#stagingPath()
    const indexPath = staged + INDEX_SUFFIX
    using sink = new BlobSink(staged)
    try {
      const buffer = Buffer.alloc(PIECE_BYTES)
      for (let offset = 0; offset < size; offset += PIECE_BYTES) {
        const target = buffer.subarray(0, Math.min(PIECE_BYTES, size - offset))
        await this.#readWhatIsLeft(digest, offset, target)
        await patch(offset, target)
        sink.write(target)
      }
      const found = sink.finish()
      if (found.digest !== digest) return false
      const blob = { digest, size, region1Length: size, chunkCount: 0 }
      writeBlobIndex(indexPath, blob, found.pageDigests, [])
      await using prepared = await this.#prepare(digest, staged, indexPath)
      await prepared.publish()
      return true
    } finally {
      await fs.rm(indexPath, { force: true })
    }
  }

  /** Page by page, as bad sectors and ends come; zeros for the rest. */
  async #readWhatIsLeft(digest: Digest, offset: number, target: Buffer): Promise<void> {
    target.fill(0)
    for (let at = 0; at < target.byteLength; at += DIGEST_PAGE_BYTES) {
      const page = target.subarray(at, at + DIGEST_PAGE_BYTES)
      const range = { offset: offset + at, length: page.byteLength }
      try {
        await this.#engine.get(blobKey(this.#domain, digest), range, page)
      } catch (error) {
        if (!isDamage(error)) throw error
        page.fill(0)
      }
    }
  }

  /** Both files are durable and invisible when this resolves; the index is published first. */
  async #prepare(digest: Digest, blobPath: string, indexPath: string): Promise<Publishable> {
    await using steps = new AsyncDisposableStack()
    const index = steps.use(await this.#prepareIndex(digest, indexPath))
    const key = blobKey(this.#domain, digest)
    const damaged = (await this.head(digest)) !== undefined && !(await this.#isWhole(digest))
    const staged = await this.#engine.prepare(key, { path: blobPath })
    const blob = steps.use(damaged ? replacing(staged) : staged)
    const prepared = steps.move()
    return {
      publish: async () => {
        await index?.publish()
        return await blob.publish()
      },
      [Symbol.asyncDispose]: () => prepared[Symbol.asyncDispose](),
    }
  }

  /** Whether the stored bytes are those of the digest. Reads all of them: when the same blob is stored again. */
  async #isWhole(digest: Digest): Promise<boolean> {
    const path = await this.localPath(digest)
    if (path === undefined) return true
    const hash = createHash('sha256')
    try {
      for await (const piece of createReadStream(path, { highWaterMark: IMPORT_CALL_BYTES })) {
        hash.update(piece as Buffer)
      }
    } catch (error) {
      // Bytes that cannot be read are damaged; whatever else stops us stops the publication as well.
      if (errnoOf(error) === undefined) throw error
      return false
    }
    return hash.digest('hex') === hexOf(digest)
  }

  /**
   * An index that is there stays if it is whole: the same blob may have been stored with other chunks. Then
   * undefined, and the blob's publication makes its name durable: it is in the same folder.
   */
  async #prepareIndex(digest: Digest, indexPath: string): Promise<Publishable | undefined> {
    const key = blobIndexKey(this.#domain, digest)
    let damaged = false
    try {
      const present = await BlobIndex.open(this.#engine, key, digest)
      if (present !== undefined) {
        await present.verify()
        return undefined
      }
    } catch (error) {
      if (!isDamage(error)) throw error
      damaged = true
    }
    const staged = await this.#engine.prepare(key, { path: indexPath })
    return damaged ? replacing(staged) : staged
  }

  async #stagingPath(): Promise<string> {
    const folder = await this.#engine.stagingFolder(`${blobsPrefix(this.#domain)}new`)
    return `${folder}/${stagingName()}`
  }

  /** A key that sorts after the blob's own and its index. */
  #endOf(digest: Digest): string {
    return blobIndexKey(this.#domain, digest)
  }
}

/** Takes the place of what is damaged instead of leaving it. */
function replacing(object: PreparedObject): Publishable {
  return {
    publish: async () => {
      await object.replace()
      return 'created'
    },
    [Symbol.asyncDispose]: () => object[Symbol.asyncDispose](),
  }
}

export function missingBlob(digest: Digest, domain: string): AppError {
  return new AppError('ERR_STORE_BLOB_MISSING', `domain ${domain} has no blob ${digest}`)
}

function sizeMismatch(expected: number | undefined, found: number): AppError {
  return new AppError(
    'ERR_STORE_DIGEST_MISMATCH',
    `the upload has ${found} bytes or more, expected ${expected}`,
  )
}
