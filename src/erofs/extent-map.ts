/**
 * Maps logical ranges of a file to the devices, for the layouts plain, inline and chunk-based
 * (fs/erofs/data.c: erofs_map_blocks). Reads chunk tables and nothing else; never the data itself.
 */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import type { DeviceAddresses } from './device-table.ts'
import { erofsError } from './errors.ts'
import type { FileExtent } from './extent-list.ts'
import { ExtentList } from './extent-list.ts'
import type { ChunkFormat, Inode } from './inode.ts'
import { CHUNK_INDEX, EROFS_INODE, NULL_ADDR_HI, NULL_ADDR_LO } from './layout.ts'
import { TWO_TO_32, viewOf } from './little-endian.ts'
import { formatNid, isMetaboxNid } from './nid.ts'

/**
 * Chunk table entries that one call reads: 1 MiB of table, 4 GiB of file at 64 KiB chunks. A caller that
 * wants more asks in pieces, so no file makes one call long or large.
 */
export const MAX_CHUNKS_PER_CALL = 131_072

/** What mapping needs to know of the image. */
export interface MapContext {
  readonly blockSize: number
  readonly addresses: DeviceAddresses
  /** The space that the inode's own metadata lies in: the primary device or the metabox's data. */
  metadataOf(inode: Inode, options?: ReadOptions): Promise<ByteSource>
  /** The inode whose data the metabox is. */
  metaboxInode(options?: ReadOptions): Promise<Inode>
}

/**
 * Where [offset, offset + length), clipped to the file's size, lies. The extents are in order and cover
 * exactly that range.
 * @throws ERR_EROFS_COMPRESSED_UNSUPPORTED, ERR_EROFS_RANGE_TOO_LARGE, ERR_EROFS_OUT_OF_BOUNDS,
 * ERR_EROFS_BAD_CHUNK_TABLE, ERR_EROFS_BAD_INLINE_TAIL, ERR_EROFS_DEVICE_UNAVAILABLE
 */
export async function mapRange(
  context: MapContext,
  inode: Inode,
  offset: number,
  length: number,
  options?: ReadOptions,
): Promise<FileExtent[]> {
  const start = Math.min(offset, inode.size)
  const end = Math.min(offset + length, inode.size)
  if (start >= end || inode.isSpecial) return []
  if (inode.isCompressed) {
    throw erofsError(
      'ERR_EROFS_COMPRESSED_UNSUPPORTED',
      `the data of inode ${formatNid(inode.nid)} is compressed, which is not supported yet`,
    )
  }
  const list = new ExtentList()
  if (inode.chunks === undefined) await mapFlat(context, list, inode, start, end, options)
  else await mapChunks(context, list, inode, inode.chunks, start, end, options)
  return list.take()
}

/** Bytes that one call of mapRange can cover from any offset. */
export function mapLimit(inode: Inode): number {
  if (inode.chunks === undefined) return Number.MAX_SAFE_INTEGER
  // One entry less, because a range that does not start on a chunk border touches one more.
  const limit = (MAX_CHUNKS_PER_CALL - 1) * 2 ** inode.chunks.chunkBits
  return Math.min(limit, Number.MAX_SAFE_INTEGER)
}

/** The chunk table: where it starts, after rounding, and how long it is. */
export function chunkTable(
  inode: Inode,
  chunks: ChunkFormat,
): { readonly offset: number; readonly length: number } {
  // Absolute rounding: xattrs leave the body 4 bytes off an 8-byte border.
  const offset = Math.ceil(inode.bodyOffset / chunks.entrySize) * chunks.entrySize
  return { offset, length: Math.ceil(inode.size / 2 ** chunks.chunkBits) * chunks.entrySize }
}

async function mapFlat(
  context: MapContext,
  list: ExtentList,
  inode: Inode,
  start: number,
  end: number,
  options?: ReadOptions,
): Promise<void> {
  const { blockSize } = context
  // The last block of an inline file is inline, a full one included (erofs_map_blocks: nblocks - 1).
  const inline = inode.layout === EROFS_INODE.FLAT_INLINE
  const bodyEnd = inline ? Math.floor((inode.size - 1) / blockSize) * blockSize : inode.size
  if (start < bodyEnd) {
    const until = Math.min(end, bodyEnd)
    if (inode.startBlock !== undefined) {
      const first = inode.startBlock * blockSize
      context.addresses.place(list, 0, first + start, until - start)
    } else if (inline) {
      throw erofsError(
        'ERR_EROFS_OUT_OF_BOUNDS',
        `inode ${formatNid(inode.nid)} has ${inode.size} bytes, but no block before its inline tail`,
      )
    } else {
      list.addHole(until - start)
    }
  }
  if (end > bodyEnd) {
    const from = Math.max(start, bodyEnd) - bodyEnd
    checkInlineTail(inode, inode.size - bodyEnd, blockSize)
    await mapMetadata(context, list, inode, inode.bodyOffset + from, end - bodyEnd - from, options)
  }
}

