/**
 * Damage that knows the format. The reader itself finds every structure of a healthy image (superblock, device
 * slots, inodes, xattrs, chunk tables, directory entries); then fields get border values, values of other fields
 * of their kind, or are off by one, and whole structures replace each other. It changes bytes and judges nothing.
 */
import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, FileExtent, Inode, Nid } from '../../src/erofs/index.ts'
import { isMetaboxNid, openErofs, walk } from '../../src/erofs/index.ts'
import {
  BLOCK_MAP_ENTRY_SIZE,
  CHUNK_INDEX,
  CHUNK_INDEX_SIZE,
  DEVT_SLOT,
  DEVT_SLOT_SIZE,
  DIRENT,
  DIRENT_SIZE,
  INODE_COMPACT,
  INODE_COMPACT_SIZE,
  INODE_EXTENDED,
  INODE_EXTENDED_SIZE,
  SB,
  SB_EXT,
  SB_SIZE,
  SUPERBLOCK_OFFSET,
  XATTR_ENTRY,
  XATTR_ENTRY_SIZE,
  XATTR_IBODY,
  XATTR_IBODY_SIZE,
  XATTR_UNIT,
} from '../../src/erofs/layout.ts'

export type RandomBelow = (below: number) => number

type FieldTable = Readonly<Record<string, number>>

interface StructureKind {
  readonly name: string
  readonly fields: FieldTable
  readonly size: number
}

const SUPERBLOCK: StructureKind = { name: 'superblock', fields: SB, size: SB_SIZE }
const METABOX_NID = SB_EXT.metabox_nid - SB_SIZE
const SUPERBLOCK_SLOT: StructureKind = {
  name: 'superblock slot',
  fields: { metabox_nid: METABOX_NID },
  size: SB_EXT.reserved3 - SB_SIZE,
}
const DEVICE: StructureKind = { name: 'device slot', fields: DEVT_SLOT, size: DEVT_SLOT_SIZE }
const COMPACT: StructureKind = {
  name: 'compact inode',
  fields: INODE_COMPACT,
  size: INODE_COMPACT_SIZE,
}
const EXTENDED: StructureKind = {
  name: 'extended inode',
  fields: INODE_EXTENDED,
  size: INODE_EXTENDED_SIZE,
}
const XATTRS: StructureKind = {
  name: 'xattr header',
  fields: XATTR_IBODY,
  size: XATTR_IBODY_SIZE,
}
const XATTR: StructureKind = { name: 'xattr', fields: XATTR_ENTRY, size: XATTR_ENTRY_SIZE }
const CHUNK: StructureKind = { name: 'chunk index', fields: CHUNK_INDEX, size: CHUNK_INDEX_SIZE }
const BLOCK: StructureKind = {
  name: 'block map entry',
  fields: { startblk: 0 },
  size: BLOCK_MAP_ENTRY_SIZE,
}
const ENTRY: StructureKind = { name: 'directory entry', fields: DIRENT, size: DIRENT_SIZE }

/** The superblock is small and decides most: damage goes there once in so many times. */
const SUPERBLOCK_ONE_IN = 20
const MAX_FIELD_BYTES = 8
/** The fixtures' tables of long xattr prefixes are shorter. */
const PREFIXES_BYTES = 256

export interface Structures {
  /** Offsets on the primary device. */
  readonly byKind: ReadonlyMap<StructureKind, readonly number[]>
  /** Every inode that a path leads to. */
  readonly nids: readonly Nid[]
  /** Byte ranges that hold structures or targets of links. */
  readonly regions: readonly (readonly [offset: number, length: number])[]
  /** Some regular file has compressed data. */
  readonly compressed: boolean
}

/** @param devices of a healthy image, primary first */
export async function findStructures(devices: readonly Uint8Array[]): Promise<Structures> {
  const [primary = new Uint8Array(0)] = devices
  const image = await openErofs(memorySource(primary), { deviceCount: devices.length })
  const finder = new Finder(image, primary)
  await finder.run()
  return finder
}

/** Where a structure lies that is addressed in the primary device, or inside the metabox. */
type Place = (offset: number) => number | undefined

