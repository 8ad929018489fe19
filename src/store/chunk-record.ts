/**
 * The fixed-width form of a chunk: where in a blob its bytes lie. Used in a blob's index and in the
 * runs of the chunk index (docs/format/store.md, "Chunk entry"). Pure: bytes in, bytes out.
 */
import { DIGEST_BYTES } from '../core/index.ts'
import { corrupt } from './errors.ts'
import { STORE_BLOCK_BYTES } from './layout.ts'

/** Byte offsets of the fields; all integers are little-endian. */
export const CHUNK_ENTRY = {
  digest: 0,
  length: 32,
  wholeLength: 36,
  wholeOffset: 40,
  restOffset: 48,
} as const
export const CHUNK_ENTRY_BYTES = 56

/** ARCHITECTURE "chunk": an option up to 1 MiB. */
export const MAX_CHUNK_BYTES = 1024 * 1024

/** A chunk's bytes: `wholeLength` at `wholeOffset`, then `length - wholeLength` at `restOffset`. */
export interface ChunkRecord {
  /** Bytes, 1 to MAX_CHUNK_BYTES. */
  readonly length: number
  /** A multiple of 4 KiB, 0 when the chunk has no whole block. */
  readonly wholeLength: number
  /** A multiple of 4 KiB, 0 when there are no whole blocks. */
  readonly wholeOffset: number
  /** 0 when there is no rest. */
  readonly restOffset: number
}

/** Little-endian u64 that is a safe integer; NaN otherwise. */
export function readSafeU64(bytes: Buffer, offset: number): number {
  const high = bytes.readUInt32LE(offset + 4)
  return high > 0x1fffff ? NaN : high * 0x1_0000_0000 + bytes.readUInt32LE(offset)
}

export function writeSafeU64(bytes: Buffer, offset: number, value: number): void {
  bytes.writeUInt32LE(value % 0x1_0000_0000, offset)
  bytes.writeUInt32LE(Math.floor(value / 0x1_0000_0000), offset + 4)
}

export function encodeChunkEntry(
  into: Buffer,
  at: number,
  rawDigest: Uint8Array,
  record: ChunkRecord,
): void {
  into.set(rawDigest.subarray(0, DIGEST_BYTES), at)
  into.writeUInt32LE(record.length, at + CHUNK_ENTRY.length)
  into.writeUInt32LE(record.wholeLength, at + CHUNK_ENTRY.wholeLength)
  writeSafeU64(into, at + CHUNK_ENTRY.wholeOffset, record.wholeOffset)
  writeSafeU64(into, at + CHUNK_ENTRY.restOffset, record.restOffset)
}

export function decodeChunkEntry(bytes: Buffer, at: number): ChunkRecord {
  return {
    length: bytes.readUInt32LE(at + CHUNK_ENTRY.length),
    wholeLength: bytes.readUInt32LE(at + CHUNK_ENTRY.wholeLength),
    wholeOffset: readSafeU64(bytes, at + CHUNK_ENTRY.wholeOffset),
    restOffset: readSafeU64(bytes, at + CHUNK_ENTRY.restOffset),
  }
}

/**
 * True when the record lies inside a blob of `size` bytes whose first region has `region1Length`: whole
 * blocks in region 1, the rest in region 2, unused offsets zero.
 */
export function isChunkInside(record: ChunkRecord, region1Length: number, size: number): boolean {
  const { length, wholeLength, wholeOffset, restOffset } = record
  const rest = length - wholeLength
  const whole =
    wholeLength === 0
      ? wholeOffset === 0
      : wholeLength % STORE_BLOCK_BYTES === 0 &&
        wholeOffset % STORE_BLOCK_BYTES === 0 &&
        wholeOffset + wholeLength <= region1Length
  const tail =
    rest === 0 ? restOffset === 0 : restOffset >= region1Length && restOffset + rest <= size
  return length >= 1 && length <= MAX_CHUNK_BYTES && rest >= 0 && whole && tail
}

/** @throws ERR_STORE_CORRUPT naming `what` */
export function checkChunkInside(
  record: ChunkRecord,
  region1Length: number,
  size: number,
  what: string,
): void {
  if (isChunkInside(record, region1Length, size)) return
  throw corrupt(what, `chunk ${JSON.stringify(record)} is outside of its blob of ${size} bytes`)
}

/**
 * The first 48 bits of the digest at `at` as a number that orders like the digest: compared before the
 * digests themselves, it decides all but one comparison in 10^14.
 */
export function digestPrefix(bytes: Buffer, at: number): number {
  return bytes.readUIntBE(at, 6)
}
