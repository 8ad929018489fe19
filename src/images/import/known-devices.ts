/**
 * What the devices of an import are, and which of them the domain has a map of already. A map says what was
 * stored, not that it is whole: mend-blobs.ts looks.
 */
import type { Digest } from '../../core/index.ts'
import type { DeviceMap, DomainStore } from '../../store/index.ts'
import { isDamage } from '../../store/index.ts'
import { imageError } from '../errors.ts'
import type { DeviceReader } from './device-reader.ts'
import type { ProgressMeter } from './progress.ts'

export interface Device {
  readonly digest: Digest
  readonly size: number
  /** The map that the domain has of it already. */
  readonly known: DeviceMap | undefined
}

/**
 * Digests of the devices, and the maps that the domain has of them.
 *
 * @param expected digests that some of them must have
 * @throws ERR_IMPORT_SOURCE, ERR_ABORTED
 */
export async function identify(
  domain: DomainStore,
  reader: DeviceReader,
  meter: ProgressMeter,
  { expected, isErofs }: { expected: readonly (Digest | undefined)[]; isErofs: boolean },
): Promise<Device[]> {
  const devices: Device[] = []
  for (const [index, { size }] of reader.devices.entries()) {
    const digest = await meter.run(reader.digest(index))
    const wanted = expected[index]
    if (wanted !== undefined && wanted !== digest) {
      throw imageError('ERR_IMPORT_SOURCE', `blob ${wanted} has bytes of ${digest}`, {
        hint: 'the stored blob is damaged: upload it again, which replaces it',
      })
    }
    devices.push({ digest, size, known: await knownMap(domain, digest, index === 0 && isErofs) })
  }
  return devices
}

/** A primary that can be read now but could not be when it was imported is cut again. */
async function knownMap(
  domain: DomainStore,
  device: Digest,
  mustBeParsed: boolean,
): Promise<DeviceMap | undefined> {
  try {
    const map = (await domain.maps.get(device))?.map
    return mustBeParsed && map?.parsedAsErofs === false ? undefined : map
  } catch (error) {
    // Damaged maps are replaced by a new generation.
    if (isDamage(error)) return undefined
    throw error
  }
}

/**
 * What an image stands on and was there before may have been stored by a process that was killed between making
 * it visible and making it durable.
 */
export async function settle(
  domain: DomainStore,
  devices: readonly Device[],
  maps: readonly DeviceMap[],
): Promise<void> {
  await domain.blobs.settle(maps.flatMap((map) => map.blobs.map(({ digest }) => digest)))
  await domain.maps.settle(
    devices.filter(({ known }) => known !== undefined).map(({ digest }) => digest),
  )
}
