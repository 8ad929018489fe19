/**
 * An opened EROFS image: ties superblock, devices, inodes, directories, xattrs and file maps together
 * over one ByteSource, the primary device or the flattened view. Bytes in, facts out: no files, no
 * cache. It keeps the superblock, the device table, the metabox inode and the long xattr prefixes.
 */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import type { Addressing, DeviceSlot } from './device-table.ts'
import { DeviceAddresses, readDeviceTable } from './device-table.ts'
import type { DirectoryEntry } from './directory-block.ts'
import type { DirectoryReader, ListOptions } from './directory.ts'
import { listEntries, lookupEntry } from './directory.ts'
import { erofsError } from './errors.ts'
import type { FileExtent } from './extent-list.ts'
import type { MapContext } from './extent-map.ts'
import { chunkTable, mapLimit, mapRange } from './extent-map.ts'
import { InodeSource } from './inode-source.ts'
import type { Inode } from './inode.ts'
import { decodeInode, MAX_INODE_HEADER_SIZE } from './inode.ts'
import { INODE_SLOT_SIZE } from './layout.ts'
import type { Nid } from './nid.ts'
import { formatNid, isMetaboxNid, slotOf } from './nid.ts'
import type { ResolveOptions } from './path.ts'
import { MAX_SYMLINK_LENGTH, resolvePath } from './path.ts'
import type { Superblock } from './superblock.ts'
import { decodeSuperblock, SUPERBLOCK_PROBE, superblockExtent } from './superblock.ts'
import type { LongPrefix, Xattr } from './xattr.ts'
import { XattrReader } from './xattr-reader.ts'

/** readData allocates what it returns: directories are read by block, links and tables are small. */
export const MAX_READ_DATA = 16 * 1024 * 1024

export interface OpenOptions extends ReadOptions {
  /**
   * Devices that the caller holds. 1 (the default): a device table means flattened addressing, all data at
   * unified addresses of the source. 1 + extra devices: separate addressing.
   */
  readonly deviceCount?: number
  /** Bytes of each extra device in slot order, so that extents are checked against them. */
  readonly extraDeviceSizes?: readonly number[]
  /** Default true; false opens an image whose first block is damaged, to inspect it. */
  readonly verifyChecksum?: boolean
}

export interface XattrOptions extends ReadOptions {
  /** Also give attributes that the kernel does not list, such as inode fingerprints. Default false. */
  readonly hidden?: boolean
}

/** Byte range on device 0. */
export interface ByteRange {
  readonly offset: number
  readonly length: number
}

/**
 * Opens an image. `source` is the primary device, or the flattened view.
 * @throws ERR_EROFS_TRUNCATED, ERR_EROFS_BAD_MAGIC, ERR_EROFS_BAD_CHECKSUM, ERR_EROFS_BAD_SUPERBLOCK,
 * ERR_EROFS_UNSUPPORTED_FEATURE, ERR_EROFS_BAD_DEVICE_TABLE, ERR_EROFS_DEVICE_COUNT
 */
export async function openErofs(
  source: ByteSource,
  options: OpenOptions = {},
): Promise<ErofsImage> {
  const probe = await readOrTruncated(source, SUPERBLOCK_PROBE, options)
  const bytes = await readOrTruncated(source, superblockExtent(probe), options)
  const sb = decodeSuperblock(bytes, { verifyChecksum: options.verifyChecksum ?? true })
  const slots = await readDeviceTable(source, sb, options)
  const addressing = chooseAddressing(slots.length, options)
  const addresses = new DeviceAddresses({
    sb,
    slots,
    addressing,
    primarySize: source.size,
    extraSizes: options.extraDeviceSizes,
  })
  return new ErofsImage({ source, sb, slots, addresses })
}

interface ImageParts {
  readonly source: ByteSource
  readonly sb: Superblock
  readonly slots: readonly DeviceSlot[]
  readonly addresses: DeviceAddresses
}

/** Made by openErofs. Every method may also fail as the source does. */
export class ErofsImage {
  readonly superblock: Superblock
  /** The device table, in slot order; empty without one. */
  readonly devices: readonly DeviceSlot[]
  /** What the image is read from; its owner closes it. */
  readonly source: ByteSource
  readonly #addresses: DeviceAddresses
  readonly #map: MapContext
  readonly #xattrs: XattrReader
  #metaboxInode: Inode | undefined

