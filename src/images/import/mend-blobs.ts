/**
 * Finds stored blobs that an import relies upon and that are damaged or lost, and writes them again from the
 * bytes that are imported, as far as these have what is missing. What cannot be put right is left as it is and
 * named, so that the import does without it.
 */
import type { Digest } from '../../core/index.ts'
import { shortDigest } from '../../core/index.ts'
import type { DeviceMap, DomainStore } from '../../store/index.ts'
import { DIGEST_PAGE_BYTES, LocalPageSource } from '../../store/index.ts'
import { imagePages } from '../resident-bytes.ts'
import { findDamage } from './check-blob.ts'
import type { DeviceReader } from './device-reader.ts'
import type { ProgressMeter } from './progress.ts'
import { SourcePatch } from './source-patch.ts'

export interface MendingParts {
  readonly dataDir: string
  readonly domain: DomainStore
  /** The devices whose bytes are known to be right. */
  readonly reader: DeviceReader
  readonly meter: ProgressMeter
}

export interface Mending {
  /** One for each damaged blob, for the report. */
  readonly notes: readonly string[]
  /** Blobs that are damaged still. */
  readonly lost: ReadonlySet<Digest>
}

/**
 * @param maps of the reader's devices, in order, where there are any
 * @param includes blobs that are looked at, of those in the maps
 * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_IMPORT_SOURCE, ERR_ABORTED: each blob is as it was, or whole
 */
export async function mendBlobs(
  parts: MendingParts,
  maps: readonly (DeviceMap | undefined)[],
  includes: (blob: Digest) => boolean = () => true,
): Promise<Mending> {
  const { domain, meter, reader } = parts
  const present = maps.filter((map) => map !== undefined)
  const sizes = new Map(
    present.flatMap(({ blobs }) => blobs.map((blob) => [blob.digest, blob.size])),
  )
  const notes: string[] = []
  const lost = new Set<Digest>()
  await using source = new LocalPageSource({ dataDir: parts.dataDir })
  for (const [digest, pages] of imagePages(present, DIGEST_PAGE_BYTES)) {
    if (!includes(digest)) continue
    const size = sizes.get(digest) ?? 0
    const blob = { domain: domain.name, digest, size }
    const damage = await meter.run(findDamage(source, blob, pages))
    if (damage === undefined) continue
    const patch = new SourcePatch(reader, maps, digest)
    const restored = await domain.blobs.restore({ digest, size }, (offset, target) =>
      meter.run(patch.copyInto(offset, target)),
    )
    const what = `stored blob ${shortDigest(digest)} was damaged (${damage})`
    notes.push(
      restored
        ? `${what} and was written again from this image`
        : `${what}, and this image does not have all of its bytes: it is stored anew, images that use the blob stay damaged`,
    )
    if (!restored) lost.add(digest)
  }
  return { notes, lost }
}