class Finder implements Structures {
  readonly byKind = new Map<StructureKind, number[]>()
  readonly nids: Nid[] = []
  readonly regions: [number, number][] = []
  compressed = false
  readonly #image: ErofsImage
  readonly #bytes: Uint8Array
  readonly #view: DataView

  constructor(image: ErofsImage, primary: Uint8Array) {
    this.#image = image
    this.#bytes = primary
    this.#view = new DataView(primary.buffer, primary.byteOffset, primary.length)
  }

  async run(): Promise<void> {
    this.#superblock()
    let metabox: FileExtent[] = []
    if (this.#image.superblock.metaboxNid !== undefined) {
      metabox = await this.#dataRegions(await this.#image.metaboxInode())
    }
    for await (const { inode } of walk(this.#image)) {
      this.nids.push(inode.nid)
      this.compressed ||= inode.isCompressed
      const inMetabox = isMetaboxNid(inode.nid)
      this.#inode(inode, inMetabox ? (offset) => placeIn(metabox, offset) : (offset) => offset)
      if (!inMetabox) {
        const record = this.#image.inodeRecord(inode)
        if (record !== undefined) this.regions.push([record.offset, record.length])
      }
      if (inode.isFile || inode.isCompressed) continue
      const extents = await this.#dataRegions(inode)
      if (inode.isDirectory) this.#entries(inode, extents)
    }
  }

  #superblock(): void {
    this.#add(SUPERBLOCK, SUPERBLOCK_OFFSET)
    this.regions.push([SUPERBLOCK_OFFSET, SB_SIZE])
    if (this.#image.superblock.metaboxNid !== undefined) {
      this.#add(SUPERBLOCK_SLOT, SUPERBLOCK_OFFSET + SB_SIZE)
    }
    // The tables that the superblock points to, as far as the primary device holds them.
    const { blockSize } = this.#image.superblock
    const u32 = (field: number): number => this.#view.getUint32(SUPERBLOCK_OFFSET + field, true)
    this.#table(u32(SB.xattr_blkaddr) * blockSize, blockSize)
    this.#table(u32(SB.xattr_prefix_start) * XATTR_UNIT, PREFIXES_BYTES)
    const table = this.#u16(SUPERBLOCK_OFFSET + SB.devt_slotoff) * DEVT_SLOT_SIZE
    for (let slot = 0; slot < this.#image.devices.length; slot++) {
      this.#add(DEVICE, table + slot * DEVT_SLOT_SIZE)
    }
  }

  #table(offset: number, length: number): void {
    if (offset > 0 && offset + length <= this.#bytes.length) this.regions.push([offset, length])
  }

  #inode(inode: Inode, place: Place): void {
    const isExtended = inode.headerSize === INODE_EXTENDED_SIZE
    this.#add(isExtended ? EXTENDED : COMPACT, place(inode.offset))
    const attributes = inode.offset + inode.headerSize
    if (inode.xattrSize > 0) this.#xattrs(place(attributes), inode.xattrSize)
    if (inode.chunks === undefined) return
    const { entrySize, chunkBits } = inode.chunks
    const table = Math.ceil(inode.bodyOffset / entrySize) * entrySize
    for (let chunk = 0; chunk < Math.ceil(inode.size / 2 ** chunkBits); chunk++) {
      const kind = entrySize === CHUNK_INDEX_SIZE ? CHUNK : BLOCK
      this.#add(kind, place(table + chunk * entrySize))
    }
  }

  #xattrs(header: number | undefined, size: number): void {
    if (header === undefined) return
    this.#add(XATTRS, header)
    const shared = this.#bytes[header + XATTR_IBODY.h_shared_count] ?? 0
    let at = header + XATTR_IBODY_SIZE + shared * XATTR_UNIT
    while (at + XATTR_ENTRY_SIZE <= header + size) {
      this.#add(XATTR, at)
      const name = this.#bytes[at + XATTR_ENTRY.e_name_len] ?? 0
      const value = this.#u16(at + XATTR_ENTRY.e_value_size)
      at += Math.ceil((XATTR_ENTRY_SIZE + name + value) / XATTR_UNIT) * XATTR_UNIT
    }
  }

  /** Each block of a directory starts with its entries; the first one's name lies behind the last entry. */
  #entries(directory: Inode, extents: readonly FileExtent[]): void {
    const { blockSize } = this.#image.superblock
    for (let block = 0; block < directory.size; block += blockSize) {
      const start = placeIn(extents, block)
      if (start === undefined) continue
      const count = Math.floor(this.#u16(start + DIRENT.nameoff) / DIRENT_SIZE)
      for (let entry = 0; entry < count; entry++) this.#add(ENTRY, start + entry * DIRENT_SIZE)
    }
  }

  async #dataRegions(inode: Inode): Promise<FileExtent[]> {
    const extents: FileExtent[] = []
    for await (const extent of this.#image.extents(inode)) {
      extents.push(extent)
      if (extent.kind === 'data' && extent.device === 0) {
        this.regions.push([extent.deviceOffset, extent.length])
      }
    }
    return extents
  }

  #add(kind: StructureKind, offset: number | undefined): void {
    if (offset === undefined || offset + kind.size > this.#bytes.length) return
    const known = this.byKind.get(kind)
    if (known === undefined) this.byKind.set(kind, [offset])
    else known.push(offset)
  }

  #u16(offset: number): number {
    return this.#view.getUint16(offset, true)
  }
}

