/**
 * The form of a device's address map (docs/format/store.md, "Address map"): a sorted list of extents
 * that cover the device, each zeros or a piece of a blob. Decoding validates everything and copies
 * nothing, so that a map can be used in shared memory as it is. Pure: bytes in, bytes out.
 */
import { createHash } from 'node:crypto'

import type { Digest } from '../core/index.ts'
import { DIGEST_BYTES, digestFromRaw, digestToRaw } from '../core/index.ts'
import { readSafeU64, writeSafeU64 } from './chunk-record.ts'
import { corrupt } from './errors.ts'

/** Byte offsets of the header's fields; all integers are little-endian. */
export const MAP = {
  /** sha256 of everything after it. */
  digest: 0,
  magic: 32,
  version: 40,
  flags: 44,
  deviceSize: 48,
  extentCount: 56,
  logicalBytes: 64,
  inodeCount: 72,
  blobCount: 80,
  reserved: 84,
} as const
export const MAP_HEADER_BYTES = 128
export const MAP_MAGIC = 'CPDEVMAP'
export const MAP_VERSION = 1

/** The device was parsed as EROFS: logicalBytes and inodeCount are known. */
export const MAP_FLAG_EROFS = 1

/** An entry of the blob table. */
export const MAP_BLOB = { digest: 0, size: 32, reserved: 40 } as const
export const MAP_BLOB_BYTES = 48

/** An extent as u32 words: indices into `DeviceMap.extents`. */
export const EXTENT = {
  deviceLow: 0,
  deviceHigh: 1,
  blobLow: 2,
  blobHigh: 3,
  /** 0: zeros. k: entry k − 1 of the blob table. */
  source: 4,
} as const
export const EXTENT_WORDS = 5
export const EXTENT_BYTES = EXTENT_WORDS * 4

/** Of a safe integer's upper half: 2^53 = 2^21 · 2^32. */
const MAX_HIGH = 0x1f_ffff
const TWO_32 = 0x1_0000_0000

export interface MapBlob {
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
}

/** What a map says of the image beside the extents. */
export interface MapFacts {
  readonly parsedAsErofs: boolean
  /** Bytes of all files as the files say; 0 when not parsed. */
  readonly logicalBytes: number
  readonly inodeCount: number
}

export interface DeviceMap extends MapFacts {
  /** Bytes of the device. */
  readonly size: number
  readonly extentCount: number
  /** EXTENT_WORDS words per extent, a view of the decoded bytes. */
  readonly extents: Uint32Array
  readonly blobs: readonly MapBlob[]
}

/** An encoded map's size in bytes. */
export function mapBytes(extentCount: number, blobCount: number): number {
  return MAP_HEADER_BYTES + blobCount * MAP_BLOB_BYTES + extentCount * EXTENT_BYTES
}

/** @throws RangeError when the extents are not whole */
export function encodeMap(map: DeviceMap): Buffer {
  const words = map.extentCount * EXTENT_WORDS
  if (map.extents.length < words) throw new RangeError('fewer extents than extentCount')
  const bytes = Buffer.alloc(mapBytes(map.extentCount, map.blobs.length))
  bytes.write(MAP_MAGIC, MAP.magic, 'latin1')
  bytes.writeUInt32LE(MAP_VERSION, MAP.version)
  bytes.writeUInt32LE(map.parsedAsErofs ? MAP_FLAG_EROFS : 0, MAP.flags)
  writeSafeU64(bytes, MAP.deviceSize, map.size)
  writeSafeU64(bytes, MAP.extentCount, map.extentCount)
  writeSafeU64(bytes, MAP.logicalBytes, map.logicalBytes)
  writeSafeU64(bytes, MAP.inodeCount, map.inodeCount)
  bytes.writeUInt32LE(map.blobs.length, MAP.blobCount)
  let at = MAP_HEADER_BYTES
  for (const blob of map.blobs) {
    digestToRaw(blob.digest).copy(bytes, at + MAP_BLOB.digest)
    writeSafeU64(bytes, at + MAP_BLOB.size, blob.size)
    at += MAP_BLOB_BYTES
  }
  const { buffer, byteOffset } = map.extents
  bytes.set(new Uint8Array(buffer, byteOffset, words * 4), at)
  createHash('sha256').update(bytes.subarray(DIGEST_BYTES)).digest().copy(bytes, MAP.digest)
  return bytes
}

/**
 * Decodes and validates a map: digest, sizes, order and bounds of every extent. The result is a view of
 * `bytes` (which may be shared memory and must start at a multiple of 4 in its buffer).
 *
 * @throws ERR_STORE_CORRUPT
 */
