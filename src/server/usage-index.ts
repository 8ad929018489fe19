/**
 * What images take, on disk and in memory. Disk usage is computed once for each state of the tags and blobs;
 * what is in memory is read from the frame table each time.
 */
import { LRUCache } from 'lru-cache'

import type { CacheMemory } from '../cache/index.ts'
import { residentPagesByBlob } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'
import { isAppError } from '../core/index.ts'
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

/** Page sets of images that are remembered: 16 bytes for each stretch of pages. */
const MAX_PAGE_SETS = 1000
const NO_PAGES = new Uint32Array(0)

export interface UsageIndexOptions {
  readonly store: Store
  readonly registry: ImageRegistry
  readonly memory: CacheMemory
  /** Int32 in shared memory: changes whenever a tag does, and when a blob comes. */
  readonly epoch: Int32Array
}

/** The pages in memory at one moment, by blob number. */
export type ResidentPages = ReadonlyMap<number, Uint32Array>

export class UsageIndex {
  readonly #options: UsageIndexOptions
  readonly #usage: DiskUsageCache
  readonly #pages = new LRUCache<string, Promise<ImagePages | undefined>>({ max: MAX_PAGE_SETS })

  constructor(options: UsageIndexOptions) {
    this.#options = options
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
    const key = `${domain}/${digest}`
    let pages = this.#pages.get(key)
    if (pages === undefined) {
      pages = this.#pagesOf(domain, digest).catch((error: unknown) => {
        this.#pages.delete(key)
        if (isAppError(error)) return undefined
        throw error
      })
      this.#pages.set(key, pages)
    }
    const pagesOfBlob = (blob: Digest): Uint32Array => {
      const blobNo = registry.blobNo(domain, blob)
      return (blobNo === undefined ? undefined : resident.get(blobNo)) ?? NO_PAGES
    }
    const known = await pages
    return known === undefined ? 0 : residentBytes(known, pagesOfBlob, memory.frameSize)
  }

  async #pagesOf(domain: string, digest: Digest): Promise<ImagePages> {
    const store = this.#options.store.domain(domain)
    const maps: DeviceMap[] = []
    for await (const map of imageMaps(store, await readImageRecord(store, digest))) maps.push(map)
    return imagePages(maps, this.#options.memory.frameSize)
  }
}
