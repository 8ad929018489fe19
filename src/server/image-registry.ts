/**
 * Which images are open, for main: their maps in shared memory, the numbers that the keeper knows their
 * blobs by, and their accounting. Workers hold what their clients have open; maps that nobody holds are
 * kept while there is room for them. Room for a map is taken before the map is read.
 */
import type { ImageAccountingMemory, KeeperClient } from '../cache/index.ts'
import { createImageAccounting, ImageAccounting, MAX_IMAGE_ID } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'
import { AppError, formatSize, isAppError, KIB, MIB } from '../core/index.ts'
import type { ImageRecord, ViewBlob } from '../images/index.ts'
import { decodeImageRecord, planBlobs } from '../images/index.ts'
import type { DeviceMap, Store } from '../store/index.ts'

/** Everything that a worker needs to build a view. Structured-cloneable; shared memory stays shared. */
export interface ImageDescriptor {
  readonly domain: string
  readonly domainNo: number
  readonly digest: Digest
  readonly record: ImageRecord
  readonly imageId: number
  readonly accounting: ImageAccountingMemory
  /** The map of each device, in slot order; its extents lie in shared memory. */
  readonly maps: readonly DeviceMap[]
  /** Every blob of the maps, numbered. */
  readonly blobs: readonly ViewBlob[]
}

/** An image whose reads have been accounted in this run. */
export interface KnownImage {
  readonly domain: string
  readonly digest: Digest
  readonly imageId: number
  readonly accounting: ImageAccounting
  readonly blobs: readonly ViewBlob[]
}

interface Entry {
  readonly descriptor: ImageDescriptor
  readonly mapBytes: number
  /** How often each worker has it open. */
  readonly holders: Map<number, number>
}

/** Share of the cache that maps may take beside it, and the least that they get. */
const MAP_SHARE = 0.05
const MIN_MAP_BYTES = 32 * MIB
/**
 * Images accounted in one epoch, and what their bitmaps (2 bits for each page) may take. Beyond it the image
 * that has been closed longest is forgotten: its figures leave the reports, sums over all images stay right.
 */
const MAX_KNOWN_IMAGES = 65_536
/** What the objects of an image that was accounted, and of one that is open, take beside their tables, in all threads. */
export const KNOWN_IMAGE_BYTES = 4 * KIB
const OPEN_IMAGE_BYTES = 4 * KIB
/** Images that no worker has open, but whose maps are there for the next one. */
export const MAX_IDLE_IMAGES = 64
const ACCOUNTING_SHARE = 0.02
const MIN_ACCOUNTING_BYTES = 16 * MIB

export interface MetadataBudgets {
  readonly mapBytes: number
  readonly accountingBytes: number
}

/** What images may take in memory beside a cache of this size. */
export function metadataBudgets(cacheBytes: number): MetadataBudgets {
  return {
    mapBytes: Math.max(MIN_MAP_BYTES, Math.floor(cacheBytes * MAP_SHARE)),
    accountingBytes: Math.max(MIN_ACCOUNTING_BYTES, Math.floor(cacheBytes * ACCOUNTING_SHARE)),
  }
}

export interface ImageRegistryOptions {
  readonly store: Store
  readonly keeper: KeeperClient
  readonly frameSize: number
  /** Data workers, each of which counts shared hits of its own. */
  readonly workers: number
  readonly budgets: MetadataBudgets
  /**
   * Asks every worker to close the images that it only keeps for the next client; resolves when they are closed.
   */
  readonly releaseIdle: () => Promise<void>
}

export class ImageRegistry {
  readonly #options: ImageRegistryOptions
  readonly #entries = new Map<string, Entry>()
  /** Entries that no worker has open, the one that was closed longest ago first. */
  readonly #idle = new Set<string>()
  readonly #opening = new Map<string, Promise<Entry>>()
  readonly #known = new Map<string, KnownImage>()
  readonly #blobNos = new Map<string, number>()
  /** Of the entries, and of maps that are being read. */
  #mapBytes = 0
  #accountingBytes = 0
  #lastImageId = 0

