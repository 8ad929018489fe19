// oxlint-disable node/no-sync -- runs in the import process, where a blocking call is the cheapest one
/**
 * Writes one new blob: whole blocks into region 1, everything shorter packed into region 2, the chunks
 * that it holds into its index. Nothing is visible before `finish` resolves; nothing is left when it does
 * not. Which bytes belong into a blob is decided by import. Synchronous but for the ends: for the import
 * process.
 */
import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'

import type { Digest } from '../core/index.ts'
import { BLOB_INDEX, encodeBlobIndexHeader } from './blob-index-codec.ts'
import { BlobSink } from './blob-sink.ts'
import type { ChunkRecord } from './chunk-record.ts'
import {
  CHUNK_ENTRY,
  CHUNK_ENTRY_BYTES,
  checkChunkInside,
  decodeChunkEntry,
  writeSafeU64,
} from './chunk-record.ts'
import { STORE_BLOCK_BYTES } from './layout.ts'
import { PendingChunks } from './pending-chunks.ts'
import type { SortedCursor } from './sorted-records.ts'
import { mergeSorted } from './sorted-records.ts'
import { SpoolFile } from './spool-file.ts'
import type { Publishable } from './storage-engine.ts'

/** A blob whose files are written, and which only its writer sees. */
export interface CompleteBlob {
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
  /** Bytes of region 1: where region 2 starts. */
  readonly region1Length: number
  readonly chunkCount: number
  /** Where its bytes are until it is published. */
  readonly stagedPath: string
}

export interface StoredBlob extends Omit<CompleteBlob, 'stagedPath'> {
  /** False when the domain had these very bytes already. */
  readonly created: boolean
}

/** A chunk of the blob being written; `restOffset` counts from the start of region 2, whose place is not known yet. */
export type PendingChunk = ChunkRecord

/** Makes the two staged files durable, and then visible, index first. */
export type PrepareBlob = (
  digest: Digest,
  blobPath: string,
  indexPath: string,
) => Promise<Publishable>

/** A blob that is durable and not visible yet. Disposing of it removes what is staged. */
export interface PreparedBlob extends AsyncDisposable {
  /** Once. @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  publish(): Promise<StoredBlob>
}

export class BlobWriter implements AsyncDisposable {
  readonly #sink: BlobSink
  readonly #packed: SpoolFile
  readonly #chunks: PendingChunks
  readonly #prepare: PrepareBlob
  #state: 'open' | 'complete' | 'finished' | 'aborted' = 'open'
  #complete: CompleteBlob | undefined

  /** @param path prefix of the staged files, in the domain's uploads folder */
  constructor(path: string, prepare: PrepareBlob, tableEntries?: number) {
    this.#prepare = prepare
    this.#sink = new BlobSink(path)
    try {
      this.#packed = new SpoolFile(`${path}.packed`)
    } catch (error) {
      this.#sink[Symbol.dispose]()
      throw error
    }
    this.#chunks = new PendingChunks(path, tableEntries)
  }

  /** Bytes in region 1 so far. */
  get blockBytes(): number {
    return this.#sink.size
  }

  /** Bytes in region 2 so far. */
  get packedBytes(): number {
    return this.#packed.length
  }

  get chunkCount(): number {
    return this.#chunks.count
  }

