/**
 * Finds one image in an archive: an OCI layout as a tar archive, or what `docker save` writes. Documents are checked
 * against the digests that refer to them; layers are located, not read.
 */
import { createHash } from 'node:crypto'

import type { Digest } from '../core/index.ts'
import type { Descriptor, ImageConfig, Platform } from './documents.ts'
import {
  formatPlatform,
  parseConfig,
  parseDockerList,
  parseIndex,
  parseManifest,
} from './documents.ts'
import { ociError } from './errors.ts'

/** Bytes of a member of the archive. */
export interface MemberRange {
  readonly offset: number
  readonly length: number
}

export interface ArchiveMembers {
  /** Of a file, by its path without slashes at either end; links are followed. */
  find(path: string): MemberRange | undefined
  read(range: MemberRange): Buffer
}

export interface WantedImage {
  /** `org.opencontainers.image.ref.name`, or a tag or NAME:TAG of docker's list. */
  readonly tag?: string
  readonly platform?: Platform
}

export interface FoundLayer extends MemberRange {
  /** Digest of the layer as a plain archive. */
  readonly diffId: Digest
}

export interface FoundImage {
  readonly config: ImageConfig
  /** The lowest first. */
  readonly layers: readonly FoundLayer[]
}

/** Documents are read whole: an index of thousands of images is no larger. */
const MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
/** An index may name indexes; more than a few levels is nobody's. */
const MAX_INDEX_DEPTH = 4
/** Docker stops at 127; each takes an open file. */
const MAX_LAYERS = 512
const REF_NAME = 'org.opencontainers.image.ref.name'
const NAMED = 20

/** What names images instead of being one. */
const INDEX_TYPES: ReadonlySet<string> = new Set([
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
])

/** @throws ERR_OCI_INVALID, ERR_OCI_DIGEST, ERR_OCI_NOT_FOUND, ERR_OCI_UNSUPPORTED */
export function findImage(members: ArchiveMembers, wanted: WantedImage): FoundImage {
  const index = members.find('index.json')
  if (index !== undefined)
    return new OciFinder(members, wanted).find(document(members, index, 'index.json'))
  const list = members.find('manifest.json')
  if (list !== undefined)
    return findDocker(members, wanted, document(members, list, 'manifest.json'))
  throw ociError(
    'ERR_OCI_INVALID',
    'the archive has neither index.json nor manifest.json',
    'an OCI layout or an archive of docker save is expected; import tar takes archives of plain files',
  )
}

class OciFinder {
  readonly #members: ArchiveMembers
  readonly #wanted: WantedImage

  constructor(members: ArchiveMembers, wanted: WantedImage) {
    this.#members = members
    this.#wanted = wanted
  }

  find(index: Buffer): FoundImage {
    const named = this.#withTag(parseIndex(index, 'index.json'))
    const images = named.flatMap((each) => this.#imagesOf(each, 1))
    return this.#open(this.#withPlatform(images))
  }

  #withTag(entries: readonly Descriptor[]): Descriptor[] {
    const { tag } = this.#wanted
    const tagOf = ({ annotations }: Descriptor): string | undefined => annotations[REF_NAME]
    if (tag === undefined) {
      const tags = new Set(entries.map(tagOf))
      if (tags.size <= 1) return [...entries]
      throw notFound('the archive has several images', [...tags], 'name one of them, as LAYOUT:TAG')
    }
    const found = entries.filter((entry) => tagOf(entry) === tag)
    if (found.length > 0) return found
    throw notFound(`the archive has no image '${tag}'`, entries.map(tagOf))
  }

  /** Manifests, those of indexes among them. */
  #imagesOf(entry: Descriptor, depth: number): Descriptor[] {
    if (!INDEX_TYPES.has(entry.mediaType)) return [entry]
    if (depth > MAX_INDEX_DEPTH) {
      throw ociError(
        'ERR_OCI_INVALID',
        `indexes lie more than ${MAX_INDEX_DEPTH} deep in each other`,
      )
    }
    const what = `index ${entry.digest}`
    const entries = parseIndex(this.#blob(entry, what), what)
    return entries.flatMap((each) => this.#imagesOf(each, depth + 1))
  }

  #withPlatform(images: readonly Descriptor[]): Descriptor {
    const { platform = HOST } = this.#wanted
    const isFixed = this.#wanted.platform !== undefined
    const [only] = images
    // An image that does not say what it is for is taken, unless something else was asked for: its configuration says.
    if (images.length === 1 && only !== undefined && !isFixed) return only
    const platformOf = (image: Descriptor): Platform =>
      image.platform ?? this.#configOf(image).platform
    const found = images.find((image) => matches(platformOf(image), platform))
    if (found !== undefined) return found
    throw notFound(
      `the image is not there for ${formatPlatform(platform)}`,
      images.map((image) => formatPlatform(platformOf(image))),
      'name one with --platform',
    )
  }