  constructor(options: ImageRegistryOptions) {
    this.#options = options
  }

  get mapBytes(): number {
    return this.#mapBytes
  }

  known(): Iterable<KnownImage> {
    return this.#known.values()
  }

  /** The keeper's number of a blob that some image has opened in this run. */
  blobNo(domain: string, digest: Digest): number | undefined {
    return this.#blobNos.get(keyOf(domain, digest))
  }

  /**
   * Opens an image for a worker, which must close it as often as it opened it.
   * @throws ERR_IMAGE_NOT_FOUND, ERR_MAPS_EXHAUSTED, ERR_METADATA_LIMIT, ERR_STORE_*
   */
  async open(domain: string, digest: Digest, worker: number): Promise<ImageDescriptor> {
    const key = keyOf(domain, digest)
    let entry = this.#entries.get(key)
    while (!entry) {
      await this.#openOnce(key, domain, digest)
      entry = this.#entries.get(key)
    }
    this.#idle.delete(key)
    entry.holders.set(worker, (entry.holders.get(worker) ?? 0) + 1)
    return entry.descriptor
  }

  close(domain: string, digest: Digest, worker: number): void {
    const key = keyOf(domain, digest)
    const entry = this.#entries.get(key)
    const count = entry?.holders.get(worker) ?? 0
    if (!entry || count === 0) return
    if (count === 1) entry.holders.delete(worker)
    else entry.holders.set(worker, count - 1)
    if (entry.holders.size > 0) return
    this.#idle.add(key)
    this.#letGoWhile(() => this.#idle.size > MAX_IDLE_IMAGES)
  }

  /** Forgets the accounting of images whose maps are gone: their figures were of the last epoch. */
  async startEpoch(): Promise<void> {
    for (const [key, known] of this.#known) {
      if (!this.#inUse(key)) await this.#forget(key, known)
    }
  }

  async #openOnce(key: string, domain: string, digest: Digest): Promise<void> {
    const running = this.#opening.get(key)
    if (running) {
      await running
      return
    }
    const opening = this.#loadWithRoom(key, domain, digest)
    this.#opening.set(key, opening)
    try {
      await opening
    } finally {
      this.#opening.delete(key)
    }
  }

