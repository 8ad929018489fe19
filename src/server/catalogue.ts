/**
 * What images there are, for main: references to digests, records to descriptions. It remembers small facts
 * of immutable things, and nothing of refs, which change.
 */
import { LRUCache } from 'lru-cache'

import type { Digest, Ref } from '../core/index.ts'
import { AppError, formatRef, isAppError, isDomain, parseDigest } from '../core/index.ts'
import { openErofs } from '../erofs/index.ts'
import type { ImageRecord } from '../images/index.ts'
import {
  decodeImageRecord,
  flattenedSize,
  listImages,
  logicalBytesOf,
  StoredSource,
} from '../images/index.ts'
import type { Store } from '../store/index.ts'
import { isDamage } from '../store/index.ts'
import type { Image, ImageList } from './http/index.ts'

const DEFAULT_PAGE = 100
const MAX_PAGE = 1000
/** Records and facts of maps that are remembered; some hundred bytes each. */
const MAX_REMEMBERED = 20_000

export interface Resolved {
  readonly digest: Digest
  readonly updatedAt?: string
}

/** One tagged image. */
export interface TaggedImage {
  readonly domain: string
  readonly name: string
  readonly tag: string
  readonly digest: Digest
  readonly updatedAt: string
}

type SuperblockFacts = Pick<Image, 'blockSizeBytes' | 'features'>

interface DeviceFacts {
  /** Bytes of the device. */
  readonly size: number
  readonly extents: number
  readonly parsedAsErofs: boolean
  readonly logicalBytes: number
  readonly inodes: number
}

/** The part of a logger that is used here. */
export interface CatalogueLogger {
  warn(fields: Record<string, unknown>, message: string): void
}

/** What reading the record and the maps of an image that is not whole ends with, besides damage of an object. */
const INCOMPLETE: ReadonlySet<string> = new Set([
  'ERR_IMAGE_RECORD_INVALID',
  'ERR_STORE_BLOB_MISSING',
  'ERR_STORE_MANIFEST_MISSING',
  'ERR_STORE_MAP_MISSING',
])
/** A file system that could be read when it was imported and cannot be now. */
const EROFS_CODES = 'ERR_EROFS_'

export class Catalogue {
  readonly #store: Store
  readonly #logger: CatalogueLogger
  readonly #records = new LRUCache<string, ImageRecord>({ max: MAX_REMEMBERED })
  readonly #facts = new LRUCache<string, DeviceFacts>({ max: MAX_REMEMBERED })
  /** Names that images were found under, by `DOMAIN/DIGEST`: tags move on, and readers stay. */
  readonly #names = new LRUCache<string, string>({ max: MAX_REMEMBERED })
  #tagged: Promise<readonly TaggedImage[]> | undefined

  constructor(store: Store, logger: CatalogueLogger) {
    this.#store = store
    this.#logger = logger
  }

