/** Block 0 of an image that we write: superblock, device table and the table of long xattr prefixes. */
import { crc32c } from '../checksum.ts'
import { FEATURE_COMPAT, FEATURE_INCOMPAT } from '../features.ts'
import {
  DEVT_SLOT,
  DEVT_SLOT_SIZE,
  DEVT_TAG_SIZE,
  EROFS_SUPER_MAGIC_V1,
  EROFS_XATTR_INDEX,
  SB,
  SB_SIZE,
  SUPERBLOCK_OFFSET,
  UUID_SIZE,
  XATTR_LONG_PREFIX,
  XATTR_LONG_PREFIX_LENGTH_SIZE,
  XATTR_UNIT,
} from '../layout.ts'
import { viewOf } from '../little-endian.ts'

/** The attribute that names a file's content: `erofs.fingerprint.v1`, which no kernel lists (Linux 7.0). */
export const FINGERPRINT_XATTR = 'erofs.fingerprint.v1'

/** devt_slotoff counts in slots; the first one is right behind the superblock. */
const DEVICE_TABLE_OFFSET = SUPERBLOCK_OFFSET + SB_SIZE
/** Behind the one device slot that we write. */
const PREFIX_TABLE_OFFSET = DEVICE_TABLE_OFFSET + DEVT_SLOT_SIZE

export interface SuperblockInput {
  readonly blockBits: number
  readonly rootNid: number
  readonly inodes: number
  /** Of the primary device. */
  readonly blocks: number
  readonly metaBlock: number
  readonly xattrBlock: number
  readonly uuid: Uint8Array
  readonly hasChunks: boolean
  readonly hasFingerprints: boolean
  /** The second device, if there is one: it follows the primary in the unified address space. */
  readonly device: { readonly blocks: number; readonly tag: Uint8Array } | undefined
}

export function encodeSuperblock(input: SuperblockInput): Buffer {
  const block = Buffer.alloc(2 ** input.blockBits)
  const bytes = block.subarray(SUPERBLOCK_OFFSET)
  const view = viewOf(bytes)
  const compat =
    FEATURE_COMPAT.SB_CHKSUM |
    FEATURE_COMPAT.MTIME |
    (input.hasFingerprints ? FEATURE_COMPAT.PLAIN_XATTR_PFX | FEATURE_COMPAT.ISHARE_XATTRS : 0)
  const incompat =
    (input.hasChunks ? FEATURE_INCOMPAT.CHUNKED_FILE : 0) |
    (input.device === undefined ? 0 : FEATURE_INCOMPAT.DEVICE_TABLE) |
    (input.hasFingerprints ? FEATURE_INCOMPAT.XATTR_PREFIXES : 0)
  view.setUint32(SB.magic, EROFS_SUPER_MAGIC_V1, true)
  view.setUint32(SB.feature_compat, compat, true)
  view.setUint8(SB.blkszbits, input.blockBits)
  view.setUint16(SB.rb, input.rootNid, true)
  view.setBigUint64(SB.inos, BigInt(input.inodes), true)
  view.setUint32(SB.blocks_lo, input.blocks, true)
  view.setUint32(SB.meta_blkaddr, input.metaBlock, true)
  view.setUint32(SB.xattr_blkaddr, input.xattrBlock, true)
  bytes.set(input.uuid.subarray(0, UUID_SIZE), SB.uuid)
  view.setUint32(SB.feature_incompat, incompat, true)
  if (input.device !== undefined) {
    view.setUint16(SB.extra_devices, 1, true)
    view.setUint16(SB.devt_slotoff, DEVICE_TABLE_OFFSET / DEVT_SLOT_SIZE, true)
    setDeviceSlot(block.subarray(DEVICE_TABLE_OFFSET), input)
  }
  if (input.hasFingerprints) {
    view.setUint8(SB.xattr_prefix_count, 1)
    view.setUint32(SB.xattr_prefix_start, PREFIX_TABLE_OFFSET / XATTR_UNIT, true)
    setFingerprintPrefix(block.subarray(PREFIX_TABLE_OFFSET))
  }
  view.setUint32(SB.checksum, crc32c(bytes), true)
  return block
}

function setDeviceSlot(slot: Buffer, input: SuperblockInput): void {
  if (input.device === undefined) return
  slot.set(input.device.tag.subarray(0, DEVT_TAG_SIZE), DEVT_SLOT.tag)
  slot.writeUInt32LE(input.device.blocks, DEVT_SLOT.blocks_lo)
  slot.writeUInt32LE(input.blocks, DEVT_SLOT.uniaddr_lo)
}

/** ishare_xattr_prefix_id stays 0: the only prefix of the table. */
function setFingerprintPrefix(table: Buffer): void {
  const record = table.subarray(XATTR_LONG_PREFIX_LENGTH_SIZE)
  table.writeUInt16LE(XATTR_LONG_PREFIX.infix + FINGERPRINT_XATTR.length)
  record.writeUInt8(EROFS_XATTR_INDEX.HIDDEN, XATTR_LONG_PREFIX.base_index)
  record.write(FINGERPRINT_XATTR, XATTR_LONG_PREFIX.infix, 'latin1')
}
