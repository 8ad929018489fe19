/**
 * Puts small images together for tests, field by field, so that a test can set any field to anything. Not
 * a writer: it places what it is told to, where it is told to, and checks nothing.
 */
import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, OpenOptions } from '../../src/erofs/index.ts'
import { FEATURE_COMPAT, openErofs } from '../../src/erofs/index.ts'
import {
  DEVT_SLOT,
  DEVT_SLOT_SIZE,
  DIRENT,
  DIRENT_SIZE,
  EROFS_SUPER_MAGIC_V1,
  INODE_COMPACT,
  INODE_EXTENDED,
  SB,
  SUPERBLOCK_OFFSET,
} from '../../src/erofs/layout.ts'
import { checksumLength, superblockChecksum } from '../../src/erofs/superblock.ts'

export interface InodeSpec {
  readonly compact?: boolean
  readonly layout?: number
  /** Other bits of i_format. */
  readonly formatBits?: number
  readonly xattrIcount?: number
  readonly mode?: number
  readonly nb?: number
  readonly size?: number
  readonly u?: number
  readonly mtime?: number
  readonly uid?: number
  readonly gid?: number
  readonly nlink?: number
  /** What follows the header. */
  readonly body?: Uint8Array
}

export interface EntrySpec {
  readonly name: string | Uint8Array
  readonly nid: number
  readonly type?: number
}

export const FILE = 0o100644
export const DIRECTORY = 0o040755
export const SYMLINK = 0o120777
export const NO_BLOCK = 0xffffffff
/** Where builders put the root. */
export const ROOT_NID = 64

export class ImageBuilder {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly blockSize: number

  constructor(options: { blocks?: number; blockBits?: number } = {}) {
    const blockBits = options.blockBits ?? 12
    this.blockSize = 2 ** blockBits
    this.bytes = new Uint8Array((options.blocks ?? 16) * this.blockSize)
    this.view = new DataView(this.bytes.buffer)
    this.u32(SB.magic, EROFS_SUPER_MAGIC_V1)
    this.u32(SB.blocks_lo, options.blocks ?? 16)
    this.u8(SB.blkszbits, blockBits)
    this.u16(SB.rb, ROOT_NID)
  }

  /** Superblock fields, by offset in it. */
  u8(off: number, value: number): this {
    this.view.setUint8(SUPERBLOCK_OFFSET + off, value)
    return this
  }

  u16(off: number, value: number): this {
    this.view.setUint16(SUPERBLOCK_OFFSET + off, value, true)
    return this
  }

  u32(off: number, value: number): this {
    this.view.setUint32(SUPERBLOCK_OFFSET + off, value, true)
    return this
  }

  u64(off: number, value: bigint): this {
    this.view.setBigUint64(SUPERBLOCK_OFFSET + off, value, true)
    return this
  }

  features(compat: number, incompat: number): this {
    return this.u32(SB.feature_compat, compat).u32(SB.feature_incompat, incompat)
  }

  put(offset: number, bytes: Uint8Array): this {
    this.bytes.set(bytes, offset)
    return this
  }

  inode(nid: number, spec: InodeSpec): this {
    return this.inodeAt(nid * 32, spec)
  }

  inodeAt(offset: number, spec: InodeSpec): this {
    const compact = spec.compact === true
    const at = compact ? INODE_COMPACT : INODE_EXTENDED
    const { view } = this
    const format = (compact ? 0 : 1) | ((spec.layout ?? 0) << 1) | (spec.formatBits ?? 0)
    view.setUint16(offset + at.i_format, format, true)
    view.setUint16(offset + at.i_xattr_icount, spec.xattrIcount ?? 0, true)
    view.setUint16(offset + at.i_mode, spec.mode ?? FILE, true)
    view.setUint16(offset + at.i_nb, spec.nb ?? 0, true)
    view.setUint32(offset + at.i_u, spec.u ?? NO_BLOCK, true)
    if (compact) {
      view.setUint32(offset + INODE_COMPACT.i_size, spec.size ?? 0, true)
      view.setUint32(offset + INODE_COMPACT.i_mtime, spec.mtime ?? 0, true)
      view.setUint16(offset + INODE_COMPACT.i_uid, spec.uid ?? 0, true)
      view.setUint16(offset + INODE_COMPACT.i_gid, spec.gid ?? 0, true)
    } else {
      view.setBigUint64(offset + INODE_EXTENDED.i_size, BigInt(spec.size ?? 0), true)
      view.setBigInt64(offset + INODE_EXTENDED.i_mtime, BigInt(spec.mtime ?? 0), true)
      view.setUint32(offset + INODE_EXTENDED.i_uid, spec.uid ?? 0, true)
      view.setUint32(offset + INODE_EXTENDED.i_gid, spec.gid ?? 0, true)
      view.setUint32(offset + INODE_EXTENDED.i_nlink, spec.nlink ?? 1, true)
    }
    if (spec.body !== undefined) this.put(offset + (compact ? 32 : 64), spec.body)
    return this
  }

