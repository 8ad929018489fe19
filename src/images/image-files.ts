/**
 * The files of an image that is served: paths to inodes, inodes to maps. Everything goes through the page
 * cache; what is parsed is kept in caches that belong to the thread and are bounded. It hands out maps, and
 * knows no handles and no protocols.
 */
import { createHash } from 'node:crypto'

import { LRUCache } from 'lru-cache'

import { isAppError, KIB, MIB } from '../core/index.ts'
import type { ErofsImage, Inode } from '../erofs/index.ts'
import { contentEtag, quoteEtag } from './content-etag.ts'
import { imageError } from './errors.ts'
import { FileMap } from './file-map.ts'
import type { RangeMap } from './range-map.ts'

/**
 * Chunk table entries that are read and kept as one map: 1 GiB of a file at 64 KiB a chunk, 128 KiB of
 * table, at most 330 KB of memory. Larger files are mapped in windows of this many.
 */
export const MAX_WINDOW_CHUNKS = 16_384
const MAX_CACHED_PATHS = 8192
/** Longer paths are looked up each time. */
const MAX_CACHED_PATH_BYTES = KIB
const MAX_MAP_BYTES = 16 * MIB

/** Caches of one thread, shared by all its views. */
export class FileCaches {
  /** `view/followLast/path` as latin1. */
  readonly inodes = new LRUCache<string, Inode>({ max: MAX_CACHED_PATHS })
  /** `view/nid/window`. */
  readonly maps = new LRUCache<string, FileMap>({
    maxSize: MAX_MAP_BYTES,
    sizeCalculation: (map) => map.memoryBytes,
  })
  readonly etags = new LRUCache<string, string>({ max: MAX_CACHED_PATHS })
  #views = 0

  /** A number that no other view of the thread has: keys of a closed view are never asked for again. */
  nextView(): number {
    return ++this.#views
  }
}

export interface FindOptions {
  /** Follow a symbolic link that is the last component; default true. */
  readonly followLast?: boolean
  readonly signal?: AbortSignal
}

export class ImageFiles {
  readonly #image: ErofsImage
  readonly #devices: readonly RangeMap[]
  readonly #caches: FileCaches
  readonly #view: number
  readonly #identity: string

  /**
   * @param devices by the device numbers that the image's extents name
   * @param identity names the image's bytes, for tags of files that are too scattered to have their own
   */
  constructor(
    image: ErofsImage,
    devices: readonly RangeMap[],
    caches: FileCaches,
    identity: string,
  ) {
    this.#image = image
    this.#devices = devices
    this.#caches = caches
    this.#view = caches.nextView()
    this.#identity = identity
  }

  get image(): ErofsImage {
    return this.#image
  }

  /** @throws ERR_FILE_NOT_FOUND, ERR_EROFS_*, ERR_CACHE_* */
  async find(path: Uint8Array, options: FindOptions = {}): Promise<Inode> {
    const { followLast = true, signal } = options
    const cacheable = path.byteLength <= MAX_CACHED_PATH_BYTES
    const key = cacheable ? `${this.#view}/${followLast}/${latin1(path)}` : ''
    const known = cacheable ? this.#caches.inodes.get(key) : undefined
    if (known !== undefined) return known
    const inode = await this.#resolve(path, followLast, signal)
    if (cacheable) this.#caches.inodes.set(key, inode)
    return inode
  }

  /** Bytes of a file that one window of its map covers; its size when one is enough. */
  windowBytes(inode: Inode): number {
    if (inode.chunks === undefined) return inode.size
    return Math.min(inode.size, MAX_WINDOW_CHUNKS * 2 ** inode.chunks.chunkBits)
  }

  /** The map of a window, if it is there. */
  cachedWindow(inode: Inode, window: number): FileMap | undefined {
    return this.#caches.maps.get(this.#windowKey(inode, window))
  }

  /**
   * The map of bytes [window · windowBytes, …) of a file.
   * @throws ERR_FILE_COMPRESSED, ERR_EROFS_*, ERR_CACHE_*
   */
  async window(inode: Inode, window: number, signal?: AbortSignal): Promise<FileMap> {
    const known = this.cachedWindow(inode, window)
    if (known !== undefined) return known
    const bytes = this.windowBytes(inode)
    const options = signal === undefined ? {} : { signal }
    const extents =
      inode.size === 0 ? [] : await this.#image.mapFile(inode, window * bytes, bytes, options)
    const map = new FileMap(extents, this.#devices)
    this.#caches.maps.set(this.#windowKey(inode, window), map)
    return map
  }

  /**
   * A strong entity tag. Equal files that share their storage have equal ones; a file in windows or in
   * very many runs has one of its own, which follows from the image and the inode.
   */
  etag(inode: Inode, only: FileMap | undefined): string {
    const key = this.#windowKey(inode, 0)
    const known = this.#caches.etags.get(key)
    if (known !== undefined) return known
    const etag =
      (only === undefined ? undefined : contentEtag(only)) ??
      quoteEtag(createHash('sha256').update(`${this.#identity} ${inode.nid}`).digest('hex'))
    this.#caches.etags.set(key, etag)
    return etag
  }

  async #resolve(
    path: Uint8Array,
    followLast: boolean,
    signal: AbortSignal | undefined,
  ): Promise<Inode> {
    try {
      return await this.#image.resolve(path, {
        followLast,
        ...(signal === undefined ? {} : { signal }),
      })
    } catch (error) {
      if (!isAppError(error) || !NOT_FOUND.has(error.code)) throw error
      throw imageError('ERR_FILE_NOT_FOUND', error.message, { cause: error })
    }
  }

  #windowKey(inode: Inode, window: number): string {
    return `${this.#view}/${inode.nid}/${window}`
  }
}

/** What a user who names a path gets the same answer for. */
const NOT_FOUND = new Set([
  'ERR_EROFS_NOT_FOUND',
  'ERR_EROFS_NOT_A_DIRECTORY',
  'ERR_EROFS_SYMLINK_LOOP',
])

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}
