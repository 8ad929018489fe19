/**
 * The form of a run of the chunk index (docs/format/store.md, "Chunk index run"): a header, blocks of
 * sorted records that each carry their own check, then the tail that is kept in memory: the covered
 * blobs, the first digest words of the blocks, the filter. Pure: bytes in, bytes out.
 */
import { DIGEST_BYTES, rawDigestOf } from '../core/index.ts'
import { CHUNK_ENTRY_BYTES, readSafeU64, writeSafeU64 } from './chunk-record.ts'
import { FILTER_BLOCK_BYTES } from './chunk-filter.ts'
import { corrupt } from './errors.ts'

/** Byte offsets of the header's fields; all integers are little-endian. */
export const RUN = {
  /** sha256 of the header after it followed by the sha256 of the tail. */
  digest: 0,
  magic: 32,
  version: 40,
  blobCount: 44,
  recordCount: 48,
  filterBlocks: 56,
  reserved: 60,
} as const
export const RUN_HEADER_BYTES = 128
export const RUN_MAGIC = 'CPCHKRUN'
export const RUN_VERSION = 1

/** A chunk entry and the number of its blob in the run's list. */
export const RUN_RECORD_BYTES = CHUNK_ENTRY_BYTES + 4
/** What one lookup reads. Blocks start at the first block boundary of the file. */
export const RUN_BLOCK_BYTES = 4096
export const RECORDS_PER_BLOCK = 68
/** The rest of a block: the first 16 bytes of the sha256 of its records. */
export const BLOCK_CHECK_AT = RECORDS_PER_BLOCK * RUN_RECORD_BYTES
export const BLOCK_CHECK_BYTES = RUN_BLOCK_BYTES - BLOCK_CHECK_AT
const FENCE_BYTES = 4

export interface RunHeader {
  readonly digest: Buffer
  readonly blobCount: number
  readonly recordCount: number
  readonly filterBlocks: number
}

/** Where the parts of a run's file are. */
export interface RunLayout {
  readonly blockCount: number
  readonly tailOffset: number
  /** Within the tail. */
  readonly fencesAt: number
  readonly filterAt: number
  readonly tailBytes: number
  readonly fileSize: number
}

export function runLayout(header: Omit<RunHeader, 'digest'>): RunLayout {
  const blockCount = Math.ceil(header.recordCount / RECORDS_PER_BLOCK)
  const tailOffset = RUN_BLOCK_BYTES * (1 + blockCount)
  const fencesAt = header.blobCount * DIGEST_BYTES
  const filterAt = fencesAt + blockCount * FENCE_BYTES
  const tailBytes = filterAt + header.filterBlocks * FILTER_BLOCK_BYTES
  return { blockCount, tailOffset, fencesAt, filterAt, tailBytes, fileSize: tailOffset + tailBytes }
}

/** @param tailDigest raw sha256 of the whole tail */
export function encodeRunHeader(header: Omit<RunHeader, 'digest'>, tailDigest: Buffer): Buffer {
  const bytes = Buffer.alloc(RUN_HEADER_BYTES)
  bytes.write(RUN_MAGIC, RUN.magic, 'latin1')
  bytes.writeUInt32LE(RUN_VERSION, RUN.version)
  bytes.writeUInt32LE(header.blobCount, RUN.blobCount)
  writeSafeU64(bytes, RUN.recordCount, header.recordCount)
  bytes.writeUInt32LE(header.filterBlocks, RUN.filterBlocks)
  runDigest(bytes, tailDigest).copy(bytes, RUN.digest)
  return bytes
}

/** @throws ERR_STORE_CORRUPT when the header and the file's size do not fit */
export function decodeRunHeader(bytes: Buffer, fileSize: number, what: string): RunHeader {
  const magic = bytes.toString('latin1', RUN.magic, RUN.version)
  const version = bytes.readUInt32LE(RUN.version)
  if (magic !== RUN_MAGIC || version !== RUN_VERSION) {
    throw corrupt(what, `magic '${magic}' version ${version}, expected ${RUN_MAGIC} ${RUN_VERSION}`)
  }
  const header: RunHeader = {
    digest: Buffer.from(bytes.subarray(0, DIGEST_BYTES)),
    blobCount: bytes.readUInt32LE(RUN.blobCount),
    recordCount: readSafeU64(bytes, RUN.recordCount),
    filterBlocks: bytes.readUInt32LE(RUN.filterBlocks),
  }
  if (bytes.subarray(RUN.reserved, RUN_HEADER_BYTES).some((byte) => byte !== 0)) {
    throw corrupt(what, 'reserved bytes are set')
  }
  const expected = header.filterBlocks === 0 ? NaN : runLayout(header).fileSize
  if (expected !== fileSize) {
    throw corrupt(what, `it has ${fileSize} bytes, expected ${expected} by its header`)
  }
  return header
}

/** sha256 of the header without its first field, followed by the sha256 of the tail. */
export function runDigest(header: Buffer, tailDigest: Buffer): Buffer {
  return rawDigestOf(Buffer.concat([header.subarray(DIGEST_BYTES, RUN_HEADER_BYTES), tailDigest]))
}

/** The check of a block's records. */
export function blockCheck(block: Buffer): Buffer {
  return rawDigestOf(block.subarray(0, BLOCK_CHECK_AT)).subarray(0, BLOCK_CHECK_BYTES)
}

export function isBlockIntact(block: Buffer): boolean {
  return block.compare(blockCheck(block), 0, BLOCK_CHECK_BYTES, BLOCK_CHECK_AT) === 0
}
