/**
 * Stores an image whose devices can be read: hashes them, cuts them into pieces, stores what the domain does not
 * have in one new blob, proves that the new maps reproduce every byte, makes blob, maps and record durable, and only
 * then visible, in this order. Runs in the import process. Tags are the owner's business.
 *
 * Memory beside fixed buffers (some 20 MiB): 28 bytes for each run of file data and each run of the map, 64 for
 * each new chunk with a rest, 16 for each inode, 8 for each chunk index filter's share. Nothing grows with bytes.
 */
import type { Digest } from '../../core/index.ts'
import { isAppError } from '../../core/index.ts'
import type { ErofsImage } from '../../erofs/index.ts'
import type {
  BlobWriter,
  ChunkIndex,
  CompleteBlob,
  DeviceMap,
  DomainStore,
  MapBlob,
  MapFacts,
  PreparedMap,
  ResolvedSource,
  Store,
  StoredBlob,
} from '../../store/index.ts'
import { decodeMap } from '../../store/index.ts'
import { zeroBytesOf } from '../blob-usage.ts'
import { logicalBytesOf } from '../disk-usage.ts'
import { imageError } from '../errors.ts'
import type { ImageRecord } from '../image-record.ts'
import { encodeImageRecord } from '../image-record.ts'
import { cutDevices, spansOf } from './cut-devices.ts'
import { DataExtents } from './data-extents.ts'
import { checkIdentities } from './device-identity.ts'
import type { DeviceReader } from './device-reader.ts'
import type { OpenedDevices } from './import-devices.ts'
import { deviceRecords } from './import-devices.ts'
import type { Device } from './known-devices.ts'
import { identify, settle } from './known-devices.ts'
import { MappingTable } from './mapping-table.ts'
import type { MendingParts } from './mend-blobs.ts'
import { mendBlobs } from './mend-blobs.ts'
import { CutPoints } from './metadata-cuts.ts'
import type { KnownChunks } from './piece-store.ts'
import { FIRST_EXISTING, PieceStore } from './piece-store.ts'
import type { ProgressMeter } from './progress.ts'
import type { SharedWith } from './shared-with.ts'
import { sharedWith } from './shared-with.ts'
import type { Survey } from './survey.ts'
import { surveyImage } from './survey.ts'
import { digestThroughMap } from './verify.ts'
import { blobPath } from './blob-path.ts'

/** What the API calls ImportReport, but for the ref, which the import does not know. */
export interface ImportSummary {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly logicalBytes: number
  readonly newBytes: number
  readonly sharedBytes: number
  readonly zeroBytes: number
  readonly sharedWith: readonly SharedWith[]
  readonly filesystem: 'erofs' | 'unknown'
  readonly inodes: number
  readonly notes: readonly string[]
}

export interface ImageSource {
  readonly store: Store
  readonly domain: DomainStore
  readonly reader: DeviceReader
  readonly meter: ProgressMeter
  readonly opened: OpenedDevices
  /** Digests that some of the devices must have. */
  readonly expected: readonly (Digest | undefined)[]
  /** What the record says of where the image comes from. */
  readonly origin: ImageRecord['origin']
  readonly oci?: ImageRecord['oci']
  /** For the report. */
  readonly notes: readonly string[]
  readonly signal: AbortSignal | undefined
}

/**
 * @throws ERR_IMPORT_SOURCE, ERR_IMPORT_VERIFY, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_STORE_BLOB_MISSING,
 * ERR_ABORTED: nothing is visible then
 */
export async function storeImage(source: ImageSource): Promise<ImportSummary> {
  const { domain, reader, meter, opened, expected, origin, oci, signal } = source
  meter.enter('reading')
  const image = 'image' in opened ? opened.image : undefined
  const devices = await identify(domain, reader, meter, {
    expected,
    isErofs: image !== undefined,
  })
  const sizes = devices.map((device) => device.size)
  const digests = devices.map((device) => device.digest)
  const record = encodeImageRecord({
    devices: deviceRecords(sizes, digests, image),
    origin,
    ...(oci === undefined ? {} : { oci }),
  })
  const { dataDir } = source.store
  const run = new ImportRun({ dataDir, domain, reader, meter, devices, record })
  for (const note of source.notes) run.note(note)
  if (image !== undefined) {
    for (const note of await checkIdentities(image, reader, digests)) run.note(note)
  }
  if ('reason' in opened)
    run.note(`cut at fixed offsets, because it could not be read: ${opened.reason}`)
  const result = await run.store(image, signal)
  return await summarise(domain, result, run.notes)
}