/** Where byte `offset` of what the extents map lies on the primary device. */
function placeIn(extents: readonly FileExtent[], offset: number): number | undefined {
  let at = 0
  for (const extent of extents) {
    if (offset < at + extent.length) {
      if (extent.kind === 'hole' || extent.device !== 0) return undefined
      return extent.deviceOffset + offset - at
    }
    at += extent.length
  }
  return undefined
}

/** Changes one field, or replaces one structure by another of its kind, in `bytes` of the primary device. */
export function damageStructure(
  bytes: Uint8Array,
  structures: Structures,
  random: RandomBelow,
): void {
  const kind = chooseKind(structures, random)
  const offsets = structures.byKind.get(kind) ?? []
  const at = offsets[random(offsets.length)] ?? 0
  const other = offsets[random(offsets.length)] ?? 0
  // The image may have been cut since its structures were found.
  if (Math.max(at, other) + kind.size > bytes.length) return
  if (random(8) === 0) {
    bytes.copyWithin(at, other, other + kind.size)
    return
  }
  const starts = Object.values(kind.fields)
  const field = starts[random(starts.length)] ?? 0
  const end = Math.min(...starts.filter((start) => start > field), kind.size)
  const width = 2 ** Math.floor(Math.log2(Math.min(end - field, MAX_FIELD_BYTES)))
  const value = chooseValue(bytes, at + field, other + field, width, random)
  for (let i = 0; i < width; i++) {
    bytes[at + field + i] = Number(BigInt.asUintN(8, value >> BigInt(8 * i)))
  }
}

function chooseKind({ byKind }: Structures, random: RandomBelow): StructureKind {
  const kinds = [...byKind.keys()].filter((kind) => kind !== SUPERBLOCK)
  if (random(SUPERBLOCK_ONE_IN) === 0) return SUPERBLOCK
  return kinds[random(kinds.length)] ?? SUPERBLOCK
}

function chooseValue(
  bytes: Uint8Array,
  at: number,
  other: number,
  width: number,
  random: RandomBelow,
): bigint {
  const bits = BigInt(8 * width)
  const now = valueAt(bytes, at, width)
  const top = 1n << (bits - 1n)
  const borders = [0n, 1n, 2n, top - 1n, top, top + 1n, 2n * top - 2n, 2n * top - 1n]
  switch (random(6)) {
    case 0:
      return valueAt(bytes, other, width)
    case 1:
      return now + BigInt(random(5)) - 2n
    case 2:
      return now ^ (1n << BigInt(random(8 * width)))
    case 3:
      // In and just beyond the image, as an offset or, shifted, as a number of blocks or slots.
      return BigInt(bytes.length + random(3) - 1) >> BigInt([0, 5, 9, 12][random(4)] ?? 0)
    case 4:
      return BigInt(random(2 ** Math.min(8 * width, 31)))
    default:
      return borders[random(borders.length)] ?? 0n
  }
}

function valueAt(bytes: Uint8Array, at: number, width: number): bigint {
  let value = 0n
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i] ?? 0)
  return value
}
