/**
 * What images take on disk and how much of it they share: logical, stored, unique and shared bytes, from
 * the images' maps. One map in memory at a time, and 20 bytes for each stretch of a blob that is used
 * differently from its neighbours. It reads the store only.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

import type { Digest } from '../core/index.ts'
import { isAppError } from '../core/index.ts'
import type { DeviceMap, DomainStore, Store } from '../store/index.ts'
import type { BlobUsage } from './blob-usage.ts'
import { addUsage } from './blob-usage.ts'
import { imageMaps, listImages, readImageRecord } from './catalogue.ts'
import { UsageOwners } from './usage-owners.ts'

export interface ImageUsage {
  readonly domain: string
  /** DOMAIN/NAME:TAG; an image with several tags is listed once for each. */
  readonly ref: string
  readonly digest: Digest
  /** What its files say; the devices' size where there is no file system that can be read. */
  readonly logicalBytes: number
  /** Bytes of blobs that it refers to. */
  readonly storedBytes: number
  /** Of those, used by this image alone. */
  readonly uniqueBytes: number
  /** Of those, used by other images as well. */
  readonly sharedBytes: number
}

export interface DiskUsageReport {
  readonly images: readonly ImageUsage[]
  readonly totals: {
    /** Over all images, each once however many tags it has. */
    readonly logicalBytes: number
    /** Blobs on disk, each once, used or not. */
    readonly storedBytes: number
    readonly images: number
    readonly blobs: number
  }
  /** Tags that could not be counted because what they name is damaged: `REF: reason`. */
  readonly damaged: readonly string[]
}

interface CountedImage {
  readonly digest: Digest
  readonly logicalBytes: number
  readonly storedBytes: number
  uniqueBytes: number
}

/** Of one domain, or of all. Sharing is counted inside a domain: nothing is shared between two. */
export async function diskUsage(store: Store, domain?: string): Promise<DiskUsageReport> {
  const names = domain === undefined ? await store.domains() : [domain]
  const parts: DiskUsageReport[] = []
  for (const name of names) parts.push(await domainUsage(store.domain(name)))
  const sum = (of: (part: DiskUsageReport) => number): number =>
    parts.reduce((total, part) => total + of(part), 0)
  return {
    images: parts.flatMap((part) => part.images),
    totals: {
      logicalBytes: sum((part) => part.totals.logicalBytes),
      storedBytes: sum((part) => part.totals.storedBytes),
      images: sum((part) => part.totals.images),
      blobs: sum((part) => part.totals.blobs),
    },
    damaged: parts.flatMap((part) => part.damaged),
  }
}

/** What the files of a parsed image say, else the size of its devices. */
export function logicalBytesOf(
  maps: readonly Pick<DeviceMap, 'parsedAsErofs' | 'logicalBytes' | 'size'>[],
): number {
  const [primary] = maps
  if (primary?.parsedAsErofs === true) return primary.logicalBytes
  return maps.reduce((sum, map) => sum + map.size, 0)
}

async function domainUsage(domain: DomainStore): Promise<DiskUsageReport> {
  const numbers = new Map<Digest, number>()
  const counted: CountedImage[] = []
  const owners = new Map<Digest, UsageOwners>()
  const refs: { readonly ref: string; readonly number: number }[] = []
  const damaged: string[] = []
  for await (const { name, tag, image } of listImages(domain)) {
    const ref = `${domain.name}/${name}:${tag}`
    try {
      let number = numbers.get(image)
      if (number === undefined) {
        number = counted.length
        counted.push(await countImage(domain, image, number, owners))
        numbers.set(image, number)
        // A map of a million extents takes a tenth of a second: the thread has other things to do.
        await nextTurn()
      }
      refs.push({ ref, number })
    } catch (error) {
      if (!isAppError(error)) throw error
      damaged.push(`${ref}: ${error.message}`)
    }
  }
  for (const blob of owners.values()) {
    blob.visitUnique((number, bytes) => {
      const image = counted[number]
      if (image !== undefined) image.uniqueBytes += bytes
    })
  }
  return {
    images: refs.flatMap(({ ref, number }) => {
      const image = counted[number]
      if (image === undefined) return []
      const sharedBytes = image.storedBytes - image.uniqueBytes
      return [{ domain: domain.name, ref, ...image, sharedBytes }]
    }),
    totals: {
      logicalBytes: counted.reduce((sum, image) => sum + image.logicalBytes, 0),
      images: counted.length,
      ...(await countBlobs(domain)),
    },
    damaged,
  }
}

/** Nothing is noted of an image that cannot be read to its end. */
async function countImage(
  domain: DomainStore,
  digest: Digest,
  number: number,
  owners: Map<Digest, UsageOwners>,
): Promise<CountedImage> {
  const usage: BlobUsage = new Map()
  const facts: Omit<DeviceMap, 'extents'>[] = []
  for await (const map of imageMaps(domain, await readImageRecord(domain, digest))) {
    addUsage(usage, map)
    const { extents: _, ...rest } = map
    facts.push(rest)
  }
  let storedBytes = 0
  for (const [blob, ranges] of usage) {
    storedBytes += ranges.bytes
    let owner = owners.get(blob)
    if (owner === undefined) {
      owner = new UsageOwners()
      owners.set(blob, owner)
    }
    owner.add(ranges, number)
  }
  return { digest, logicalBytes: logicalBytesOf(facts), storedBytes, uniqueBytes: 0 }
}

async function countBlobs(domain: DomainStore): Promise<{ storedBytes: number; blobs: number }> {
  let storedBytes = 0
  let blobs = 0
  for await (const page of domain.blobs.list()) {
    for (const { size } of page) storedBytes += size
    blobs += page.length
  }
  return { storedBytes, blobs }
}

interface CachedReport {
  /** The report is of this epoch's state, or of a later one. */
  epoch: number
  started: boolean
  readonly report: Promise<DiskUsageReport>
}

/**
 * Keeps the last report until the epoch moves on. Of each domain one is computed at a time, and however many ask
 * meanwhile and however often the epoch moves, one more afterwards.
 */
export class DiskUsageCache {
  readonly #compute: (domain: string | undefined) => Promise<DiskUsageReport>
  readonly #reports = new Map<string, CachedReport>()

  /** @param compute for tests */
  constructor(store: Store, compute = (domain?: string) => diskUsage(store, domain)) {
    this.#compute = compute
  }

  /** @param epoch grows whenever a ref changes or a blob comes */
  async get(epoch: number, domain?: string): Promise<DiskUsageReport> {
    const key = domain ?? ''
    const known = this.#reports.get(key)
    if (known !== undefined && (known.epoch === epoch || !known.started)) {
      known.epoch = epoch
      return known.report
    }
    if (this.#reports.size >= MAX_CACHED_REPORTS) this.#reports.clear()
    const started = Promise.withResolvers<void>()
    const cached: CachedReport = {
      epoch,
      started: false,
      report: started.promise.then(() => this.#compute(domain)),
    }
    this.#reports.set(key, cached)
    await known?.report.catch(() => undefined) // it told those who asked for it
    cached.started = true
    started.resolve()
    try {
      return await cached.report
    } catch (error) {
      if (this.#reports.get(key) === cached) this.#reports.delete(key)
      throw error
    }
  }
}

/** Domains that are asked for one by one. */
const MAX_CACHED_REPORTS = 256