interface RunParts extends MendingParts {
  readonly devices: readonly Device[]
  /** The image record's bytes. */
  readonly record: Uint8Array
}

interface StoredImage {
  readonly digest: Digest
  readonly maps: readonly DeviceMap[]
  readonly newBytes: number
}

/** What one attempt cuts: along the survey, or at fixed offsets; with what the domain has, or without. */
interface Attempt {
  readonly survey: Survey | undefined
  readonly shares: boolean
  /** Of the primary. */
  readonly facts: MapFacts
}

/** Maps that did not give back the devices' bytes, and the blobs of the domain that they refer to. */
interface Failure {
  readonly maps: readonly DeviceMap[]
  readonly existing: ReadonlySet<Digest>
}

/** Extra devices hold data only. */
const NOT_PARSED: MapFacts = { parsedAsErofs: false, logicalBytes: 0, inodeCount: 0 }

/** Of a disk that takes no more: no reason to fail an import that is stored. */
const NO_WRITE: ReadonlySet<string> = new Set(['ERR_STORE_FULL', 'ERR_STORE_WRITE_FAILED'])

class ImportRun {
  readonly notes: string[] = []
  readonly #parts: RunParts
  /** As the parts say, without the maps that refer to blobs which are lost. */
  #devices: readonly Device[]
  /** Blobs of the domain that are damaged and stay so. */
  readonly #lost = new Set<Digest>()

  constructor(parts: RunParts) {
    this.#parts = parts
    this.#devices = parts.devices
  }

  note(text: string): void {
    this.notes.push(text)
  }

  /** Stores what is new of the devices. @returns a verified map of each device, and the record, published */
  async store(
    image: ErofsImage | undefined,
    signal: AbortSignal | undefined,
  ): Promise<StoredImage> {
    const known = await this.#mendKnown()
    if (known.every((map) => map !== undefined)) {
      this.note('every device was in the domain already, and its stored bytes were checked')
      const { domain, record } = this.#parts
      await settle(domain, this.#devices, known)
      return { digest: await domain.manifests.put(record), maps: known, newBytes: 0 }
    }
    const survey = image === undefined ? undefined : await this.#survey(image, signal)
    const facts: MapFacts = {
      parsedAsErofs: survey !== undefined,
      logicalBytes: survey?.logicalBytes ?? 0,
      inodeCount: survey?.inodes ?? 0,
    }
    let stored = await this.#attempt({ survey, shares: true, facts })
    if ('existing' in stored && (await this.#mendShared(stored))) {
      stored = await this.#attempt({ survey, shares: true, facts })
    }
    if (!('existing' in stored)) return stored
    this.note('stored once more as a whole: the bytes did not come back through the first map')
    const again = await this.#attempt({ survey: undefined, shares: false, facts })
    if (!('existing' in again)) return again
    throw imageError(
      'ERR_IMPORT_VERIFY',
      'the stored bytes do not reproduce the devices, nothing was published',
      { hint: 'check the disk of the data directory, and that the source does not change' },
    )
  }

  /**
   * An image that is imported again may be imported because it cannot be read any more: what the domain has of
   * its devices is read and checked, which takes less than storing it did.
   *
   * @returns the maps that can be relied upon
   */
  async #mendKnown(): Promise<(DeviceMap | undefined)[]> {
    const known = this.#devices.map((device) => device.known)
    if (known.every((map) => map === undefined)) return known
    this.#parts.meter.enter('verifying')
    await this.#mend(known)
    const isLost = (map: DeviceMap | undefined): boolean =>
      map?.blobs.some(({ digest }) => this.#lost.has(digest)) === true
    this.#devices = this.#devices.map((device) =>
      isLost(device.known) ? { ...device, known: undefined } : device,
    )
    return this.#devices.map((device) => device.known)
  }

  /** @returns true when the reason of the failure was found: another attempt will do better */
  async #mendShared({ maps, existing }: Failure): Promise<boolean> {
    return await this.#mend(maps, (blob) => existing.has(blob))
  }