  constructor(parts: ImageParts) {
    this.superblock = parts.sb
    this.devices = parts.slots
    this.source = parts.source
    this.#addresses = parts.addresses
    this.#map = {
      blockSize: parts.sb.blockSize,
      addresses: parts.addresses,
      metadataOf: (inode, options) => this.#space(inode.nid, options),
      metaboxInode: (options) => this.metaboxInode(options),
    }
    this.#xattrs = new XattrReader({
      sb: parts.sb,
      primary: parts.source,
      metadataOf: (inode, options) => this.#space(inode.nid, options),
      metabox: (options) => this.#metabox(options),
      packed: (options) => this.#packed(options),
    })
  }

  get addressing(): Addressing {
    return this.#addresses.addressing
  }

  /** The same image read through another source of the same bytes, such as a window over it. */
  over(source: ByteSource): ErofsImage {
    return new ErofsImage({
      source,
      sb: this.superblock,
      slots: this.devices,
      addresses: this.#addresses,
    })
  }

  root(options?: ReadOptions): Promise<Inode> {
    return this.readInode(this.superblock.rootNid, options)
  }

  /** One read of the source (two in a metabox). @throws ERR_EROFS_BAD_NID, ERR_EROFS_BAD_INODE */
  async readInode(nid: Nid, options?: ReadOptions): Promise<Inode> {
    const space = await this.#space(nid, options)
    const { metaBlkaddr, blockSize } = this.superblock
    const base = isMetaboxNid(nid) ? 0 : metaBlkaddr * blockSize
    const offset = base + slotOf(nid) * INODE_SLOT_SIZE
    if (offset + INODE_SLOT_SIZE > space.size) {
      throw erofsError(
        'ERR_EROFS_BAD_NID',
        `inode ${formatNid(nid)} would lie at byte ${offset}, beyond the end at ${space.size}`,
      )
    }
    const length = Math.min(MAX_INODE_HEADER_SIZE, space.size - offset)
    const bytes = await space.read(offset, length, options)
    return decodeInode(bytes, nid, offset, this.superblock)
  }

  /**
   * The entry of this name; `.` and `..` as stored. Reads about log2(blocks of the directory) blocks.
   * @throws ERR_EROFS_NOT_A_DIRECTORY, ERR_EROFS_BAD_DIRECTORY, ERR_EROFS_COMPRESSED_UNSUPPORTED
   */
  async lookup(
    directory: Inode,
    name: Uint8Array,
    options?: ReadOptions,
  ): Promise<DirectoryEntry | undefined> {
    return lookupEntry(this.#directory(directory, options), name)
  }

  /**
   * Entries in byte order of their names, without `.` and `..`, one block in memory at a time.
   * @throws as lookup
   */
  readDirectory(
    directory: Inode,
    options: ListOptions & ReadOptions = {},
  ): AsyncIterable<DirectoryEntry> {
    return listEntries(this.#directory(directory, options), options)
  }

  /**
   * The inode of a path of bytes, from the root, symbolic links followed inside the image.
   * @throws ERR_EROFS_NOT_FOUND, ERR_EROFS_NOT_A_DIRECTORY, ERR_EROFS_SYMLINK_LOOP,
   * ERR_EROFS_PATH_TOO_LONG
   */
  resolve(path: Uint8Array, options: ResolveOptions = {}): Promise<Inode> {
    return resolvePath(this, path, options)
  }

  /**
   * The target of a symbolic link, 1 to 4095 bytes.
   * @throws ERR_EROFS_NOT_A_SYMLINK, ERR_EROFS_BAD_SYMLINK, ERR_EROFS_COMPRESSED_UNSUPPORTED
   */
  async readLink(inode: Inode, options?: ReadOptions): Promise<Uint8Array> {
    const where = `inode ${formatNid(inode.nid)}`
    if (!inode.isSymlink) {
      throw erofsError('ERR_EROFS_NOT_A_SYMLINK', `${where} is not a symbolic link`)
    }
    if (inode.size < 1 || inode.size > MAX_SYMLINK_LENGTH) {
      throw erofsError(
        'ERR_EROFS_BAD_SYMLINK',
        `symbolic link ${where} has ${inode.size} bytes, expected 1 to ${MAX_SYMLINK_LENGTH}`,
      )
    }
    const target = await this.readData(inode, 0, inode.size, options)
    if (target.includes(0)) {
      throw erofsError('ERR_EROFS_BAD_SYMLINK', `the target of symbolic link ${where} holds a NUL`)
    }
    return target
  }

  /** At most 4 MiB of attributes. @throws ERR_EROFS_BAD_XATTR */
  async xattrs(inode: Inode, options: XattrOptions = {}): Promise<Xattr[]> {
    const all = await this.#xattrs.read(inode, options)
    return options.hidden === true ? all : all.filter((xattr) => !xattr.hidden)
  }

  /** The content fingerprint of an inode, in images that have them. @throws ERR_EROFS_BAD_XATTR */
  fingerprint(inode: Inode, options?: ReadOptions): Promise<Uint8Array | undefined> {
    return this.#xattrs.fingerprint(inode, options)
  }

  /** The table of long xattr prefixes. @throws ERR_EROFS_BAD_XATTR */
  xattrPrefixes(options?: ReadOptions): Promise<readonly LongPrefix[]> {
    return this.#xattrs.prefixes(options)
  }

  /**
   * Where [offset, offset + length) of the data, clipped to its size, lies: in order, covering exactly that
   * range, neighbours joined. Inline tails are data on device 0. One call maps at most `mapLimit` bytes.
   * Extents are inside device 0, and inside other devices as far as their sizes are known.
   * @throws ERR_EROFS_COMPRESSED_UNSUPPORTED, ERR_EROFS_RANGE_TOO_LARGE, ERR_EROFS_OUT_OF_BOUNDS,
   * ERR_EROFS_BAD_CHUNK_TABLE, ERR_EROFS_BAD_INLINE_TAIL, ERR_EROFS_DEVICE_UNAVAILABLE
   */
  mapFile(
    inode: Inode,
    offset: number,
    length: number,
    options?: ReadOptions,
  ): Promise<FileExtent[]> {
    return mapRange(this.#map, inode, offset, length, options)
  }

  /** All extents of a file, mapped in bounded pieces: two in a row may continue each other. */
  async *extents(inode: Inode, options?: ReadOptions): AsyncGenerator<FileExtent, void, void> {
    const step = mapLimit(inode)
    for (let offset = 0; offset < inode.size; offset += step) {
      yield* await this.mapFile(inode, offset, step, options)
    }
  }

  /**
   * Data that lies on device 0, clipped to the inode's size. For metadata; at most 16 MiB.
   * @throws as mapFile; ERR_EROFS_DEVICE_UNAVAILABLE when a part lies on another device
   */
  async readData(
    inode: Inode,
    offset: number,
    length: number,
    options?: ReadOptions,
  ): Promise<Uint8Array> {
    const wanted = Math.min(length, Math.max(0, inode.size - offset))
    if (wanted > MAX_READ_DATA) {
      throw erofsError(
        'ERR_EROFS_RANGE_TOO_LARGE',
        `${wanted} bytes of inode ${formatNid(inode.nid)}, at most ${MAX_READ_DATA} are read at once`,
      )
    }
    const extents = await this.mapFile(inode, offset, wanted, options)
    const only = extents.length === 1 ? extents[0] : undefined
    if (only?.kind === 'data') return this.#readExtent(inode, only, options)
    const bytes = new Uint8Array(extents.reduce((sum, extent) => sum + extent.length, 0))
    let position = 0
    for (const extent of extents) {
      if (extent.kind === 'data')
        bytes.set(await this.#readExtent(inode, extent, options), position)
      position += extent.length
    }
    return bytes
  }

  /**
   * The inode's own metadata on device 0: header, xattrs and chunk table, without an inline tail. undefined
   * for inodes in a metabox. Compression indexes are not counted.
   * @throws ERR_EROFS_OUT_OF_BOUNDS, ERR_EROFS_BAD_CHUNK_TABLE
   */
  inodeRecord(inode: Inode): ByteRange | undefined {
    if (isMetaboxNid(inode.nid)) return undefined
    const table = inode.chunks === undefined ? undefined : chunkTable(inode, inode.chunks)
    const end =
      table === undefined || table.length === 0 ? inode.bodyOffset : table.offset + table.length
    if (end > this.source.size) {
      throw erofsError(
        table === undefined ? 'ERR_EROFS_OUT_OF_BOUNDS' : 'ERR_EROFS_BAD_CHUNK_TABLE',
        `inode ${formatNid(inode.nid)} ends at byte ${end}, beyond the end at ${this.source.size}`,
      )
    }
    return { offset: inode.offset, length: end - inode.offset }
  }

  /** The inode whose data holds other inodes. @throws ERR_EROFS_BAD_NID when the image has none */
  async metaboxInode(options?: ReadOptions): Promise<Inode> {
    const nid = this.superblock.metaboxNid
    if (nid === undefined) {
      throw erofsError('ERR_EROFS_BAD_NID', 'an inode number points into a metabox, there is none')
    }
    this.#metaboxInode ??= await this.#internalInode(nid, 'metabox', options)
    return this.#metaboxInode
  }

  /** The inode that holds fragments of other files; undefined when the image has none. */
  async packedInode(options?: ReadOptions): Promise<Inode | undefined> {
    const nid = this.superblock.packedNid
    return nid === undefined ? undefined : this.#internalInode(nid, 'packed', options)
  }

  async #internalInode(nid: Nid, name: string, options?: ReadOptions): Promise<Inode> {
    const inode = await this.readInode(nid, options)
    if (inode.isFile) return inode
    throw erofsError(
      'ERR_EROFS_BAD_INODE',
      `the ${name} inode ${formatNid(nid)} has mode 0o${inode.mode.toString(8)}, expected a file`,
    )
  }

  async #readExtent(
    inode: Inode,
    extent: FileExtent & { readonly kind: 'data' },
    options?: ReadOptions,
  ): Promise<Uint8Array> {
    if (extent.device !== 0) {
      throw erofsError(
        'ERR_EROFS_DEVICE_UNAVAILABLE',
        `data of inode ${formatNid(inode.nid)} lies on device ${extent.device}, expected device 0`,
      )
    }
    return this.source.read(extent.deviceOffset, extent.length, options)
  }

  /** What the inode's header, xattrs and tables lie in. */
  async #space(nid: Nid, options?: ReadOptions): Promise<ByteSource> {
    return isMetaboxNid(nid) ? this.#metabox(options) : this.source
  }

  async #metabox(options?: ReadOptions): Promise<ByteSource> {
    return new InodeSource(this, await this.metaboxInode(options))
  }

  async #packed(options?: ReadOptions): Promise<ByteSource | undefined> {
    const inode = await this.packedInode(options)
    return inode === undefined ? undefined : new InodeSource(this, inode)
  }

  #directory(inode: Inode, options?: ReadOptions): DirectoryReader {
    if (!inode.isDirectory) {
      throw erofsError(
        'ERR_EROFS_NOT_A_DIRECTORY',
        `inode ${formatNid(inode.nid)} is not a directory`,
      )
    }
    const { blockSize } = this.superblock
    return {
      inode,
      blockSize,
      readBlock: (index) => this.readData(inode, index * blockSize, blockSize, options),
    }
  }
}

async function readOrTruncated(
  source: ByteSource,
  range: ByteRange,
  options: ReadOptions,
): Promise<Uint8Array> {
  if (range.offset + range.length <= source.size) {
    return source.read(range.offset, range.length, options)
  }
  throw erofsError(
    'ERR_EROFS_TRUNCATED',
    `the superblock takes bytes ${range.offset} to ${range.offset + range.length}, ` +
      `the image has ${source.size}`,
  )
}

// fs/erofs/super.c: erofs_scan_devices.
function chooseAddressing(extraDevices: number, options: OpenOptions): Addressing {
  const given = options.deviceCount ?? (options.extraDeviceSizes?.length ?? 0) + 1
  if (given === extraDevices + 1) return extraDevices === 0 ? 'single' : 'separate'
  if (given === 1) return 'flattened'
  throw erofsError(
    'ERR_EROFS_DEVICE_COUNT',
    `${given} devices given, the image has 1 primary and ${extraDevices} extra devices`,
    { given, extraDevices },
  )
}