  #configOf(image: Descriptor): ImageConfig {
    const what = `manifest ${image.digest}`
    const manifest = parseManifest(this.#blob(image, what), what)
    return parseConfig(this.#blob(manifest.config, `configuration of ${what}`), what)
  }

  #open(image: Descriptor): FoundImage {
    const what = `manifest ${image.digest}`
    const { config: descriptor, layers } = parseManifest(this.#blob(image, what), what)
    const config = parseConfig(
      this.#blob(descriptor, `configuration ${descriptor.digest}`),
      `configuration ${descriptor.digest}`,
    )
    checkCount(layers.length, config)
    return {
      config,
      layers: layers.map((layer, index) => ({
        ...this.#range(layer, `layer ${index + 1}`),
        diffId: config.diffIds[index] ?? layer.digest,
      })),
    }
  }

  #range({ digest, size }: Descriptor, what: string): MemberRange {
    const range = this.#members.find(`blobs/${digest.replace(':', '/')}`)
    if (range === undefined) {
      throw ociError('ERR_OCI_UNSUPPORTED', `${what} (${digest}) is not in the archive`)
    }
    if (range.length === size) return range
    throw ociError(
      'ERR_OCI_DIGEST',
      `${what} (${digest}) has ${range.length} bytes, expected ${size}`,
    )
  }

  #blob(descriptor: Descriptor, what: string): Buffer {
    const bytes = document(this.#members, this.#range(descriptor, what), what)
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    if (digest === descriptor.digest) return bytes
    throw ociError(
      'ERR_OCI_DIGEST',
      `${what} has the digest ${digest}, expected ${descriptor.digest}`,
    )
  }
}

function findDocker(
  members: ArchiveMembers,
  { tag, platform }: WantedImage,
  list: Buffer,
): FoundImage {
  const images = parseDockerList(list)
  const tags = images.flatMap(({ repoTags }) => repoTags)
  const named = images.filter(
    ({ repoTags }) =>
      tag === undefined || repoTags.some((each) => each === tag || each.endsWith(`:${tag}`)),
  )
  if (named.length === 0) throw notFound(`the archive has no image '${tag ?? ''}'`, tags)
  if (named.length > 1) {
    throw notFound('the archive has several images', tags, 'name one of them, as ARCHIVE:TAG')
  }
  const [image] = named
  const what = `configuration ${image?.config ?? ''}`
  const config = parseConfig(
    document(members, rangeOf(members, image?.config ?? '', what), what),
    what,
  )
  if (platform !== undefined && !matches(config.platform, platform)) {
    throw notFound(`the image is not there for ${formatPlatform(platform)}`, [
      formatPlatform(config.platform),
    ])
  }
  const layers = image?.layers ?? []
  checkCount(layers.length, config)
  return {
    config,
    layers: layers.map((path, index) => {
      const diffId = config.diffIds[index]
      if (diffId === undefined)
        throw ociError('ERR_OCI_INVALID', `${what} has no diff_id for ${path}`)
      return { ...rangeOf(members, path, `layer ${index + 1}`), diffId }
    }),
  }
}

function checkCount(layers: number, { diffIds }: ImageConfig): void {
  if (layers === diffIds.length && layers <= MAX_LAYERS) return
  throw ociError(
    'ERR_OCI_INVALID',
    `the image has ${layers} layers and ${diffIds.length} diff_ids, expected as many of each, at most ${MAX_LAYERS}`,
  )
}

function rangeOf(members: ArchiveMembers, path: string, what: string): MemberRange {
  const range = members.find(path)
  if (range !== undefined) return range
  throw ociError('ERR_OCI_UNSUPPORTED', `${what} (${path}) is not in the archive`)
}

function document(members: ArchiveMembers, range: MemberRange, what: string): Buffer {
  if (range.length <= MAX_DOCUMENT_BYTES) return members.read(range)
  throw ociError(
    'ERR_OCI_INVALID',
    `${what} has ${range.length} bytes, at most ${MAX_DOCUMENT_BYTES} are read`,
  )
}

/** Node's names of architectures in those of Go, which images have. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' }
const HOST: Platform = {
  os: 'linux',
  architecture: ARCHITECTURES[process.arch] ?? process.arch,
}

/** A variant counts where one was asked for; arm64 is v8 whether it says so or not. */
function matches(image: Platform, wanted: Platform): boolean {
  if (image.os !== wanted.os || image.architecture !== wanted.architecture) return false
  if (wanted.variant === undefined) return true
  const implied = image.architecture === 'arm64' ? 'v8' : undefined
  return (image.variant ?? implied) === wanted.variant
}

function notFound(message: string, has: readonly (string | undefined)[], hint?: string): Error {
  const names = [...new Set(has)].map((name) => name ?? '(without a tag)')
  const shown = names.slice(0, NAMED).join(', ')
  const more = names.length > NAMED ? ` and ${names.length - NAMED} others` : ''
  return ociError(
    'ERR_OCI_NOT_FOUND',
    names.length === 0 ? message : `${message}: it has ${shown}${more}`,
    hint,
  )
}