  /** @returns whether any blob was damaged */
  async #mend(
    maps: readonly (DeviceMap | undefined)[],
    includes?: (blob: Digest) => boolean,
  ): Promise<boolean> {
    const { notes, lost } = await mendBlobs(this.#parts, maps, includes)
    for (const note of notes) this.note(note)
    for (const blob of lost) this.#lost.add(blob)
    return notes.length > 0
  }

  /** The chunks of the domain but for those in blobs that are lost. */
  #knownChunks(index: ChunkIndex): KnownChunks {
    return {
      lookup: (rawDigest, length) => {
        const found = index.lookup(rawDigest, length)
        return found === undefined || this.#lost.has(found.blob) ? undefined : found
      },
    }
  }

  async #survey(image: ErofsImage, signal: AbortSignal | undefined): Promise<Survey | undefined> {
    try {
      const survey = await surveyImage(this.#parts.reader, image, signal)
      const { compressedFiles, damagedFiles } = survey
      if (compressedFiles > 0) {
        this.note(`${compressedFiles} compressed files are cut at fixed offsets, not by content`)
      }
      if (damagedFiles > 0) {
        const several = this.#devices.length > 1
        this.note(
          `${damagedFiles} files have data outside of the devices` +
            (several ? ': are they given in the order of the device table?' : ''),
        )
      }
      return survey
    } catch (error) {
      if (signal?.aborted === true) this.#parts.meter.check()
      const isImagesFault =
        isAppError(error) &&
        (error.code.startsWith('ERR_EROFS_') || error.code === 'ERR_IMPORT_TOO_COMPLEX')
      if (!isImagesFault) throw error
      this.note(`cut at fixed offsets, because its tree could not be read: ${error.message}`)
      return undefined
    }
  }

  /** Fails when the maps do not reproduce the devices. */
  async #attempt(attempt: Attempt): Promise<StoredImage | Failure> {
    const { domain, meter, reader } = this.#parts
    const devices = this.#devices
    await using index = await domain.chunkIndex()
    await using writer = await domain.blobs.createWriter()
    const mappings = new MappingTable()
    const known = attempt.shares ? this.#knownChunks(index) : undefined
    const pieces = new PieceStore({ writer, known, mappings })
    meter.enter('writing')
    await meter.run(
      cutDevices({
        reader,
        pieces,
        extents: attempt.survey?.extents ?? new DataExtents(),
        cuts: attempt.survey?.cuts ?? new CutPoints(),
        taken: spansOf(reader.devices.filter((_, device) => devices[device]?.known !== undefined)),
      }),
    )
    meter.check()
    const blob = writer.complete()
    const sources = await this.#resolve(blob, pieces.existingBlobs)
    const builders = mappings.build(
      reader.devices,
      FIRST_EXISTING - 1 + pieces.existingBlobs.length,
    )
    const encoded = builders.map((builder, device) =>
      devices[device]?.known === undefined
        ? builder.encode(sources, device === 0 ? attempt.facts : NOT_PARSED)
        : undefined,
    )
    const maps = encoded.map((bytes, device) => {
      const map = bytes === undefined ? devices[device]?.known : decodeMap(bytes)
      if (map === undefined)
        throw new TypeError(`device ${device} has neither a new map nor an old one`)
      return map
    })
    if (!(await this.#verify(maps, blob))) {
      return { maps, existing: new Set(pieces.existingBlobs) }
    }
    // The last point of return: what follows makes the import visible.
    meter.check()
    meter.enter('publishing')
    const published = await this.#publish(writer, encoded, maps)
    if (published.blob !== undefined) await this.#index(index, published.blob.digest)
    const newBytes = published.blob?.created === true ? published.blob.size : 0
    return { digest: published.digest, maps, newBytes }
  }

  /** Whatever needs room comes before the first thing that can be seen: a full disk leaves nothing. */
  async #publish(
    writer: BlobWriter,
    encoded: readonly (Uint8Array | undefined)[],
    maps: readonly DeviceMap[],
  ): Promise<{ readonly digest: Digest; readonly blob: StoredBlob | undefined }> {
    const { domain, record } = this.#parts
    const devices = this.#devices
    await settle(domain, devices, maps)
    await using prepared = new AsyncDisposableStack()
    const blob = prepared.use(await writer.prepare())
    const newMaps: PreparedMap[] = []
    for (const [device, bytes] of encoded.entries()) {
      const digest = devices[device]?.digest
      if (bytes === undefined || digest === undefined) continue
      newMaps.push(prepared.use(await domain.maps.prepare(digest, bytes)))
    }
    const manifest = prepared.use(await domain.manifests.prepare(record))
    const stored = await blob?.publish()
    for (const map of newMaps) await map.publish()
    return { digest: await manifest.publish(), blob: stored }
  }

  /** The chunk index is derived: what it could not take now, the next import adds. */
  async #index(index: ChunkIndex, blob: Digest): Promise<void> {
    try {
      await index.addBlob(blob)
    } catch (error) {
      if (!isAppError(error) || !NO_WRITE.has(error.code)) throw error
      this.note(`the next import brings the chunk index up to date: ${error.message}`)
    }
  }

  /** Reads every new map's bytes back, from the blobs of the domain and the one that is not in it yet. */
  async #verify(maps: readonly DeviceMap[], own: CompleteBlob | undefined): Promise<boolean> {
    const { domain, meter } = this.#parts
    meter.enter('verifying')
    const paths = new Map<Digest, string>()
    for (const { digest } of maps.flatMap((map) => map.blobs)) {
      if (paths.has(digest)) continue
      // Also when the domain has a blob of this name: if its bytes are others, publication replaces it.
      const path = digest === own?.digest ? own.stagedPath : await blobPath(domain, digest)
      paths.set(digest, path)
    }
    const pathOf = (blob: Digest): string => paths.get(blob) ?? ''
    for (const [device, map] of maps.entries()) {
      const { known, digest: wanted } = this.#devices[device] ?? {}
      if (known !== undefined) continue
      if ((await meter.run(digestThroughMap(map, pathOf))) !== wanted) return false
    }
    return true
  }

  async #resolve(
    blob: CompleteBlob | undefined,
    existing: readonly Digest[],
  ): Promise<(ResolvedSource | undefined)[]> {
    const { domain } = this.#parts
    const resolved: (ResolvedSource | undefined)[] = [undefined, undefined]
    if (blob !== undefined) {
      const own: MapBlob = { digest: blob.digest, size: blob.size }
      resolved[0] = { blob: own, base: 0 }
      resolved[1] = { blob: own, base: blob.region1Length }
    }
    for (const digest of existing) {
      const head = await domain.blobs.head(digest)
      resolved.push(head === undefined ? undefined : { blob: head, base: 0 })
    }
    return resolved
  }
}

async function summarise(
  domain: DomainStore,
  { digest, maps, newBytes }: StoredImage,
  notes: readonly string[],
): Promise<ImportSummary> {
  const sizeBytes = maps.reduce((sum, map) => sum + map.size, 0)
  const zeroBytes = maps.reduce((sum, map) => sum + zeroBytesOf(map), 0)
  return {
    digest,
    sizeBytes,
    logicalBytes: logicalBytesOf(maps),
    newBytes,
    // What needed no room: found in the domain, or in the same image before.
    sharedBytes: Math.max(0, sizeBytes - zeroBytes - newBytes),
    zeroBytes,
    sharedWith: await sharedWith(domain, maps, digest),
    filesystem: maps[0]?.parsedAsErofs === true ? 'erofs' : 'unknown',
    inodes: maps[0]?.inodeCount ?? 0,
    notes,
  }
}
