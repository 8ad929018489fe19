/**
 * One opened image as a data worker sees it: its devices and its flattened view as disks, its files by
 * path. A view keeps what it was opened with, whatever happens to tags. One per thread, shared by its users. It reads through the page cache only.
 */
import { createHash } from 'node:crypto'

import type { PageReader } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'
import { isAppError } from '../core/index.ts'
import type { ErofsImage, Inode, Xattr } from '../erofs/index.ts'
import { openErofs } from '../erofs/index.ts'
import type { DeviceMap, MapBlob } from '../store/index.ts'
import { AddressMap } from './address-map.ts'
import { quoteEtag } from './content-etag.ts'
import type { DataHandle } from './data-handle.ts'
import { imageError } from './errors.ts'
import type { DirectoryPage, FileInfo, FileStatus, ListedEntry } from './file-info.ts'
import { fileInfoOf } from './file-info.ts'
import { FlattenedMap, flattenedOffset } from './flattened-map.ts'
import type { FileCaches, FindOptions } from './image-files.ts'
import { ImageFiles } from './image-files.ts'
import type { ImageRecord } from './image-record.ts'
import type { ReadIdentity } from './mapped-handle.ts'
import { MappedHandle } from './mapped-handle.ts'
import { MappedSource } from './mapped-source.ts'
import type { RangeMap, ViewBlob } from './range-map.ts'
import { WindowedHandle } from './windowed-handle.ts'

/** Entries of one page of a listing, at most. */
export const MAX_DIRECTORY_PAGE = 1000
const DEFAULT_DIRECTORY_PAGE = 100

export interface ImageViewOptions {
  readonly domain: string
  readonly digest: Digest
  readonly record: ImageRecord
  /** The decoded map of each device of the record, in order; may lie in shared memory. */
  readonly maps: readonly DeviceMap[]
  /** Every blob of the maps, from `planBlobs`, with the number that the keeper gave it. */
  readonly blobs: readonly ViewBlob[]
  /** On whose behalf is read: image id, domain number, accounting. */
  readonly identity: ReadIdentity
  readonly reader: PageReader
  /** The thread's. */
  readonly caches: FileCaches
  /** Called when the last user is gone; the view may be acquired again. */
  readonly onUnused?: () => void
}

export interface OpenedFile {
  readonly info: FileInfo
  /** Strong entity tag in quotes. */
  readonly etag: string
  readonly handle: DataHandle
}

/** A blob of an image before the keeper numbered it. */
export type PlannedBlob = Omit<ViewBlob, 'blobNo'>

/**
 * The blobs that an image's maps refer to, each once, and how many page ordinals they take: what
 * `createImageAccounting` is made for.
 */
export function planBlobs(
  maps: readonly { readonly blobs: readonly MapBlob[] }[],
  frameSize: number,
): { readonly blobs: readonly PlannedBlob[]; readonly pages: number } {
  const blobs = new Map<Digest, PlannedBlob>()
  let pages = 0
  for (const { digest, size } of maps.flatMap((map) => map.blobs)) {
    if (blobs.has(digest)) continue
    blobs.set(digest, { digest, size, ordinalBase: pages })
    pages += Math.ceil(size / frameSize)
  }
  return { blobs: [...blobs.values()], pages }
}

export class ImageView implements Disposable {
  readonly domain: string
  readonly digest: Digest
  readonly record: ImageRecord
  /** Strong entity tag of the flattened view, in quotes. */
  readonly rawEtag: string
  /** `erofs` when import could read the file system; then its files can be opened. */
  readonly filesystem: 'erofs' | 'unknown'
  readonly #devices: readonly AddressMap[]
  readonly #flattened: RangeMap
  readonly #options: ImageViewOptions
  #files: Promise<ImageFiles> | undefined
  #users = 0

  /** @throws ERR_IMAGE_RECORD_INVALID when the maps are not those of the record */
  constructor(options: ImageViewOptions) {
    const { record, maps } = options
    if (record.devices.some((device, index) => device.size !== maps[index]?.size)) {
      throw imageError(
        'ERR_IMAGE_RECORD_INVALID',
        `image ${options.digest} has ${record.devices.length} devices, the maps given are of others`,
      )
    }
    const blobs = new Map(options.blobs.map((blob) => [blob.digest, blob]))
    this.domain = options.domain
    this.digest = options.digest
    this.record = record
    this.filesystem = maps[0]?.parsedAsErofs === true ? 'erofs' : 'unknown'
    this.#options = options
    this.#devices = maps.map((map) => new AddressMap(map, blobsOf(map, blobs)))
    this.#flattened = flatten(record, this.#devices)
    this.rawEtag = quoteEtag(flattenedDigest(record))
  }