export function decodeMap(bytes: Uint8Array, what = 'an address map'): DeviceMap {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.byteLength < MAP_HEADER_BYTES) {
    throw corrupt(what, `it has ${view.byteLength} bytes, less than its header`)
  }
  if (view.byteOffset % 4 !== 0) throw new RangeError('a map must be 4-byte aligned in memory')
  const magic = view.toString('latin1', MAP.magic, MAP.version)
  const version = view.readUInt32LE(MAP.version)
  if (magic !== MAP_MAGIC || version !== MAP_VERSION) {
    throw corrupt(what, `magic '${magic}' version ${version}, expected ${MAP_MAGIC} ${MAP_VERSION}`)
  }
  const extentCount = readSafeU64(view, MAP.extentCount)
  const blobCount = view.readUInt32LE(MAP.blobCount)
  const expected = mapBytes(extentCount, blobCount)
  if (expected !== view.byteLength) {
    throw corrupt(what, `it has ${view.byteLength} bytes, expected ${expected} by its header`)
  }
  const digest = createHash('sha256').update(view.subarray(DIGEST_BYTES)).digest()
  if (!digest.equals(view.subarray(0, DIGEST_BYTES))) {
    throw corrupt(what, 'its bytes do not have the digest it starts with')
  }
  const flags = view.readUInt32LE(MAP.flags)
  if ((flags & ~MAP_FLAG_EROFS) !== 0) throw corrupt(what, `unknown flags 0x${flags.toString(16)}`)
  if (!isZero(view, MAP.reserved, MAP_HEADER_BYTES)) throw corrupt(what, 'reserved bytes are set')
  const map: DeviceMap = {
    size: readSafeU64(view, MAP.deviceSize),
    parsedAsErofs: (flags & MAP_FLAG_EROFS) !== 0,
    logicalBytes: readSafeU64(view, MAP.logicalBytes),
    inodeCount: readSafeU64(view, MAP.inodeCount),
    extentCount,
    extents: new Uint32Array(
      view.buffer,
      view.byteOffset + mapBytes(0, blobCount),
      extentCount * EXTENT_WORDS,
    ),
    blobs: decodeBlobs(view, blobCount, what),
  }
  if (![map.size, map.logicalBytes, map.inodeCount].every(Number.isSafeInteger)) {
    throw corrupt(what, 'a size is above 2^53')
  }
  validateExtents(map, what)
  return map
}

function decodeBlobs(view: Buffer, count: number, what: string): MapBlob[] {
  const blobs: MapBlob[] = []
  for (let index = 0; index < count; index++) {
    const at = MAP_HEADER_BYTES + index * MAP_BLOB_BYTES
    const digest = digestFromRaw(view.subarray(at, at + DIGEST_BYTES))
    const size = readSafeU64(view, at + MAP_BLOB.size)
    if (!(size >= 1) || !isZero(view, at + MAP_BLOB.reserved, at + MAP_BLOB_BYTES)) {
      throw corrupt(what, `blob ${index} (${digest}) has ${size} bytes or reserved bytes set`)
    }
    blobs.push({ digest, size })
  }
  return blobs
}

/** Extents start at 0, ascend, end inside the device, and lie inside their blobs. */
function validateExtents(map: DeviceMap, what: string): void {
  const { extents, extentCount, size } = map
  const sizes = Float64Array.from([0, ...map.blobs.map((blob) => blob.size)])
  if ((extentCount === 0) !== (size === 0)) {
    throw corrupt(what, `${extentCount} extents for ${size} bytes`)
  }
  // Backwards: the end of an extent is the start of the one after it.
  let end = size
  for (let index = extentCount - 1; index >= 0; index--) {
    const at = index * EXTENT_WORDS
    const start = join(extents[at + EXTENT.deviceLow], extents[at + EXTENT.deviceHigh])
    const from = join(extents[at + EXTENT.blobLow], extents[at + EXTENT.blobHigh])
    const source = extents[at + EXTENT.source] ?? 0
    const blobSize = sizes[source]
    const inside = source === 0 ? from === 0 : from + (end - start) <= (blobSize ?? -1)
    if (!(start < end) || !inside) {
      throw corrupt(
        what,
        `extent ${index}: device ${start} to ${end}, source ${source} at ${from} of ${blobSize}`,
      )
    }
    end = start
  }
  if (end !== 0) throw corrupt(what, `the first extent starts at ${end}, expected 0`)
}

/** NaN (which fails every comparison) above 2^53. */
function join(low = 0, high = 0): number {
  return high > MAX_HIGH ? NaN : high * TWO_32 + low
}

function isZero(bytes: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (bytes[at] !== 0) return false
  return true
}
