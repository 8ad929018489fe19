/**
 * One inode as bytes: the extended header (compact ones would lose their mtime on Linux before 6.15), xattrs,
 * and the chunk table or the data that lies inside. Where the record lies is not known here.
 */
import {
  CHUNK_INDEX,
  CHUNK_INDEX_SIZE,
  EROFS_CHUNK_FORMAT,
  EROFS_INODE,
  I_FORMAT,
  INODE_EXTENDED,
  INODE_EXTENDED_SIZE,
  NULL_ADDR_LO,
  S_IF,
} from '../layout.ts'
import { TWO_TO_32, viewOf } from '../little-endian.ts'
import { roundUp } from './placement.ts'
import type { TreeNode } from './tree.ts'
import { HOLE } from './tree.ts'
import { xattrCount } from './xattrs.ts'

/** Where data of an inode lies: inside, from a block on, or by a chunk table; `none` when there is none. */
export type Body =
  | { readonly kind: 'none' }
  | { readonly kind: 'inline'; readonly size: number }
  | { readonly kind: 'blocks'; readonly size: number; readonly block: number }
  | { readonly kind: 'chunks'; readonly size: number; readonly table: ChunkTable }

/** A file's chunks as the format has them, after neighbours were joined to larger ones. */
export interface ChunkTable {
  /** log2 of blocks in a chunk. */
  readonly blockBits: number
  /** First block of each chunk in the data space, or HOLE. */
  readonly blocks: Uint32Array
}

/** The chunk size is a field of 5 bits. */
const MAX_CHUNK_BLOCK_BITS = EROFS_CHUNK_FORMAT.BLKBITS_MASK

/**
 * The shortest table: two chunks that lie behind each other, or are both holes, become one, for as long as that
 * holds of all pairs of the file (as lib/blobchunk.c of erofs-utils from 1.7 on).
 */
export function joinChunks(blocks: Uint32Array, blockBits: number): ChunkTable {
  let table: ChunkTable = { blockBits, blocks }
  while (table.blocks.length > 1 && table.blockBits < MAX_CHUNK_BLOCK_BITS) {
    const { blocks: old } = table
    const step = 2 ** table.blockBits
    const joined = new Uint32Array(Math.ceil(old.length / 2))
    for (const index of joined.keys()) {
      const first = old[2 * index] ?? HOLE
      const second = old[2 * index + 1]
      const follows = first === HOLE ? second === HOLE : second === first + step
      if (second !== undefined && !follows) return table
      joined[index] = first
    }
    table = { blockBits: table.blockBits + 1, blocks: joined }
  }
  return table
}

/** Bytes of an inode up to the data that lies inside; the table of chunks is part of them. */
export function recordSize(xattrBytes: number, body: Body): number {
  const head = INODE_EXTENDED_SIZE + xattrBytes
  if (body.kind !== 'chunks') return head
  return roundUp(head, CHUNK_INDEX_SIZE) + body.table.blocks.length * CHUNK_INDEX_SIZE
}

export interface RecordInput {
  readonly node: TreeNode
  readonly links: number
  /** i_ino: for 32-bit stat. */
  readonly ino: number
  readonly xattrs: Uint8Array
  readonly body: Body
  /** What chunk indexes say: 0 is the primary device. */
  readonly deviceId: number
  /** Block of that device where the data space starts. */
  readonly dataStart: number
  /** Block of the primary device where the space of directories starts. */
  readonly directoryStart: number
}

/** recordSize() bytes. */
export function encodeRecord(input: RecordInput): Buffer {
  const { node, body, xattrs } = input
  const bytes = Buffer.alloc(recordSize(xattrs.byteLength, body))
  const view = viewOf(bytes)
  const { attributes } = node
  const format = I_FORMAT.EXTENDED | (LAYOUTS[body.kind] << I_FORMAT.DATALAYOUT_SHIFT)
  view.setUint16(INODE_EXTENDED.i_format, format, true)
  view.setUint16(INODE_EXTENDED.i_xattr_icount, xattrCount(xattrs.byteLength), true)
  view.setUint16(INODE_EXTENDED.i_mode, node.mode, true)
  setInt64(view, INODE_EXTENDED.i_size, body.kind === 'none' ? 0 : body.size)
  view.setUint32(INODE_EXTENDED.i_u, bodyWord(input), true)
  view.setUint32(INODE_EXTENDED.i_ino, input.ino, true)
  view.setUint32(INODE_EXTENDED.i_uid, attributes.uid, true)
  view.setUint32(INODE_EXTENDED.i_gid, attributes.gid, true)
  setInt64(view, INODE_EXTENDED.i_mtime, attributes.mtimeSeconds)
  view.setUint32(INODE_EXTENDED.i_mtime_nsec, attributes.mtimeNanoseconds, true)
  view.setUint32(INODE_EXTENDED.i_nlink, input.links, true)
  bytes.set(xattrs, INODE_EXTENDED_SIZE)
  if (body.kind === 'chunks') {
    const start = roundUp(INODE_EXTENDED_SIZE + xattrs.byteLength, CHUNK_INDEX_SIZE)
    for (const [index, block] of body.table.blocks.entries()) {
      const off = start + index * CHUNK_INDEX_SIZE
      const isHole = block === HOLE
      view.setUint16(off + CHUNK_INDEX.device_id, isHole ? 0 : input.deviceId, true)
      const address = isHole ? NULL_ADDR_LO : input.dataStart + block
      view.setUint32(off + CHUNK_INDEX.startblk_lo, address, true)
    }
  }
  return bytes
}

const LAYOUTS = {
  none: EROFS_INODE.FLAT_PLAIN,
  inline: EROFS_INODE.FLAT_INLINE,
  blocks: EROFS_INODE.FLAT_PLAIN,
  chunks: EROFS_INODE.CHUNK_BASED,
} as const

/** i_u, by layout and type. */
function bodyWord({ node, body, directoryStart }: RecordInput): number {
  switch (body.kind) {
    case 'none':
      return node.type === S_IF.REG ? NULL_ADDR_LO : deviceWord(node)
    case 'inline':
      return NULL_ADDR_LO
    case 'blocks':
      return directoryStart + body.block
    case 'chunks':
      return EROFS_CHUNK_FORMAT.INDEXES | body.table.blockBits
  }
}

// include/linux/kdev_t.h: new_encode_dev.
function deviceWord(node: TreeNode): number {
  if (!('device' in node) || node.device === undefined) return 0
  const { major, minor } = node.device
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0
}

function setInt64(view: DataView, off: number, value: number): void {
  view.setUint32(off, ((value % TWO_TO_32) + TWO_TO_32) % TWO_TO_32, true)
  view.setInt32(off + 4, Math.floor(value / TWO_TO_32), true)
}
