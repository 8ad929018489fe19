/**
 * Decodes and checks the superblock. Reads nothing itself: the caller brings the bytes. What a field
 * means beyond its own structure (device addresses, inode places) is decided elsewhere.
 */
import { CRC32C_SEED, crc32c } from './checksum.ts'
import { erofsError } from './errors.ts'
import type { Features } from './features.ts'
import { decodeFeatures, FEATURE_COMPAT, hasCompat, hasIncompat } from './features.ts'
import {
  DEVT_SLOT_SIZE,
  EROFS_SUPER_MAGIC_V1,
  MAX_BLKSZBITS,
  MIN_BLKSZBITS,
  SB,
  SB_EXT,
  SB_EXT_SLOT_SIZE,
  SB_SIZE,
  SB_WITH_METABOX_SIZE,
  SUPERBLOCK_OFFSET,
  UUID_SIZE,
  VOLUME_NAME_SIZE,
} from './layout.ts'
import { readInt64, readUint64, TWO_TO_32, viewOf } from './little-endian.ts'
import type { Nid } from './nid.ts'
import { decodeNid, isMetaboxNid, readNid } from './nid.ts'

export interface Superblock {
  readonly features: Features
  /** Stored CRC-32C; meaningful with SB_CHKSUM. */
  readonly checksum: number
  /** Bytes, a power of two from 512 to 65536. */
  readonly blockSize: number
  readonly blockBits: number
  /** Bytes of the superblock with its extension slots. */
  readonly superblockSize: number
  /** As the image says; nothing relies on it. Rounded above 2^53. */
  readonly inodeCount: number
  /** Seconds since 1970; base of the times of compact inodes. */
  readonly epoch: number
  readonly fixedNanoseconds: number
  /** Seconds since 1970 at which the image was built, where the image says so (48BIT). */
  readonly buildTime: number | undefined
  /** Blocks of the primary device, as the image says. */
  readonly blocks: number
  /** First block of the inode area. */
  readonly metaBlkaddr: number
  /** First block of the shared xattrs. */
  readonly xattrBlkaddr: number
  /** 16 bytes. */
  readonly uuid: Uint8Array
  /** Up to 16 bytes, cut at the first NUL. */
  readonly volumeName: Uint8Array
  readonly rootNid: Nid
  /** Holds the fragments of other files; undefined when there is none. */
  readonly packedNid: Nid | undefined
  /** Holds other inodes; undefined when there is none. */
  readonly metaboxNid: Nid | undefined
  /** Slots of the device table; 0 without one. */
  readonly extraDevices: number
  /** Byte offset on the primary device. */
  readonly deviceTableOffset: number
  /** Long xattr prefixes; 0 without XATTR_PREFIXES. */
  readonly xattrPrefixCount: number
  /** Byte offset in whatever holds the table. */
  readonly xattrPrefixOffset: number
  /** Which long prefix names the fingerprint attribute (ISHARE_XATTRS). */
  readonly fingerprintPrefixId: number | undefined
  /** Bitmap of compression algorithms with COMPR_CFGS, else the LZ4 window. */
  readonly compression: number
}

/** What must be read to decode a superblock, before anything is known of it. */
export const SUPERBLOCK_PROBE = { offset: SUPERBLOCK_OFFSET, length: SB_SIZE } as const

/**
 * The range that the checksum covers and that holds the extension slots needed here.
 * @throws ERR_EROFS_BAD_MAGIC, ERR_EROFS_BAD_SUPERBLOCK
 */
export function superblockExtent(probe: Uint8Array): { readonly offset: number; length: number } {
  const view = viewOf(probe)
  const magic = view.getUint32(SB.magic, true)
  if (magic !== EROFS_SUPER_MAGIC_V1) {
    throw erofsError(
      'ERR_EROFS_BAD_MAGIC',
      `no EROFS superblock at byte ${SUPERBLOCK_OFFSET}: magic is ${hex(magic)}, ` +
        `expected ${hex(EROFS_SUPER_MAGIC_V1)}`,
    )
  }
  const blockBits = view.getUint8(SB.blkszbits)
  if (blockBits < MIN_BLKSZBITS || blockBits > MAX_BLKSZBITS) {
    throw bad(`blkszbits is ${blockBits}, expected ${MIN_BLKSZBITS} to ${MAX_BLKSZBITS}`)
  }
  const size = SB_SIZE + view.getUint8(SB.sb_extslots) * SB_EXT_SLOT_SIZE
  const slots = Math.min(size, SB_WITH_METABOX_SIZE)
  const covered = hasChecksum(view) ? checksumLength(2 ** blockBits) : 0
  return { offset: SUPERBLOCK_OFFSET, length: Math.max(slots, covered) }
}

/**
 * Decodes the bytes of `superblockExtent`.
 * @throws ERR_EROFS_BAD_CHECKSUM, ERR_EROFS_BAD_SUPERBLOCK, ERR_EROFS_UNSUPPORTED_FEATURE
 */
