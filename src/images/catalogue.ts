/**
 * Reads what a domain holds as images: refs to records to maps. The one place that knows that a ref's
 * digest is a record's and a record's devices have maps. It reads the store; it changes nothing.
 */
import type { Digest } from '../core/index.ts'
import type { DeviceMap, DomainStore, ListedRef } from '../store/index.ts'
import type { ImageRecord } from './image-record.ts'
import { decodeImageRecord } from './image-record.ts'

export interface CatalogueEntry extends ListedRef {
  readonly image: Digest
}

/** All refs of a domain that name an image, in the order of their names. One page in memory at a time. */
export async function* listImages(domain: DomainStore): AsyncGenerator<CatalogueEntry, void, void> {
  let after: string | undefined
  do {
    const page = await domain.refs.list(after === undefined ? {} : { after })
    for (const each of page.refs) {
      if (each.ref.image !== undefined) yield { ...each, image: each.ref.image }
    }
    after = page.next
  } while (after !== undefined)
}

/** @throws ERR_STORE_MANIFEST_MISSING, ERR_STORE_CORRUPT, ERR_IMAGE_RECORD_INVALID */
export async function readImageRecord(domain: DomainStore, digest: Digest): Promise<ImageRecord> {
  return decodeImageRecord(await domain.manifests.require(digest), digest)
}

/** The maps of an image's devices, one at a time. @throws ERR_STORE_MAP_MISSING, ERR_STORE_CORRUPT */
export async function* imageMaps(
  domain: DomainStore,
  record: ImageRecord,
): AsyncGenerator<DeviceMap, void, void> {
  for (const device of record.devices) yield (await domain.maps.require(device.sha256)).map
}
