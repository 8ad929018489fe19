/**
 * Reads a blob's index in pieces through an engine. The form is blob-index-codec.ts; the chunk index and
 * the page source, which are synchronous and local, read the same file their own way.
 */
import { createHash } from 'node:crypto'

import type { Digest } from '../core/index.ts'
import { DIGEST_BYTES, checkRange } from '../core/index.ts'
import type { BlobIndexHeader } from './blob-index-codec.ts'
import {
  BLOB_INDEX,
  BLOB_INDEX_HEADER_BYTES,
  decodeBlobIndexHeader,
  layoutOf,
} from './blob-index-codec.ts'
import type { ChunkRecord } from './chunk-record.ts'
import { CHUNK_ENTRY_BYTES, checkChunkInside, decodeChunkEntry } from './chunk-record.ts'
import { corrupt } from './errors.ts'
import type { StorageEngine } from './storage-engine.ts'

export interface ChunkEntry {
  /** 32 bytes. */
  readonly rawDigest: Buffer
  readonly record: ChunkRecord
}

/** Bytes of one read while the whole file is hashed. */
const VERIFY_PIECE_BYTES = 1024 * 1024

export class BlobIndex {
  readonly header: BlobIndexHeader
  readonly #engine: StorageEngine
  readonly #key: string

  private constructor(engine: StorageEngine, key: string, header: BlobIndexHeader) {
    this.#engine = engine
    this.#key = key
    this.header = header
  }

  /** Undefined when there is no such object. @throws ERR_STORE_CORRUPT, ERR_STORE_READ_FAILED */
  static async open(
    engine: StorageEngine,
    key: string,
    blob: Digest,
  ): Promise<BlobIndex | undefined> {
    const head = await engine.head(key)
    if (head === undefined) return undefined
    const length = Math.min(BLOB_INDEX_HEADER_BYTES, head.size)
    const bytes = await engine.get(key, { offset: 0, length })
    if (bytes === undefined) return undefined
    const header = decodeBlobIndexHeader(asBuffer(bytes), blob, head.size)
    return new BlobIndex(engine, key, header)
  }

  get pageCount(): number {
    return layoutOf(this.header).pageCount
  }

  /** The sha256 of `count` 16 KiB pages from `first`, 32 bytes each. The last page is shorter. */
  async pageDigests(first: number, count: number): Promise<Buffer> {
    checkRange(this.pageCount, first, count)
    return await this.#read(BLOB_INDEX_HEADER_BYTES + first * DIGEST_BYTES, count * DIGEST_BYTES)
  }

  /** `count` entries of the chunk table from `first`, in the order of their digests. @throws ERR_STORE_CORRUPT */
  async chunks(first: number, count: number): Promise<ChunkEntry[]> {
    const { chunkCount, region1Length, size } = this.header
    checkRange(chunkCount, first, count)
    const { chunkTableOffset } = layoutOf(this.header)
    const offset = chunkTableOffset + first * CHUNK_ENTRY_BYTES
    const bytes = await this.#read(offset, count * CHUNK_ENTRY_BYTES)
    return Array.from({ length: count }, (_, index) => {
      const at = index * CHUNK_ENTRY_BYTES
      const record = decodeChunkEntry(bytes, at)
      checkChunkInside(record, region1Length, size, this.#key)
      return { rawDigest: bytes.subarray(at, at + DIGEST_BYTES), record }
    })
  }

  /** Reads the whole file and checks the digest that it starts with. @throws ERR_STORE_CORRUPT */
  async verify(): Promise<void> {
    const hash = createHash('sha256')
    const { fileSize } = layoutOf(this.header)
    for (let at: number = BLOB_INDEX.magic; at < fileSize; at += VERIFY_PIECE_BYTES) {
      hash.update(await this.#read(at, Math.min(VERIFY_PIECE_BYTES, fileSize - at)))
    }
    if (hash.digest().equals(await this.#read(0, DIGEST_BYTES))) return
    throw corrupt(this.#key, 'its bytes do not have the digest it starts with')
  }

  async #read(offset: number, length: number): Promise<Buffer> {
    const bytes = await this.#engine.get(this.#key, { offset, length })
    if (bytes === undefined) throw corrupt(this.#key, 'it disappeared while it was read')
    return asBuffer(bytes)
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
