/**
 * Decodes one inode, compact or extended, into one form. Knows nothing of where inodes lie or of what
 * follows the header: xattrs and data have their own files.
 */
import { erofsError } from './errors.ts'
import { hasIncompat } from './features.ts'
import type { DataLayout } from './layout.ts'
import {
  BLOCK_MAP_ENTRY_SIZE,
  CHUNK_INDEX_SIZE,
  EROFS_CHUNK_FORMAT,
  EROFS_INODE,
  I_FORMAT,
  INODE_COMPACT,
  INODE_COMPACT_SIZE,
  INODE_EXTENDED,
  INODE_EXTENDED_SIZE,
  NULL_ADDR_HI,
  NULL_ADDR_LO,
  S_IF,
  XATTR_IBODY_SIZE,
  XATTR_UNIT,
} from './layout.ts'
import { readInt64, readUint64, TWO_TO_32, viewOf } from './little-endian.ts'
import type { Nid } from './nid.ts'
import { formatNid } from './nid.ts'
import type { Superblock } from './superblock.ts'

/** How the data of a chunk-based inode is described. Every inode has its own (erofs_fs.h: i_u.c.format). */
export interface ChunkFormat {
  /** log2 of the chunk size in bytes; up to 16 + 31. */
  readonly chunkBits: number
  /** 4: block map on the primary device; 8: indexes with a device. */
  readonly entrySize: typeof BLOCK_MAP_ENTRY_SIZE | typeof CHUNK_INDEX_SIZE
  /** 48-bit block addresses in indexes. */
  readonly wide: boolean
}

export interface DeviceNumber {
  readonly major: number
  readonly minor: number
}

export interface InodeFields {
  readonly nid: Nid
  /** Byte offset of the header on the primary device, or in the metabox. */
  readonly offset: number
  /** 32 compact, 64 extended. */
  readonly headerSize: number
  /** Bytes of inline xattrs after the header. */
  readonly xattrSize: number
  readonly layout: DataLayout
  /** Full st_mode. */
  readonly mode: number
  /** Bytes; at most 2^53 - 1. */
  readonly size: number
  readonly uid: number
  readonly gid: number
  readonly nlink: number
  /** i_ino: a serial number for 32-bit stat; not the nid. */
  readonly ino: number
  /** Seconds since 1970, negative before. Rounded beyond 2^53. */
  readonly mtimeSeconds: number
  /** As stored: a damaged image may say 10^9 or more. */
  readonly mtimeNanoseconds: number
  /** Character and block devices only. */
  readonly rdev: DeviceNumber | undefined
  /** First block of layouts 0 and 2; undefined when there is none (all zeros, or all data inline). */
  readonly startBlock: number | undefined
  readonly chunks: ChunkFormat | undefined
  /** Directories that have no entry `.`. */
  readonly dotOmitted: boolean
}

/** One decoded inode. Immutable, and without reference to the bytes that it came from. */
export class Inode implements InodeFields {
  readonly nid: Nid
  readonly offset: number
  readonly headerSize: number
  readonly xattrSize: number
  readonly layout: DataLayout
  readonly mode: number
  readonly size: number
  readonly uid: number
  readonly gid: number
  readonly nlink: number
  readonly ino: number
  readonly mtimeSeconds: number
  readonly mtimeNanoseconds: number
  readonly rdev: DeviceNumber | undefined
  readonly startBlock: number | undefined
  readonly chunks: ChunkFormat | undefined
  readonly dotOmitted: boolean

  constructor(fields: InodeFields) {
    this.nid = fields.nid
    this.offset = fields.offset
    this.headerSize = fields.headerSize
    this.xattrSize = fields.xattrSize
    this.layout = fields.layout
    this.mode = fields.mode
    this.size = fields.size
    this.uid = fields.uid
    this.gid = fields.gid
    this.nlink = fields.nlink
    this.ino = fields.ino
    this.mtimeSeconds = fields.mtimeSeconds
    this.mtimeNanoseconds = fields.mtimeNanoseconds
    this.rdev = fields.rdev
    this.startBlock = fields.startBlock
    this.chunks = fields.chunks
    this.dotOmitted = fields.dotOmitted
  }