  /**
   * Appends whole blocks to region 1; the bytes are copied.
   *
   * @returns their offset in the blob
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: everything staged is removed; RangeError unless the
   *   length is a multiple of 4 KiB
   */
  appendBlocks(bytes: Uint8Array): number {
    if (bytes.byteLength % STORE_BLOCK_BYTES !== 0) {
      throw new RangeError(`${bytes.byteLength} bytes are not whole blocks`)
    }
    return this.#orAbort(() => {
      const offset = this.#sink.size
      this.#sink.write(bytes)
      return offset
    })
  }

  /** Appends to region 2; the bytes are copied. @returns their offset in region 2. Errors as `appendBlocks`. */
  appendPacked(bytes: Uint8Array): number {
    return this.#orAbort(() => {
      const offset = this.#packed.length
      this.#packed.append(bytes)
      return offset
    })
  }

  /**
   * Records a chunk whose bytes were appended. `rawDigest` is its sha256. Errors as `appendBlocks`.
   *
   * @returns false when the blob has a chunk of this digest already: the first record stays
   */
  addChunk(rawDigest: Buffer, chunk: PendingChunk): boolean {
    const { length, wholeLength, restOffset } = chunk
    const shifted = length > wholeLength ? restOffset + this.blockBytes : restOffset
    checkChunkInside(
      { ...chunk, restOffset: shifted },
      this.blockBytes,
      this.blockBytes + this.packedBytes,
      'the blob being written',
    )
    return this.#orAbort(() => this.#chunks.add(rawDigest, chunk))
  }

  /** The chunk of this digest and length if this blob holds it already. */
  findChunk(rawDigest: Buffer, length: number): PendingChunk | undefined {
    this.#checkOpen()
    const found = this.#chunks.find(rawDigest)
    return found?.length === length ? found : undefined
  }

  /**
   * Writes what is missing of the blob's files, so that they can be looked at before they are published.
   * Nothing may be appended any more.
   *
   * @returns undefined when nothing was appended: an empty blob is never stored
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: everything staged is removed
   */
  complete(): CompleteBlob | undefined {
    if (this.#state === 'complete') return this.#complete
    this.#complete = this.#orAbort(() => this.#writeFiles())
    this.#state = 'complete'
    return this.#complete
  }

  /**
   * Completes the blob and makes it durable. Nothing can be done with the writer after it.
   *
   * @returns undefined when nothing was appended: an empty blob is never stored
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: everything staged is removed
   */
  async prepare(): Promise<PreparedBlob | undefined> {
    await using steps = new AsyncDisposableStack()
    const complete = this.complete()
    this.#state = 'finished'
    steps.defer(() => this.#clean())
    if (complete === undefined) return undefined
    const { stagedPath, ...blob } = complete
    const files = await this.#prepare(blob.digest, stagedPath, indexPathOf(stagedPath))
    steps.use(files)
    const prepared = steps.move()
    return {
      publish: async () => ({ ...blob, created: (await files.publish()) === 'created' }),
      [Symbol.asyncDispose]: () => prepared[Symbol.asyncDispose](),
    }
  }

  /**
   * Completes the blob and makes it durable and visible.
   *
   * @returns undefined when nothing was appended: an empty blob is never stored
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED
   */
  async finish(): Promise<StoredBlob | undefined> {
    await using prepared = await this.prepare()
    return await prepared?.publish()
  }

  /** Removes everything staged. Harmless after `finish`. */
  abort(): void {
    if (this.#state === 'finished' || this.#state === 'aborted') return
    this.#state = 'aborted'
    this.#clean()
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.abort()
    return Promise.resolve()
  }

  #writeFiles(): CompleteBlob | undefined {
    const region1Length = this.#sink.size
    this.#packed.read(0, (piece) => this.#sink.write(piece))
    const size = this.#sink.size
    const { digest, pageDigests } = this.#sink.finish()
    if (size === 0) return undefined
    const stagedPath = this.#sink.path
    const blob = { digest, size, region1Length, chunkCount: this.#chunks.count, stagedPath }
    writeBlobIndex(indexPathOf(stagedPath), blob, pageDigests, this.#chunks.cursors())
    return blob
  }

  #orAbort<T>(action: () => T): T {
    this.#checkOpen()
    try {
      return action()
    } catch (error) {
      this.abort()
      throw error
    }
  }

  #checkOpen(): void {
    if (this.#state !== 'open') throw new TypeError(`the blob writer is ${this.#state}`)
  }

  #clean(): void {
    rmSync(indexPathOf(this.#sink.path), { force: true })
    this.#sink[Symbol.dispose]()
    this.#packed[Symbol.dispose]()
    this.#chunks[Symbol.dispose]()
  }
}

function indexPathOf(stagedPath: string): string {
  return `${stagedPath}.idx`
}

/**
 * Writes a blob's index file. Chunk entries come with `restOffset` relative to region 2.
 *
 * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: the file is removed
 */
export function writeBlobIndex(
  path: string,
  blob: { digest: Digest; size: number; region1Length: number; chunkCount: number },
  pageDigests: SpoolFile,
  chunks: readonly SortedCursor[],
): void {
  const file = new SpoolFile(path)
  try {
    const digest = createHash('sha256')
    const header = encodeBlobIndexHeader({ ...blob, blob: blob.digest })
    const append = (bytes: Uint8Array): void => {
      digest.update(bytes)
      file.append(bytes)
    }
    file.append(header.subarray(0, BLOB_INDEX.magic))
    append(header.subarray(BLOB_INDEX.magic))
    pageDigests.read(0, append)
    const entry = Buffer.allocUnsafe(CHUNK_ENTRY_BYTES)
    mergeSorted(chunks, (bytes, at) => {
      bytes.copy(entry, 0, at, at + CHUNK_ENTRY_BYTES)
      const { length, wholeLength, restOffset } = decodeChunkEntry(entry, 0)
      if (length > wholeLength) {
        writeSafeU64(entry, CHUNK_ENTRY.restOffset, restOffset + blob.region1Length)
      }
      append(entry)
    })
    file.flush()
    file.overwrite(digest.digest(), BLOB_INDEX.digest)
    file.close()
  } catch (error) {
    file[Symbol.dispose]()
    throw error
  }
}