  /** Bytes of the flattened view. */
  get size(): number {
    return this.#flattened.size
  }

  get deviceCount(): number {
    return this.#devices.length
  }

  /** @throws ERR_DEVICE_NOT_FOUND */
  deviceDigest(index: number): Digest {
    const device = this.record.devices[index]
    if (device === undefined) throw this.#noDevice(index)
    return device.sha256
  }

  /** All devices at their unified addresses, zeros between them. */
  openFlattened(): DataHandle {
    return this.#handle(this.#flattened)
  }

  /** 0 is the primary. @throws ERR_DEVICE_NOT_FOUND */
  openDevice(index: number): DataHandle {
    const device = this.#devices[index]
    if (device === undefined) throw this.#noDevice(index)
    return this.#handle(device)
  }

  /**
   * @param path bytes between `/`; the empty path is the root
   * @throws ERR_IMAGE_NOT_PARSED, ERR_FILE_NOT_FOUND, ERR_EROFS_*, ERR_CACHE_*
   */
  async stat(path: Uint8Array, options: FindOptions = {}): Promise<FileStatus> {
    const files = await this.#openFiles()
    const inode = await files.find(path, options)
    const readOptions = options.signal === undefined ? {} : { signal: options.signal }
    const xattrs: readonly Xattr[] = await files.image.xattrs(inode, readOptions)
    const isReadable = !inode.isCompressed
    const target =
      inode.isSymlink && isReadable ? await files.image.readLink(inode, readOptions) : undefined
    const etag = inode.isFile && isReadable ? await etagOf(files, inode, options.signal) : undefined
    return {
      ...fileInfoOf(inode),
      xattrs,
      ...(target === undefined ? {} : { target }),
      ...(etag === undefined ? {} : { etag }),
    }
  }

