/** Imports a whole EROFS image: opens its devices, checks that they belong together, and stores them as they are. */
import type { Digest } from '../../core/index.ts'
import type { DomainStore, Store } from '../../store/index.ts'
import { imageError } from '../errors.ts'
import { MAX_DEVICES } from '../image-record.ts'
import { blobPath } from './blob-path.ts'
import { DeviceReader } from './device-reader.ts'
import { openDevices } from './import-devices.ts'
import type { ImportProgress } from './progress.ts'
import { ProgressMeter } from './progress.ts'
import type { ImportSummary } from './store-image.ts'
import { storeImage } from './store-image.ts'

/** Where a device's bytes are: a file of the store's uploads, or a blob that was uploaded before. */
export type ImportDevice = { readonly path: string } | { readonly digest: Digest }

export interface ImportOptions {
  readonly store: Store
  readonly domain: string
  /** The primary first, then extra devices in slot order. */
  readonly devices: readonly ImportDevice[]
  readonly signal?: AbortSignal
  /** Called at most ten times a second, and at the start of each phase. */
  readonly onProgress?: (progress: ImportProgress) => void
}

/**
 * @throws ERR_IMPORT_DEVICES, ERR_IMPORT_EMPTY, ERR_IMPORT_SOURCE, ERR_IMPORT_VERIFY, ERR_STORE_FULL,
 * ERR_STORE_WRITE_FAILED, ERR_STORE_BLOB_MISSING, ERR_ABORTED: nothing is visible then
 */
export async function importErofs(options: ImportOptions): Promise<ImportSummary> {
  const domain = options.store.domain(options.domain)
  using reader = DeviceReader.open(await devicePaths(options, domain))
  const opened = await openDevices(reader)
  const meter = new ProgressMeter(reader.totalSize, options.onProgress, options.signal)
  return await storeImage({
    store: options.store,
    domain,
    reader,
    meter,
    opened,
    expected: options.devices.map((device) => ('digest' in device ? device.digest : undefined)),
    origin: { format: 'erofs' },
    notes: [],
    signal: options.signal,
  })
}

async function devicePaths(options: ImportOptions, domain: DomainStore): Promise<string[]> {
  const { devices } = options
  if (devices.length < 1 || devices.length > MAX_DEVICES) {
    throw imageError(
      'ERR_IMPORT_DEVICES',
      `${devices.length} devices, expected 1 to ${MAX_DEVICES}`,
    )
  }
  const paths: string[] = []
  for (const device of devices) {
    paths.push('path' in device ? device.path : await blobPath(domain, device.digest))
  }
  return paths
}
