/**
 * Which images are open, for main: their maps in shared memory, the numbers that the keeper knows their
 * blobs by, and their accounting. Workers hold what their clients have open; maps that nobody holds are
 * kept while there is room for them.
 */
import type { ImageAccountingMemory, KeeperClient } from '../cache/index.ts'
import { createImageAccounting, ImageAccounting, MAX_IMAGE_ID } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'
import { AppError, formatSize, MIB } from '../core/index.ts'
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
/** Images accounted in one epoch; their bitmaps stay until the epoch ends. */
const MAX_KNOWN_IMAGES = 65_536

export interface ImageRegistryOptions {
  readonly store: Store
  readonly keeper: KeeperClient
  readonly frameSize: number
  /** Data workers, each of which counts shared hits of its own. */
  readonly workers: number
  readonly cacheBytes: number
}

export class ImageRegistry {
  readonly #options: ImageRegistryOptions
  readonly #mapBudget: number
  /** In the order of last use. */
  readonly #entries = new Map<string, Entry>()
  readonly #opening = new Map<string, Promise<Entry>>()
  readonly #known = new Map<string, KnownImage>()
  readonly #blobNos = new Map<string, number>()
  #mapBytes = 0
  #lastImageId = 0

  constructor(options: ImageRegistryOptions) {
    this.#options = options
    this.#mapBudget = Math.max(MIN_MAP_BYTES, Math.floor(options.cacheBytes * MAP_SHARE))
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
   * @throws ERR_IMAGE_NOT_FOUND, ERR_MAPS_EXHAUSTED, ERR_STORE_*
   */
  async open(domain: string, digest: Digest, worker: number): Promise<ImageDescriptor> {
    const key = keyOf(domain, digest)
    let entry = this.#entries.get(key)
    while (!entry) {
      await this.#openOnce(key, domain, digest)
      entry = this.#entries.get(key)
    }
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    entry.holders.set(worker, (entry.holders.get(worker) ?? 0) + 1)
    return entry.descriptor
  }

  close(domain: string, digest: Digest, worker: number): void {
    const entry = this.#entries.get(keyOf(domain, digest))
    const count = entry?.holders.get(worker) ?? 0
    if (!entry || count === 0) return
    if (count === 1) entry.holders.delete(worker)
    else entry.holders.set(worker, count - 1)
  }

  /** Forgets the accounting of images that nobody has open: their figures were of the last epoch. */
  async startEpoch(): Promise<void> {
    for (const [key, known] of this.#known) {
      if (this.#entries.has(key)) continue
      this.#known.delete(key)
      await this.#options.keeper.unregisterImage(known.imageId)
    }
  }

  async #openOnce(key: string, domain: string, digest: Digest): Promise<void> {
    const running = this.#opening.get(key)
    if (running) {
      await running
      return
    }
    const opening = this.#load(key, domain, digest)
    this.#opening.set(key, opening)
    try {
      await opening
    } finally {
      this.#opening.delete(key)
    }
  }

  async #load(key: string, domain: string, digest: Digest): Promise<Entry> {
    const store = this.#options.store.domain(domain)
    const bytes = await store.manifests.get(digest)
    if (!bytes)
      throw new AppError('ERR_IMAGE_NOT_FOUND', `no image ${digest} in domain '${domain}'`)
    const record = decodeImageRecord(bytes, digest)
    const maps: DeviceMap[] = []
    let mapBytes = 0
    for (const device of record.devices) {
      const allocate = (size: number): Uint8Array => new Uint8Array(new SharedArrayBuffer(size))
      const stored = await store.maps.require(device.sha256, { allocate })
      maps.push(stored.map)
      mapBytes += stored.bytes.byteLength
    }
    this.#makeRoom(mapBytes)
    const { blobs: planned, pages } = planBlobs(maps, this.#options.frameSize)
    const opened = await this.#options.keeper.openBlobs(
      planned.map(({ digest: blob, size }) => ({ domain, digest: blob, size })),
    )
    const blobs = planned.map((blob, i) => ({ ...blob, blobNo: opened[i]?.blobNo ?? 0 }))
    for (const { digest: blob, blobNo } of blobs) this.#blobNos.set(keyOf(domain, blob), blobNo)
    const { imageId, accounting } = await this.#register(key, domain, digest, pages, blobs)
    const descriptor: ImageDescriptor = {
      domain,
      domainNo: opened[0]?.domainNo ?? 0,
      digest,
      record,
      imageId,
      accounting: accounting.memory,
      maps,
      blobs,
    }
    const entry: Entry = { descriptor, mapBytes, holders: new Map() }
    this.#entries.set(key, entry)
    this.#mapBytes += mapBytes
    return entry
  }

  async #register(key: string, domain: string, digest: Digest, pages: number, blobs: ViewBlob[]) {
    const known = this.#known.get(key)
    if (known) return known
    if (this.#lastImageId >= MAX_IMAGE_ID || this.#known.size >= MAX_KNOWN_IMAGES) {
      throw new AppError(
        'ERR_METADATA_LIMIT',
        `${this.#known.size} images have been opened in this epoch`,
      )
    }
    const imageId = ++this.#lastImageId
    const memory = createImageAccounting(pages, this.#options.workers)
    await this.#options.keeper.registerImage(imageId, memory)
    const made: KnownImage = {
      domain,
      digest,
      imageId,
      accounting: new ImageAccounting(memory),
      blobs,
    }
    this.#known.set(key, made)
    return made
  }

  #makeRoom(bytes: number): void {
    for (const [key, entry] of this.#entries) {
      if (this.#mapBytes + bytes <= this.#mapBudget) return
      if (entry.holders.size > 0) continue
      this.#entries.delete(key)
      this.#mapBytes -= entry.mapBytes
    }
    if (this.#mapBytes + bytes <= this.#mapBudget) return
    throw new AppError(
      'ERR_MAPS_EXHAUSTED',
      `the maps of an image take ${formatSize(bytes)}, and ${formatSize(this.#mapBytes)} of ${formatSize(this.#mapBudget)} are in use`,
      { hint: 'give the server a larger --cache-size' },
    )
  }
}

function keyOf(domain: string, digest: Digest): string {
  return `${domain}/${digest}`
}