  get isDirectory(): boolean {
    return (this.mode & S_IF.MT) === S_IF.DIR
  }

  get isFile(): boolean {
    return (this.mode & S_IF.MT) === S_IF.REG
  }

  get isSymlink(): boolean {
    return (this.mode & S_IF.MT) === S_IF.LNK
  }

  /** Device node, fifo or socket: it has no data. */
  get isSpecial(): boolean {
    return !this.isDirectory && !this.isFile && !this.isSymlink
  }

  get isCompressed(): boolean {
    return (
      this.layout === EROFS_INODE.COMPRESSED_FULL || this.layout === EROFS_INODE.COMPRESSED_COMPACT
    )
  }

  /** Where layout-specific data starts, in the same space as `offset`: right after the xattrs. */
  get bodyOffset(): number {
    return this.offset + this.headerSize + this.xattrSize
  }
}

/** The most that one inode header takes; reading this much from its offset is always enough. */
export const MAX_INODE_HEADER_SIZE = INODE_EXTENDED_SIZE

/**
 * Decodes the header at the start of `bytes`.
 * @throws ERR_EROFS_BAD_INODE, ERR_EROFS_OUT_OF_BOUNDS when the bytes end before the header does
 */
export function decodeInode(bytes: Uint8Array, nid: Nid, offset: number, sb: Superblock): Inode {
  const view = viewOf(bytes)
  if (bytes.byteLength < INODE_COMPACT_SIZE) throw truncated(nid, offset)
  const format = view.getUint16(INODE_COMPACT.i_format, true)
  if ((format & ~I_FORMAT.ALL) !== 0) throw bad(nid, `i_format ${hex(format)} has unknown bits`)
  const extended = (format & I_FORMAT.EXTENDED) !== 0
  if (extended && bytes.byteLength < INODE_EXTENDED_SIZE) throw truncated(nid, offset)
  const layout = (format >> I_FORMAT.DATALAYOUT_SHIFT) & I_FORMAT.DATALAYOUT_MASK
  if (!isDataLayout(layout)) throw bad(nid, `data layout ${layout} is unknown`)
  const mode = view.getUint16(INODE_COMPACT.i_mode, true)
  const type = mode & S_IF.MT
  if (!FILE_TYPES.has(type)) throw bad(nid, `mode 0o${mode.toString(8)} has no file type`)
  const nlinkIsOne = !extended && type !== S_IF.DIR && (format & I_FORMAT.NLINK_1) !== 0
  const common = {
    nid,
    offset,
    headerSize: extended ? INODE_EXTENDED_SIZE : INODE_COMPACT_SIZE,
    xattrSize: xattrBytes(view.getUint16(INODE_COMPACT.i_xattr_icount, true)),
    layout,
    mode,
    rdev: type === S_IF.CHR || type === S_IF.BLK ? decodeDeviceNumber(view) : undefined,
    startBlock: decodeStartBlock(view, layout, sb, extended || nlinkIsOne),
    chunks: layout === EROFS_INODE.CHUNK_BASED ? decodeChunkFormat(view, nid, sb) : undefined,
    dotOmitted: type === S_IF.DIR && (format & I_FORMAT.DOT_OMITTED) !== 0,
  }
  const own = extended ? decodeExtended(view, nid) : decodeCompact(view, sb, nlinkIsOne)
  return new Inode({ ...common, ...own })
}

type OwnFields = Pick<
  InodeFields,
  'size' | 'uid' | 'gid' | 'nlink' | 'ino' | 'mtimeSeconds' | 'mtimeNanoseconds'
>

function decodeCompact(view: DataView, sb: Superblock, nlinkIsOne: boolean): OwnFields {
  return {
    size: view.getUint32(INODE_COMPACT.i_size, true),
    uid: view.getUint16(INODE_COMPACT.i_uid, true),
    gid: view.getUint16(INODE_COMPACT.i_gid, true),
    nlink: nlinkIsOne ? 1 : view.getUint16(INODE_COMPACT.i_nb, true),
    ino: view.getUint32(INODE_COMPACT.i_ino, true),
    mtimeSeconds: sb.epoch + view.getUint32(INODE_COMPACT.i_mtime, true),
    mtimeNanoseconds: sb.fixedNanoseconds,
  }
}

