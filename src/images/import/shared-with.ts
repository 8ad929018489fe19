/**
 * With which images of the domain an import shares bytes: the ranges of blobs that its maps refer to,
 * compared with those of other images' maps. For the report; bounded in images and in time.
 */
import type { Digest } from '../../core/index.ts'
import { isAppError } from '../../core/index.ts'
import type { DeviceMap, DomainStore } from '../../store/index.ts'
import type { BlobUsage } from '../blob-usage.ts'
import { addUsage } from '../blob-usage.ts'
import { imageMaps, listImages, readImageRecord } from '../catalogue.ts'

export interface SharedWith {
  /** DOMAIN/NAME:TAG */
  readonly ref: string
  readonly bytes: number
}

/** What the report shows. */
const MAX_SHOWN = 10
/** Images compared at most, and how long that may take: a report should not hold up the import. */
const MAX_COMPARED = 256
const MAX_MS = 3000

/**
 * @param maps the new image's
 * @param own its digest: tags of the same image are not named
 * @param maxMs for tests
 */
export async function sharedWith(
  domain: DomainStore,
  maps: readonly DeviceMap[],
  own: Digest,
  maxMs = MAX_MS,
): Promise<SharedWith[]> {
  const usage: BlobUsage = new Map()
  for (const map of maps) addUsage(usage, map)
  const deadline = performance.now() + maxMs
  const seen = new Set<Digest>([own])
  const found: SharedWith[] = []
  try {
    for await (const { name, tag, image } of listImages(domain)) {
      // Reading tags takes time too: a domain may have a hundred thousand of one image.
      if (performance.now() > deadline || seen.size > MAX_COMPARED) break
      if (seen.has(image)) continue
      seen.add(image)
      const bytes = await sharedBytes(domain, usage, image)
      if (bytes > 0) found.push({ ref: `${domain.name}/${name}:${tag}`, bytes })
    }
  } catch (error) {
    // A list that cannot be read to its end is not the import's failure: what is stored is stored.
    if (!isAppError(error)) throw error
  }
  return found.toSorted((a, b) => b.bytes - a.bytes).slice(0, MAX_SHOWN)
}

async function sharedBytes(domain: DomainStore, usage: BlobUsage, image: Digest): Promise<number> {
  try {
    const other: BlobUsage = new Map()
    for await (const map of imageMaps(domain, await readImageRecord(domain, image))) {
      if (map.blobs.some(({ digest }) => usage.has(digest))) addUsage(other, map)
    }
    let bytes = 0
    for (const [blob, ranges] of other) bytes += usage.get(blob)?.overlap(ranges) ?? 0
    return bytes
  } catch (error) {
    // Another image's damage is not this import's failure.
    if (isAppError(error)) return 0
    throw error
  }
}