function checkInlineTail(inode: Inode, length: number, blockSize: number): void {
  const within = inode.bodyOffset % blockSize
  if (within + length <= blockSize) return
  throw erofsError(
    'ERR_EROFS_BAD_INLINE_TAIL',
    `inline tail of inode ${formatNid(inode.nid)}, ${length} bytes at ${inode.bodyOffset}, ` +
      `crosses a border of ${blockSize}-byte blocks`,
  )
}

async function mapMetadata(
  context: MapContext,
  list: ExtentList,
  inode: Inode,
  offset: number,
  length: number,
  options?: ReadOptions,
): Promise<void> {
  if (!isMetaboxNid(inode.nid)) {
    context.addresses.placeMetadata(list, offset, length)
    return
  }
  const metabox = await context.metaboxInode(options)
  const extents = await mapRange(context, metabox, offset, length, options)
  let covered = 0
  for (const extent of extents) {
    covered += extent.length
    if (extent.kind === 'hole') list.addHole(extent.length)
    else list.addData(extent.device, extent.deviceOffset, extent.length)
  }
  if (covered !== length) {
    throw erofsError(
      'ERR_EROFS_OUT_OF_BOUNDS',
      `inline tail of inode ${formatNid(inode.nid)} runs over the end of the metabox`,
    )
  }
}

async function mapChunks(
  context: MapContext,
  list: ExtentList,
  inode: Inode,
  chunks: ChunkFormat,
  start: number,
  end: number,
  options?: ReadOptions,
): Promise<void> {
  const { chunkBits, entrySize } = chunks
  const chunkSize = 2 ** chunkBits
  const first = Math.floor(start / chunkSize)
  const count = Math.floor((end - 1) / chunkSize) - first + 1
  if (count > MAX_CHUNKS_PER_CALL) {
    throw erofsError(
      'ERR_EROFS_RANGE_TOO_LARGE',
      `a range of ${end - start} bytes has ${count} chunks, ` +
        `at most ${MAX_CHUNKS_PER_CALL} are mapped by one call`,
    )
  }
  const metadata = await context.metadataOf(inode, options)
  const table = chunkTable(inode, chunks)
  if (table.offset + table.length > metadata.size) {
    throw erofsError(
      'ERR_EROFS_BAD_CHUNK_TABLE',
      `chunk table of inode ${formatNid(inode.nid)}, ${table.length} bytes at ${table.offset}, ` +
        `runs over the end of the image at ${metadata.size}`,
    )
  }
  const bytes = await metadata.read(table.offset + first * entrySize, count * entrySize, options)
  const view = viewOf(bytes)
  for (let index = 0; index < count; index++) {
    const chunkStart = (first + index) * chunkSize
    const from = Math.max(start, chunkStart)
    const length = Math.min(end, chunkStart + chunkSize) - from
    const chunk = decodeChunk(view, index * entrySize, chunks)
    if (chunk === undefined) {
      list.addHole(length)
    } else {
      const device = context.addresses.maskDeviceId(chunk.deviceId)
      const byte = chunk.block * context.blockSize + (from - chunkStart)
      context.addresses.place(list, device, byte, length)
    }
  }
}

interface ChunkAddress {
  /** As stored. */
  readonly deviceId: number
  readonly block: number
}

/** One table entry; undefined for a hole. */
export function decodeChunk(
  view: DataView,
  off: number,
  chunks: ChunkFormat,
): ChunkAddress | undefined {
  if (chunks.entrySize === 4) {
    const block = view.getUint32(off, true)
    return block === NULL_ADDR_LO ? undefined : { deviceId: 0, block }
  }
  const lo = view.getUint32(off + CHUNK_INDEX.startblk_lo, true)
  const hi = chunks.wide ? view.getUint16(off + CHUNK_INDEX.startblk_hi, true) : 0
  if (lo === NULL_ADDR_LO && hi === (chunks.wide ? NULL_ADDR_HI : 0)) return undefined
  const deviceId = view.getUint16(off + CHUNK_INDEX.device_id, true)
  return { deviceId, block: hi * TWO_TO_32 + lo }
}
