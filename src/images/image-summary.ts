/** What the catalogue says of one image, from its record and its maps. It reads the store only. */
import type { Digest } from '../core/index.ts'
import type { DeviceMap, DomainStore } from '../store/index.ts'
import { imageMaps, readImageRecord } from './catalogue.ts'
import { logicalBytesOf } from './disk-usage.ts'
import type { ImageRecord } from './image-record.ts'
import { flattenedSize } from './flattened-map.ts'

export interface ImageSummary {
  readonly digest: Digest
  readonly record: ImageRecord
  /** Bytes of the flattened view. */
  readonly sizeBytes: number
  readonly logicalBytes: number
  readonly devices: readonly {
    readonly sizeBytes: number
    readonly digest: Digest
    readonly extents: number
  }[]
  readonly filesystem: 'erofs' | 'unknown'
  readonly inodes: number
}

/** @throws ERR_STORE_MANIFEST_MISSING, ERR_STORE_MAP_MISSING, ERR_STORE_CORRUPT, ERR_IMAGE_RECORD_INVALID */
export async function imageSummary(domain: DomainStore, digest: Digest): Promise<ImageSummary> {
  const record = await readImageRecord(domain, digest)
  const facts: Omit<DeviceMap, 'extents'>[] = []
  for await (const map of imageMaps(domain, record)) {
    // A map can be large: only what is said of it is kept.
    const { extents: _, ...rest } = map
    facts.push(rest)
  }
  return {
    digest,
    record,
    sizeBytes: flattenedSize(record),
    logicalBytes: logicalBytesOf(facts),
    devices: record.devices.map(({ size, sha256 }, index) => ({
      sizeBytes: size,
      digest: sha256,
      extents: facts[index]?.extentCount ?? 0,
    })),
    filesystem: facts[0]?.parsedAsErofs === true ? 'erofs' : 'unknown',
    inodes: facts[0]?.inodeCount ?? 0,
  }
}
