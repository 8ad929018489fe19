/**
 * The form of a blob's index file `HEX.idx` (docs/format/store.md, "Blob index"): a header, one digest
 * per 16 KiB page, the chunk table sorted by chunk digest. The file starts with the sha256 of all that
 * follows, yet each part can be read alone. Pure: bytes in, bytes out.
 */
import type { Digest } from '../core/index.ts'
import { DIGEST_BYTES, digestFromRaw, digestToRaw } from '../core/index.ts'
import { CHUNK_ENTRY_BYTES, readSafeU64, writeSafeU64 } from './chunk-record.ts'
import { corrupt } from './errors.ts'
import { DIGEST_PAGE_BYTES, STORE_BLOCK_BYTES } from './layout.ts'

/** Byte offsets of the fields; all integers are little-endian. */
export const BLOB_INDEX = {
  /** sha256 of everything after it. */
  digest: 0,
  magic: 32,
  version: 40,
  pageBytes: 44,
  blobSize: 48,
  region1Length: 56,
  chunkCount: 64,
  /** Raw sha256 of the blob. */
  blobDigest: 72,
  reserved: 104,
} as const
export const BLOB_INDEX_HEADER_BYTES = 128
export const BLOB_INDEX_MAGIC = 'CPBLBIDX'
export const BLOB_INDEX_VERSION = 1

export interface BlobIndexHeader {
  readonly blob: Digest
  /** Bytes of the blob, at least 1. */
  readonly size: number
  /** Bytes of region 1: whole 4 KiB blocks, or the whole blob. */
  readonly region1Length: number
  readonly chunkCount: number
}

/** Where the parts of the file are. */
export interface BlobIndexLayout {
  readonly pageCount: number
  readonly chunkTableOffset: number
  readonly fileSize: number
}

export function layoutOf(header: BlobIndexHeader): BlobIndexLayout {
  const pageCount = Math.ceil(header.size / DIGEST_PAGE_BYTES)
  const chunkTableOffset = BLOB_INDEX_HEADER_BYTES + pageCount * DIGEST_BYTES
  return {
    pageCount,
    chunkTableOffset,
    fileSize: chunkTableOffset + header.chunkCount * CHUNK_ENTRY_BYTES,
  }
}

/** The header with its first 32 bytes left zero: the digest is known last. */
export function encodeBlobIndexHeader(header: BlobIndexHeader): Buffer {
  const bytes = Buffer.alloc(BLOB_INDEX_HEADER_BYTES)
  bytes.write(BLOB_INDEX_MAGIC, BLOB_INDEX.magic, 'latin1')
  bytes.writeUInt32LE(BLOB_INDEX_VERSION, BLOB_INDEX.version)
  bytes.writeUInt32LE(DIGEST_PAGE_BYTES, BLOB_INDEX.pageBytes)
  writeSafeU64(bytes, BLOB_INDEX.blobSize, header.size)
  writeSafeU64(bytes, BLOB_INDEX.region1Length, header.region1Length)
  writeSafeU64(bytes, BLOB_INDEX.chunkCount, header.chunkCount)
  digestToRaw(header.blob).copy(bytes, BLOB_INDEX.blobDigest)
  return bytes
}

/**
 * Checks everything that the header alone, the blob's name and the file's size can tell; the digest
 * over the file needs all of it and is `verifyBlobIndex`'s.
 *
 * @throws ERR_STORE_CORRUPT
 */
export function decodeBlobIndexHeader(
  bytes: Buffer,
  blob: Digest,
  fileSize: number,
): BlobIndexHeader {
  const what = `the index of blob ${blob}`
  if (bytes.byteLength < BLOB_INDEX_HEADER_BYTES) {
    throw corrupt(what, `it has ${bytes.byteLength} bytes, less than its header`)
  }
  const magic = bytes.toString('latin1', BLOB_INDEX.magic, BLOB_INDEX.version)
  const version = bytes.readUInt32LE(BLOB_INDEX.version)
  if (magic !== BLOB_INDEX_MAGIC || version !== BLOB_INDEX_VERSION) {
    throw corrupt(what, `magic '${magic}' version ${version}, expected ${BLOB_INDEX_MAGIC} 1`)
  }
  const pageBytes = bytes.readUInt32LE(BLOB_INDEX.pageBytes)
  if (pageBytes !== DIGEST_PAGE_BYTES) {
    throw corrupt(what, `pages of ${pageBytes} bytes, expected ${DIGEST_PAGE_BYTES}`)
  }
  const named = digestFromRaw(bytes.subarray(BLOB_INDEX.blobDigest))
  if (named !== blob) throw corrupt(what, `it is the index of ${named}`)
  const header: BlobIndexHeader = {
    blob,
    size: readSafeU64(bytes, BLOB_INDEX.blobSize),
    region1Length: readSafeU64(bytes, BLOB_INDEX.region1Length),
    chunkCount: readSafeU64(bytes, BLOB_INDEX.chunkCount),
  }
  const { size, region1Length } = header
  const regions =
    region1Length === size || (region1Length < size && region1Length % STORE_BLOCK_BYTES === 0)
  if (!(size >= 1) || !regions) {
    throw corrupt(what, `region 1 of ${region1Length} bytes in a blob of ${size}`)
  }
  const reserved = bytes.subarray(BLOB_INDEX.reserved, BLOB_INDEX_HEADER_BYTES)
  if (reserved.some((byte) => byte !== 0)) throw corrupt(what, 'reserved bytes are not zero')
  const expected = layoutOf(header).fileSize
  if (expected !== fileSize) {
    throw corrupt(what, `it has ${fileSize} bytes, expected ${expected} by its header`)
  }
  return header
}