  /** @throws ERR_IMAGE_NOT_FOUND */
  async resolve(ref: Ref): Promise<Resolved> {
    const domain = this.#store.domain(ref.domain)
    if (ref.digest !== undefined) {
      if (!(await this.#record(ref.domain, ref.digest))) throw notFound(ref)
      return { digest: ref.digest }
    }
    const found = ref.tag === undefined ? undefined : await domain.refs.resolve(ref.name, ref.tag)
    if (found?.image === undefined) throw notFound(ref)
    this.#names.set(`${ref.domain}/${found.image}`, ref.name)
    return { digest: found.image, updatedAt: found.updatedAt }
  }

  /** @throws ERR_IMAGE_NOT_FOUND */
  async describe(ref: Ref): Promise<Image> {
    const { digest, updatedAt } = await this.resolve(ref)
    return await this.describeAs(ref, digest, updatedAt)
  }

  /**
   * An image under a name that need not name it yet.
   * @throws ERR_STORE_MANIFEST_MISSING, ERR_STORE_MAP_MISSING, ERR_STORE_CORRUPT and others of a damaged image
   */
  async describeAs(ref: Ref, digest: Digest, updatedAt?: string): Promise<Image> {
    const image = await this.#describe(ref, digest, updatedAt)
    return image.filesystem === 'erofs'
      ? { ...image, ...(await this.#superblockIfWhole(ref, image)) }
      : image
  }

  /** Damaged bytes of an image leave the rest of its description true. */
  async #superblockIfWhole(ref: Ref, image: Image): Promise<SuperblockFacts> {
    try {
      return await this.#superblock(ref.domain, image)
    } catch (error) {
      if (!isDamagedImage(error)) throw error
      this.#logger.warn(
        { event: 'image.damaged', ref: formatRef(ref), code: error.code, err: error },
        'the superblock of a damaged image was left out of its description',
      )
      return {}
    }
  }

  /** What only the image itself says. */
  async #superblock(name: string, image: Image): Promise<SuperblockFacts> {
    const [primary, ...extra] = image.devices
    if (!primary) return {}
    const domain = this.#store.domain(name)
    const { map } = await domain.maps.require(parseDigest(primary.digest))
    const { superblock } = await openErofs(new StoredSource(domain, map), {
      deviceCount: image.devices.length,
      extraDeviceSizes: extra.map(({ sizeBytes }) => sizeBytes),
    })
    const { compat, incompat } = superblock.features
    return { blockSizeBytes: superblock.blockSize, features: [...compat.names, ...incompat.names] }
  }

  /** One page over all domains, in the order of domain and name. @throws ERR_INVALID_ARGUMENT for a cursor that is none */
  async list(query: { domain?: string; cursor?: string; limit?: number }): Promise<ImageList> {
    const limit = Math.min(Math.max(query.limit ?? DEFAULT_PAGE, 1), MAX_PAGE)
    const from = query.cursor === undefined ? undefined : decodeCursor(query.cursor)
    const images: Image[] = []
    for (const domain of await this.#domains(query.domain)) {
      if (from !== undefined && domain < from.domain) continue
      if (images.length >= limit) return { images, nextCursor: encodeCursor(domain, '') }
      let after = from?.domain === domain ? from.after : undefined
      do {
        const page = await this.#store.domain(domain).refs.list({
          limit: limit - images.length,
          ...(after === undefined ? {} : { after }),
        })
        for (const listed of page.refs) {
          const { image } = listed.ref
          if (image === undefined) continue
          const ref = { domain, name: listed.name, tag: listed.tag }
          const described = await this.#describeListed(ref, image, listed.ref.updatedAt)
          if (described !== undefined) images.push(described)
        }
        after = page.next
        if (images.length >= limit && after !== undefined)
          return { images, nextCursor: encodeCursor(domain, after) }
      } while (after !== undefined)
    }
    return { images }
  }

  /** Every tagged image; remembered until a tag changes. */
  tagged(): Promise<readonly TaggedImage[]> {
    this.#tagged ??= this.#listTagged()
    return this.#tagged
  }

  /** A tag was changed. */
  changed(): void {
    this.#tagged = undefined
  }

  /** `DOMAIN/NAME@DIGEST` of an image that no tag names any more; without NAME where it was never resolved by one. */
  untaggedRef(domain: string, digest: Digest): string {
    const name = this.#names.get(`${domain}/${digest}`)
    return name === undefined ? `${domain}@${digest}` : formatRef({ domain, name, digest })
  }

  /** The first tag of each image, by `DOMAIN/DIGEST`. */
  async firstTags(): Promise<ReadonlyMap<string, string>> {
    const tags = new Map<string, string>()
    for (const { domain, name, tag, digest } of await this.tagged()) {
      const key = `${domain}/${digest}`
      if (!tags.has(key)) tags.set(key, formatRef({ domain, name, tag }))
    }
    return tags
  }

  async #listTagged(): Promise<readonly TaggedImage[]> {
    try {
      const all: TaggedImage[] = []
      for await (const image of this.#eachTagged()) all.push(image)
      return all
    } catch (error) {
      this.#tagged = undefined
      throw error
    }
  }

  async *#eachTagged(): AsyncGenerator<TaggedImage> {
    for (const domain of await this.#domains(undefined)) {
      for await (const { name, tag, image, ref } of listImages(this.#store.domain(domain))) {
        yield { domain, name, tag, digest: image, updatedAt: ref.updatedAt }
      }
    }
  }

  async #domains(only: string | undefined): Promise<readonly string[]> {
    if (only !== undefined && !isDomain(only))
      throw new AppError('ERR_REF_INVALID', `'${only}' is not a domain`)
    return only === undefined ? this.#store.domains() : [only]
  }

  /** Undefined for an image that is damaged on disk: it must not hide the others. */
  async #describeListed(ref: Ref, digest: Digest, updatedAt: string): Promise<Image | undefined> {
    try {
      return await this.#describe(ref, digest, updatedAt)
    } catch (error) {
      if (!isDamagedImage(error)) throw error
      this.#logger.warn(
        { event: 'image.damaged', ref: formatRef(ref), code: error.code, err: error },
        'a damaged image was left out of a list',
      )
      return undefined
    }
  }

  async #describe(ref: Ref, digest: Digest, updatedAt: string | undefined): Promise<Image> {
    const record = await this.#record(ref.domain, digest)
    if (!record) throw recordMissing(ref, digest)
    const facts: DeviceFacts[] = []
    for (const device of record.devices)
      facts.push(await this.#deviceFacts(ref.domain, device.sha256))
    const [primary] = facts
    return {
      ref: formatRef(ref),
      domain: ref.domain,
      name: ref.name,
      ...(ref.tag === undefined ? {} : { tag: ref.tag }),
      digest,
      logicalBytes: logicalBytesOf(facts),
      sizeBytes: flattenedSize(record),
      devices: record.devices.map((device, i) => ({
        sizeBytes: device.size,
        digest: device.sha256,
        extents: facts[i]?.extents ?? 0,
      })),
      origin: { ...record.origin },
      ...(record.oci === undefined ? {} : { oci: { ...record.oci } }),
      filesystem: primary?.parsedAsErofs === true ? 'erofs' : 'unknown',
      inodes: primary?.inodes ?? 0,
      ...(updatedAt === undefined ? {} : { updatedAt }),
      nbdExport: `${ref.domain}/${ref.name}@${digest}`,
    }
  }

  async #record(domain: string, digest: Digest): Promise<ImageRecord | undefined> {
    const key = `${domain}/${digest}`
    const known = this.#records.get(key)
    if (known) return known
    const bytes = await this.#store.domain(domain).manifests.get(digest)
    if (!bytes) return undefined
    const record = decodeImageRecord(bytes, digest)
    this.#records.set(key, record)
    return record
  }

  async #deviceFacts(domain: string, device: Digest): Promise<DeviceFacts> {
    const key = `${domain}/${device}`
    const known = this.#facts.get(key)
    if (known) return known
    const { map } = await this.#store.domain(domain).maps.require(device)
    const facts = {
      size: map.size,
      extents: map.extentCount,
      parsedAsErofs: map.parsedAsErofs,
      logicalBytes: map.logicalBytes,
      inodes: map.inodeCount,
    }
    this.#facts.set(key, facts)
    return facts
  }
}