  /** Maps that only idle views of workers hold are let go before an image is turned away. */
  async #loadWithRoom(key: string, domain: string, digest: Digest): Promise<Entry> {
    try {
      return await this.#load(key, domain, digest)
    } catch (error) {
      if (!isAppError(error) || error.code !== 'ERR_MAPS_EXHAUSTED') throw error
      await this.#options.releaseIdle()
      return await this.#load(key, domain, digest)
    }
  }

  async #load(key: string, domain: string, digest: Digest): Promise<Entry> {
    const store = this.#options.store.domain(domain)
    const bytes = await store.manifests.get(digest)
    if (!bytes)
      throw new AppError('ERR_IMAGE_NOT_FOUND', `no image ${digest} in domain '${domain}'`)
    const record = decodeImageRecord(bytes, digest)
    this.#takeRoom(OPEN_IMAGE_BYTES)
    let taken = OPEN_IMAGE_BYTES
    const allocate = (size: number): Uint8Array => {
      this.#takeRoom(size)
      taken += size
      return new Uint8Array(new SharedArrayBuffer(size))
    }
    try {
      const maps: DeviceMap[] = []
      for (const device of record.devices) {
        maps.push((await store.maps.require(device.sha256, { allocate })).map)
      }
      const descriptor = await this.#describe(key, domain, digest, record, maps)
      const entry: Entry = { descriptor, mapBytes: taken, holders: new Map() }
      this.#entries.set(key, entry)
      this.#idle.add(key)
      return entry
    } catch (error) {
      this.#mapBytes -= taken
      throw error
    }
  }

  async #describe(
    key: string,
    domain: string,
    digest: Digest,
    record: ImageRecord,
    maps: readonly DeviceMap[],
  ): Promise<ImageDescriptor> {
    const { keeper, frameSize } = this.#options
    const { blobs: planned, pages } = planBlobs(maps, frameSize)
    const opened = await keeper.openBlobs(
      planned.map(({ digest: blob, size }) => ({ domain, digest: blob, size })),
    )
    const blobs = planned.map((blob, i) => {
      // Number 0 means zeros: a blob without a number must not be read as one.
      const blobNo = opened[i]?.blobNo
      if (blobNo === undefined) throw new TypeError(`the keeper gave blob ${blob.digest} no number`)
      return { ...blob, blobNo }
    })
    for (const { digest: blob, blobNo } of blobs) this.#blobNos.set(keyOf(domain, blob), blobNo)
    const { imageId, accounting } = await this.#register(key, domain, digest, pages, blobs)
    const domainNo = opened[0]?.domainNo ?? 0
    return {
      domain,
      domainNo,
      digest,
      record,
      imageId,
      accounting: accounting.memory,
      maps,
      blobs,
    }
  }

  async #register(key: string, domain: string, digest: Digest, pages: number, blobs: ViewBlob[]) {
    const known = this.#known.get(key)
    if (known) {
      this.#known.delete(key)
      this.#known.set(key, known)
      return known
    }
    const memory = createImageAccounting(pages, this.#options.workers)
    await this.#takeAccounting(memory.buffer.byteLength + KNOWN_IMAGE_BYTES)
    const imageId = ++this.#lastImageId
    const made: KnownImage = {
      domain,
      digest,
      imageId,
      accounting: new ImageAccounting(memory),
      blobs,
    }
    this.#known.set(key, made)
    await this.#options.keeper.registerImage(imageId, memory)
    return made
  }

  /** @throws ERR_METADATA_LIMIT */
  async #takeAccounting(bytes: number): Promise<void> {
    if (this.#lastImageId >= MAX_IMAGE_ID) throw tooManyImages(this.#lastImageId)
    while (
      this.#known.size >= MAX_KNOWN_IMAGES ||
      this.#accountingBytes + bytes > this.#options.budgets.accountingBytes
    ) {
      const oldest = this.#oldestClosed()
      if (!oldest) throw tooManyImages(this.#known.size)
      await this.#forget(...oldest)
    }
    this.#accountingBytes += bytes
  }

  #oldestClosed(): [string, KnownImage] | undefined {
    for (const known of this.#known) if (!this.#inUse(known[0])) return known
    return undefined
  }

  #inUse(key: string): boolean {
    return this.#entries.has(key) || this.#opening.has(key)
  }

  async #forget(key: string, { imageId, accounting }: KnownImage): Promise<void> {
    this.#known.delete(key)
    this.#accountingBytes -= accounting.memory.buffer.byteLength + KNOWN_IMAGE_BYTES
    await this.#options.keeper.unregisterImage(imageId)
  }

  /** @throws ERR_MAPS_EXHAUSTED */
  #takeRoom(bytes: number): void {
    const limit = this.#options.budgets.mapBytes
    this.#letGoWhile(() => this.#mapBytes + bytes > limit)
    if (this.#mapBytes + bytes > limit) {
      throw new AppError(
        'ERR_MAPS_EXHAUSTED',
        `a map of an image takes ${formatSize(bytes)}, and ${formatSize(this.#mapBytes)} of ${formatSize(limit)} are in use`,
        { hint: 'give the server a larger --cache-size' },
      )
    }
    this.#mapBytes += bytes
  }

  /** Lets the images go that were closed longest ago. */
  #letGoWhile(isTooMuch: () => boolean): void {
    for (const key of this.#idle) {
      if (!isTooMuch()) return
      this.#mapBytes -= this.#entries.get(key)?.mapBytes ?? 0
      this.#entries.delete(key)
      this.#idle.delete(key)
    }
  }
}

function tooManyImages(count: number): AppError {
  return new AppError('ERR_METADATA_LIMIT', `${count} images have been opened in this epoch`)
}

function keyOf(domain: string, digest: Digest): string {
  return `${domain}/${digest}`
}
