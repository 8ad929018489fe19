/**
 * What images take, on disk and in memory. Disk usage is computed once for each state of the tags and blobs;
 * what is in memory is read from the frame table each time.
 */
import { LRUCache } from 'lru-cache'

import type { CacheMemory } from '../cache/index.ts'
import { residentPagesByBlob } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'
import { isAppError, MIB } from '../core/index.ts'
import type { DeviceMap, Store } from '../store/index.ts'
import type { ImagePages } from '../images/index.ts'
import {
  DiskUsageCache,
  imageMaps,
  imagePages,
  readImageRecord,
  residentBytes,
} from '../images/index.ts'
import type { DiskUsage } from './http/index.ts'
import type { ImageRegistry } from './image-registry.ts'

/**
 * Memory of the page sets that are remembered. The sets of most images take a few KiB; one whose pieces are
 * scattered takes up to 32 bytes for each, and beyond this it is made again for each report.
 */
const MAX_PAGE_SET_BYTES = 32 * MIB
/** What is remembered of an image beside its ranges. */
const ENTRY_BYTES = 512
const NO_PAGES = new Uint32Array(0)

export interface UsageIndexOptions {
  readonly store: Store
  readonly registry: ImageRegistry
  readonly memory: CacheMemory
  /** Int32 in shared memory: changes whenever a tag does, and when a blob comes. */
  readonly epoch: Int32Array
  /** For tests. */
  readonly maxPageSetBytes?: number
}

/** The pages in memory at one moment, by blob number. */
export type ResidentPages = ReadonlyMap<number, Uint32Array>

export class UsageIndex {
  readonly #options: UsageIndexOptions
  readonly #usage: DiskUsageCache
  readonly #pages: LRUCache<string, ImagePages>
  /** Being made now, for all who ask meanwhile. */
  readonly #making = new Map<string, Promise<ImagePages>>()

  constructor(options: UsageIndexOptions) {
    this.#options = options
    this.#pages = new LRUCache({
      maxSize: options.maxPageSetBytes ?? MAX_PAGE_SET_BYTES,
      sizeCalculation: bytesOf,
    })
    this.#usage = new DiskUsageCache(options.store)
  }

  /** @param residentTotal whole frames in memory of the domain, or of all */
  async report(only: string | undefined, residentTotal: number): Promise<DiskUsage> {
    const { epoch } = this.#options
    const { images, totals } = await this.#usage.get(Atomics.load(epoch, 0), only)
    const resident = this.residentPages()
    const rows: DiskUsage['images'] = []
    for (const { domain, ...row } of images) {
      rows.push({ ...row, residentBytes: await this.residentBytes(domain, row.digest, resident) })
    }
    return { images: rows, totals: { ...totals, residentBytes: residentTotal } }
  }

  residentPages(): ResidentPages {
    return residentPagesByBlob(this.#options.memory)
  }

  /** Whole frames of the image that are in memory, whoever brought them there; 0 for one that is damaged on disk. */
  async residentBytes(domain: string, digest: Digest, resident: ResidentPages): Promise<number> {
    const { registry, memory } = this.#options
    const pagesOfBlob = (blob: Digest): Uint32Array => {
      const blobNo = registry.blobNo(domain, blob)
      return (blobNo === undefined ? undefined : resident.get(blobNo)) ?? NO_PAGES
    }
    try {
      return residentBytes(await this.#pagesOf(domain, digest), pagesOfBlob, memory.frameSize)
    } catch (error) {
      if (isAppError(error)) return 0
      throw error
    }
  }

  async #pagesOf(domain: string, digest: Digest): Promise<ImagePages> {
    const key = `${domain}/${digest}`
    const known = this.#pages.get(key) ?? this.#making.get(key)
    if (known !== undefined) return await known
    const making = this.#makePages(domain, digest)
    this.#making.set(key, making)
    try {
      const pages = await making
      this.#pages.set(key, pages)
      return pages
    } finally {
      this.#making.delete(key)
    }
  }

  async #makePages(domain: string, digest: Digest): Promise<ImagePages> {
    const store = this.#options.store.domain(domain)
    const maps: DeviceMap[] = []
    for await (const map of imageMaps(store, await readImageRecord(store, digest))) maps.push(map)
    return imagePages(maps, this.#options.memory.frameSize)
  }
}

function bytesOf(pages: ImagePages): number {
  let bytes = ENTRY_BYTES
  for (const set of pages.values()) bytes += set.heldBytes
  return bytes
}