/** Whether reading an image failed because it is not whole. */
function isDamagedImage(error: unknown): error is AppError {
  if (isDamage(error)) return true
  return isAppError(error) && (INCOMPLETE.has(error.code) || error.code.startsWith(EROFS_CODES))
}

/** The name is there, so this is not `notFound`: it can be removed. */
function recordMissing(ref: Ref, digest: Digest): AppError {
  return new AppError(
    'ERR_STORE_MANIFEST_MISSING',
    `the record ${digest} of image '${formatRef(ref)}' is missing`,
    { hint: 'import the image again, or remove its name' },
  )
}

function notFound(ref: Ref): AppError {
  return new AppError('ERR_IMAGE_NOT_FOUND', `no image '${formatRef(ref)}'`, {
    hint: 'commonpage image ls lists all',
  })
}

function encodeCursor(domain: string, after: string): string {
  return Buffer.from(`${domain}\n${after}`).toString('base64url')
}

function decodeCursor(cursor: string): { domain: string; after: string } {
  const [domain, after] = Buffer.from(cursor, 'base64url').toString('utf8').split('\n')
  if (domain === undefined || after === undefined || !isDomain(domain)) {
    throw new AppError('ERR_INVALID_ARGUMENT', `'${cursor}' is not a cursor of this list`)
  }
  return { domain, after }
}