function decodeExtended(view: DataView, nid: Nid): OwnFields {
  const size = readUint64(view, INODE_EXTENDED.i_size)
  if (size > Number.MAX_SAFE_INTEGER) throw bad(nid, `size ${size} is above 2^53 - 1 bytes`)
  return {
    size,
    uid: view.getUint32(INODE_EXTENDED.i_uid, true),
    gid: view.getUint32(INODE_EXTENDED.i_gid, true),
    nlink: view.getUint32(INODE_EXTENDED.i_nlink, true),
    ino: view.getUint32(INODE_EXTENDED.i_ino, true),
    mtimeSeconds: readInt64(view, INODE_EXTENDED.i_mtime),
    mtimeNanoseconds: view.getUint32(INODE_EXTENDED.i_mtime_nsec, true),
  }
}

// erofs_fs.h: erofs_xattr_ibody_size.
function xattrBytes(icount: number): number {
  return icount === 0 ? 0 : XATTR_IBODY_SIZE + XATTR_UNIT * (icount - 1)
}

// fs/erofs/inode.c: erofs_read_inode. Images from before 48BIT have a reserved field where the high bits
// are. All ones, in as many bits as the address has, means that no block is there.
function decodeStartBlock(
  view: DataView,
  layout: DataLayout,
  sb: Superblock,
  hasHighBits: boolean,
): number | undefined {
  if (layout !== EROFS_INODE.FLAT_PLAIN && layout !== EROFS_INODE.FLAT_INLINE) return undefined
  const lo = view.getUint32(INODE_COMPACT.i_u, true)
  if (!hasHighBits || !hasIncompat(sb.features, '48BIT')) {
    return lo === NULL_ADDR_LO ? undefined : lo
  }
  const hi = view.getUint16(INODE_COMPACT.i_nb, true)
  return lo === NULL_ADDR_LO && hi === NULL_ADDR_HI ? undefined : hi * TWO_TO_32 + lo
}

function decodeChunkFormat(view: DataView, nid: Nid, sb: Superblock): ChunkFormat {
  const format = view.getUint16(INODE_COMPACT.i_u, true)
  if ((format & ~EROFS_CHUNK_FORMAT.ALL) !== 0) {
    throw bad(nid, `chunk format ${hex(format)} has unknown bits`)
  }
  return {
    chunkBits: sb.blockBits + (format & EROFS_CHUNK_FORMAT.BLKBITS_MASK),
    entrySize:
      (format & EROFS_CHUNK_FORMAT.INDEXES) === 0 ? BLOCK_MAP_ENTRY_SIZE : CHUNK_INDEX_SIZE,
    wide: (format & EROFS_CHUNK_FORMAT['48BIT']) !== 0,
  }
}

// include/linux/kdev_t.h: new_decode_dev.
function decodeDeviceNumber(view: DataView): DeviceNumber {
  const rdev = view.getUint32(INODE_COMPACT.i_u, true)
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) }
}

const FILE_TYPES: ReadonlySet<number> = new Set([
  S_IF.SOCK,
  S_IF.LNK,
  S_IF.REG,
  S_IF.BLK,
  S_IF.DIR,
  S_IF.CHR,
  S_IF.IFO,
])

function isDataLayout(value: number): value is DataLayout {
  return value <= EROFS_INODE.CHUNK_BASED
}

function bad(nid: Nid, what: string): Error {
  return erofsError('ERR_EROFS_BAD_INODE', `inode ${formatNid(nid)}: ${what}`)
}

function truncated(nid: Nid, offset: number): Error {
  return erofsError(
    'ERR_EROFS_OUT_OF_BOUNDS',
    `inode ${formatNid(nid)} at byte ${offset} runs over the end of what holds it`,
  )
}

function hex(value: number): string {
  return `0x${value.toString(16)}`
}