  /**
   * A regular file; symbolic links are followed inside the image.
   * @throws ERR_IMAGE_NOT_PARSED, ERR_FILE_NOT_FOUND, ERR_FILE_IS_DIRECTORY, ERR_FILE_SPECIAL,
   * ERR_FILE_COMPRESSED, ERR_EROFS_*, ERR_CACHE_*
   */
  async openFile(
    path: Uint8Array,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<OpenedFile> {
    const files = await this.#openFiles()
    const inode = await files.find(path, options)
    if (inode.isDirectory) {
      throw imageError('ERR_FILE_IS_DIRECTORY', `${show(path)} is a directory, expected a file`)
    }
    if (!inode.isFile) {
      throw imageError(
        'ERR_FILE_SPECIAL',
        `${show(path)} is a ${fileInfoOf(inode).type}, expected a file`,
      )
    }
    if (inode.isCompressed) {
      throw imageError(
        'ERR_FILE_COMPRESSED',
        `the data of ${show(path)} is compressed, which is not supported yet`,
        { hint: 'the image can be read whole: mount it' },
      )
    }
    const info = fileInfoOf(inode)
    const etag = await etagOf(files, inode, options.signal)
    const { reader, identity } = this.#options
    if (files.windowBytes(inode) < inode.size) {
      return { info, etag, handle: new WindowedHandle(files, inode, reader, identity) }
    }
    const map = await files.window(inode, 0, options.signal)
    return { info, etag, handle: this.#handle(map) }
  }

  /**
   * Entries in the order of their bytes, without `.` and `..`, each with what its inode says.
   * @throws ERR_IMAGE_NOT_PARSED, ERR_FILE_NOT_FOUND, ERR_FILE_NOT_DIRECTORY, ERR_FILE_COMPRESSED,
   * ERR_EROFS_*, ERR_CACHE_*
   */
  async readDirectory(
    path: Uint8Array,
    options: {
      /** Only names after this one. */
      readonly after?: Uint8Array
      /** 1 to MAX_DIRECTORY_PAGE. */
      readonly limit?: number
      readonly signal?: AbortSignal
    } = {},
  ): Promise<DirectoryPage> {
    const files = await this.#openFiles()
    const inode = await files.find(path, options)
    if (!inode.isDirectory) {
      throw imageError('ERR_FILE_NOT_DIRECTORY', `${show(path)} is not a directory`)
    }
    if (inode.isCompressed) {
      throw imageError('ERR_FILE_COMPRESSED', `directory ${show(path)} is stored compressed`)
    }
    const limit = Math.min(Math.max(options.limit ?? DEFAULT_DIRECTORY_PAGE, 1), MAX_DIRECTORY_PAGE)
    const entries: ListedEntry[] = []
    const signal = options.signal === undefined ? {} : { signal: options.signal }
    const listing = files.image.readDirectory(inode, {
      limit: limit + 1,
      ...(options.after === undefined ? {} : { after: options.after }),
      ...signal,
    })
    for await (const { name, nid } of listing) {
      const last = entries.at(-1)
      if (entries.length === limit && last !== undefined) return { entries, next: last.name }
      entries.push({ name, info: fileInfoOf(await files.image.readInode(nid, signal)) })
    }
    return { entries }
  }

  /**
   * The target of a symbolic link.
   * @throws ERR_IMAGE_NOT_PARSED, ERR_FILE_NOT_FOUND, ERR_FILE_NOT_SYMLINK, ERR_EROFS_*, ERR_CACHE_*
   */
  async readLink(
    path: Uint8Array,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<Uint8Array> {
    const files = await this.#openFiles()
    const inode = await files.find(path, { ...options, followLast: false })
    if (!inode.isSymlink) {
      throw imageError('ERR_FILE_NOT_SYMLINK', `${show(path)} is not a symbolic link`)
    }
    return files.image.readLink(inode, options)
  }

  /** The opened file system, for what this view has no words for. @throws ERR_IMAGE_NOT_PARSED, ERR_CACHE_* */
  async erofs(): Promise<ErofsImage> {
    return (await this.#openFiles()).image
  }

  /** One user more: each acquire needs one dispose. */
  acquire(): this {
    this.#users++
    return this
  }

  /** One user less. Handles stay usable until they are disposed of: they hold maps, not the view. */
  [Symbol.dispose](): void {
    if (this.#users === 0) return
    if (--this.#users === 0) this.#options.onUnused?.()
  }

  #openFiles(): Promise<ImageFiles> {
    if (this.filesystem === 'unknown') {
      throw imageError(
        'ERR_IMAGE_NOT_PARSED',
        `image ${this.digest} is not a file system that can be read here`,
        { hint: 'it can be read whole, as a disk' },
      )
    }
    this.#files ??= this.#parse()
    return this.#files
  }

  async #parse(): Promise<ImageFiles> {
    const { reader, identity, caches, record } = this.#options
    const [primary] = this.#devices
    if (primary === undefined) throw this.#noDevice(0)
    try {
      const image = await openErofs(new MappedSource(primary, reader, identity), {
        deviceCount: record.devices.length,
        extraDeviceSizes: record.devices.slice(1).map((device) => device.size),
      })
      return new ImageFiles(image, this.#devices, caches, this.digest)
    } catch (error) {
      // A failed read is not remembered: the next opener tries again.
      this.#files = undefined
      if (!isAppError(error) || !error.code.startsWith('ERR_EROFS_')) throw error
      throw imageError('ERR_IMAGE_NOT_PARSED', error.message, { cause: error })
    }
  }

  #handle(map: RangeMap): DataHandle {
    return new MappedHandle(map, this.#options.reader, this.#options.identity)
  }

  #noDevice(index: number): Error {
    return imageError(
      'ERR_DEVICE_NOT_FOUND',
      `image ${this.digest} has no device ${index}, it has ${this.deviceCount} from 0`,
    )
  }
}

async function etagOf(
  files: ImageFiles,
  inode: Inode,
  signal: AbortSignal | undefined,
): Promise<string> {
  const fits = files.windowBytes(inode) >= inode.size
  return files.etag(inode, fits ? await files.window(inode, 0, signal) : undefined)
}

function blobsOf(map: DeviceMap, blobs: ReadonlyMap<Digest, ViewBlob>): ViewBlob[] {
  return map.blobs.map(({ digest }) => {
    const blob = blobs.get(digest)
    if (blob === undefined) throw new RangeError(`blob ${digest} of a map was not opened`)
    return blob
  })
}

/** Devices without a unified address are not in the flattened view: the kernel could not find them there either. */
function flatten(record: ImageRecord, devices: readonly RangeMap[]): RangeMap {
  const placed = devices.flatMap((map, index) => {
    const offset = flattenedOffset(record, index)
    return offset === undefined ? [] : [{ offset, map }]
  })
  const [only] = placed
  return placed.length === 1 && only !== undefined ? only.map : new FlattenedMap(placed)
}

/** Names the bytes of the flattened view: a device's own digest when it is the only one. */
function flattenedDigest(record: ImageRecord): string {
  const placed = record.devices.flatMap((device, index) => {
    const offset = flattenedOffset(record, index)
    return offset === undefined ? [] : [`${offset} ${device.size} ${device.sha256}\n`]
  })
  const [primary] = record.devices
  if (placed.length === 1 && primary !== undefined) return primary.sha256
  return createHash('sha256')
    .update('commonpage flattened 1\n')
    .update(placed.join(''))
    .digest('hex')
}

function show(path: Uint8Array): string {
  return `'/${Buffer.from(path).toString('utf8')}'`
}