export function decodeSuperblock(
  bytes: Uint8Array,
  options: { readonly verifyChecksum: boolean },
): Superblock {
  const view = viewOf(bytes)
  const u32 = (off: number): number => view.getUint32(off, true)
  const u16 = (off: number): number => view.getUint16(off, true)
  const blockBits = view.getUint8(SB.blkszbits)
  const blockSize = 2 ** blockBits
  if (options.verifyChecksum && hasChecksum(view)) verifyChecksum(bytes, blockSize)
  const features = decodeFeatures(u32(SB.feature_compat), u32(SB.feature_incompat))
  if (view.getUint8(SB.dirblkbits) !== 0) {
    throw bad(`dirblkbits is ${view.getUint8(SB.dirblkbits)}, expected 0`)
  }
  const superblockSize = SB_SIZE + view.getUint8(SB.sb_extslots) * SB_EXT_SLOT_SIZE
  const epoch = readInt64(view, SB.epoch)
  const is48Bit = hasIncompat(features, '48BIT')
  const wideRoot = is48Bit && readUint64(view, SB.rootnid_8b) !== 0
  const extraDevices = hasIncompat(features, 'DEVICE_TABLE') ? u16(SB.extra_devices) : 0
  const name = bytes.subarray(SB.volume_name, SB.volume_name + VOLUME_NAME_SIZE)
  const nul = name.indexOf(0)
  return {
    features,
    checksum: u32(SB.checksum),
    blockSize,
    blockBits,
    superblockSize,
    inodeCount: readUint64(view, SB.inos),
    epoch,
    fixedNanoseconds: u32(SB.fixed_nsec),
    buildTime: is48Bit ? epoch + u32(SB.build_time) : undefined,
    blocks: u32(SB.blocks_lo) + (wideRoot ? u16(SB.rb) * TWO_TO_32 : 0),
    metaBlkaddr: u32(SB.meta_blkaddr),
    xattrBlkaddr: u32(SB.xattr_blkaddr),
    uuid: bytes.slice(SB.uuid, SB.uuid + UUID_SIZE),
    volumeName: name.slice(0, nul < 0 ? name.length : nul),
    rootNid: wideRoot ? readNid(view, SB.rootnid_8b) : decodeNid(u16(SB.rb), 0),
    packedNid: decodePackedNid(view, features),
    metaboxNid: decodeMetaboxNid(view, features, superblockSize),
    extraDevices,
    deviceTableOffset: u16(SB.devt_slotoff) * DEVT_SLOT_SIZE,
    xattrPrefixCount: hasIncompat(features, 'XATTR_PREFIXES')
      ? view.getUint8(SB.xattr_prefix_count)
      : 0,
    xattrPrefixOffset: u32(SB.xattr_prefix_start) * 4,
    fingerprintPrefixId: hasCompat(features, 'ISHARE_XATTRS')
      ? view.getUint8(SB.ishare_xattr_prefix_id)
      : undefined,
    compression: u16(SB.u1),
  }
}

/** Bytes from 1024 that the checksum covers (erofs-utils lib/super.c: erofs_superblock_csum_verify). */
export function checksumLength(blockSize: number): number {
  return blockSize > SUPERBLOCK_OFFSET ? blockSize - SUPERBLOCK_OFFSET : blockSize
}

/** The checksum that the superblock at the start of `covered` must carry; its stored one counts as 0. */
export function superblockChecksum(covered: Uint8Array): number {
  const head = crc32c(covered.subarray(0, SB.checksum), CRC32C_SEED)
  const zeroed = crc32c(new Uint8Array(4), head)
  return crc32c(covered.subarray(SB.checksum + 4), zeroed)
}

function verifyChecksum(bytes: Uint8Array, blockSize: number): void {
  const expected = viewOf(bytes).getUint32(SB.checksum, true)
  const actual = superblockChecksum(bytes.subarray(0, checksumLength(blockSize)))
  if (actual !== expected) {
    throw erofsError(
      'ERR_EROFS_BAD_CHECKSUM',
      `superblock checksum is ${hex(expected)}, the bytes give ${hex(actual)}`,
    )
  }
}

function hasChecksum(view: DataView): boolean {
  return (view.getUint32(SB.feature_compat, true) & FEATURE_COMPAT.SB_CHKSUM) !== 0
}

// erofs_fs.h: packed_nid. The bit is shared with DEDUPE, so 0 means that there are no fragments.
function decodePackedNid(view: DataView, features: Features): Nid | undefined {
  if (!hasIncompat(features, 'FRAGMENTS')) return undefined
  return decodeInternalNid(view, SB.packed_nid, 'packed_nid')
}

function decodeMetaboxNid(view: DataView, features: Features, size: number): Nid | undefined {
  if (!hasIncompat(features, 'METABOX')) return undefined
  if (size < SB_WITH_METABOX_SIZE) {
    throw bad(`a metabox needs a superblock of ${SB_WITH_METABOX_SIZE} bytes, this one has ${size}`)
  }
  return decodeInternalNid(view, SB_EXT.metabox_nid, 'metabox_nid')
}

// An inode that holds metadata must not live inside metadata that it holds.
function decodeInternalNid(view: DataView, off: number, field: string): Nid | undefined {
  const nid = readNid(view, off)
  if (isMetaboxNid(nid))
    throw bad(`${field} points into the metabox, expected a plain inode number`)
  return nid === 0 && field === 'packed_nid' ? undefined : nid
}

function bad(message: string): Error {
  return erofsError('ERR_EROFS_BAD_SUPERBLOCK', `bad superblock: ${message}`)
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`
}