  /** A directory whose entries lie inline, in the order given. */
  directory(nid: number, entries: readonly EntrySpec[]): this {
    const body = directoryBlock(entries)
    return this.inode(nid, { layout: 2, mode: DIRECTORY, size: body.byteLength, body })
  }

  /** The root with `.`, `..` and what is given. */
  root(entries: readonly EntrySpec[] = []): this {
    return this.directory(ROOT_NID, [
      { name: '.', nid: ROOT_NID, type: 2 },
      { name: '..', nid: ROOT_NID, type: 2 },
      ...entries,
    ])
  }

  symlink(nid: number, target: string): this {
    const body = Buffer.from(target)
    return this.inode(nid, { layout: 2, mode: SYMLINK, size: body.byteLength, body })
  }

  /** Slots from byte 1152 on, which is slot offset 9. */
  devices(slots: readonly { blocks?: number; uniaddr?: number; tag?: string }[]): this {
    this.u16(SB.extra_devices, slots.length).u16(SB.devt_slotoff, 9)
    for (const [index, slot] of slots.entries()) {
      const off = 9 * DEVT_SLOT_SIZE + index * DEVT_SLOT_SIZE
      this.view.setUint32(off + DEVT_SLOT.blocks_lo, slot.blocks ?? 0, true)
      this.view.setUint32(off + DEVT_SLOT.uniaddr_lo, slot.uniaddr ?? 0, true)
      this.put(off + DEVT_SLOT.tag, Buffer.from(slot.tag ?? ''))
    }
    return this
  }

  /** Sets SB_CHKSUM and the checksum over what is there now. */
  checksum(): this {
    const compat = this.view.getUint32(SUPERBLOCK_OFFSET + SB.feature_compat, true)
    this.u32(SB.feature_compat, (compat | FEATURE_COMPAT.SB_CHKSUM) >>> 0)
    const length = checksumLength(this.blockSize)
    const covered = this.bytes.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_OFFSET + length)
    return this.u32(SB.checksum, superblockChecksum(covered))
  }

  open(options?: OpenOptions): Promise<ErofsImage> {
    return openErofs(memorySource(this.bytes), options)
  }
}

export function directoryBlock(entries: readonly EntrySpec[], blockSize?: number): Uint8Array {
  const names = entries.map(({ name }) => (typeof name === 'string' ? Buffer.from(name) : name))
  const used = names.reduce((sum, name) => sum + DIRENT_SIZE + name.byteLength, 0)
  const bytes = new Uint8Array(blockSize ?? used)
  const view = new DataView(bytes.buffer)
  let nameoff = entries.length * DIRENT_SIZE
  for (const [index, entry] of entries.entries()) {
    const name = names[index] ?? new Uint8Array(0)
    const off = index * DIRENT_SIZE
    view.setBigUint64(off + DIRENT.nid, BigInt(entry.nid), true)
    view.setUint16(off + DIRENT.nameoff, nameoff, true)
    view.setUint8(off + DIRENT.file_type, entry.type ?? 1)
    bytes.set(name, nameoff)
    nameoff += name.byteLength
  }
  return bytes
}

export function u32le(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [index, value] of values.entries()) view.setUint32(index * 4, value, true)
  return bytes
}
