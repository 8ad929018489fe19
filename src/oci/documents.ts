/**
 * The JSON documents of an image: index, manifest, configuration, and docker's list. Each is checked as far as it is
 * used; what is not known is passed over (OCI image specification 1.1: "Image Index", "Image Manifest",
 * "Image Configuration").
 */
import type { Digest } from '../core/index.ts'
import { isDigest } from '../core/index.ts'
import { ociError } from './errors.ts'

export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
  readonly platform?: Platform
  readonly annotations: Readonly<Record<string, string>>
}

export interface Manifest {
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}

export interface ImageConfig {
  readonly platform: Platform
  /** Digests of the layers as plain tar archives, the lowest first. */
  readonly diffIds: readonly Digest[]
  /** What runs in a container of it: Entrypoint, Cmd, Env, User, WorkingDir, Labels and others, as they are. */
  readonly config: Readonly<Record<string, unknown>>
}

/** An image in docker's manifest.json. */
export interface DockerImage {
  readonly config: string
  readonly repoTags: readonly string[]
  readonly layers: readonly string[]
}

/** Of an index: manifests and further indexes. @throws ERR_OCI_INVALID */
export function parseIndex(bytes: Uint8Array, what: string): Descriptor[] {
  const index = parseObject(bytes, what)
  return arrayOf(index['manifests'], `${what} has no list of manifests`).map((each) =>
    parseDescriptor(each, what),
  )
}

/** @throws ERR_OCI_INVALID */
export function parseManifest(bytes: Uint8Array, what: string): Manifest {
  const manifest = parseObject(bytes, what)
  const layers = arrayOf(manifest['layers'], `${what} has no list of layers`)
  return {
    config: parseDescriptor(manifest['config'], what),
    layers: layers.map((layer) => parseDescriptor(layer, what)),
  }
}

/** @throws ERR_OCI_INVALID */
export function parseConfig(bytes: Uint8Array, what: string): ImageConfig {
  const image = parseObject(bytes, what)
  const { rootfs, config } = image
  const diffIds = isObject(rootfs) ? rootfs['diff_ids'] : undefined
  return {
    platform: parsePlatform(image) ?? { os: 'linux', architecture: 'unknown' },
    diffIds: arrayOf(diffIds, `${what} has no rootfs.diff_ids`).map((id) => digestOf(id, what)),
    config: isObject(config) ? config : {},
  }
}

/** docker save: manifest.json. @throws ERR_OCI_INVALID */
export function parseDockerList(bytes: Uint8Array): DockerImage[] {
  const what = 'manifest.json'
  return arrayOf(parseJson(bytes, what), `${what} is no list`).map((each) => {
    const { Config, RepoTags, Layers } = isObject(each) ? each : {}
    if (typeof Config !== 'string') throw invalid(`${what} has an image without Config`)
    return {
      config: Config,
      repoTags: strings(RepoTags ?? [], `${what} has RepoTags that are no strings`),
      layers: strings(Layers, `${what} has an image without Layers`),
    }
  })
}

/** `linux/arm64/v8`, as users and registries write it. */
export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/')
}

function parseDescriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw invalid(`${what} has a descriptor that is no object`)
  const { mediaType, digest, size, platform, annotations } = value
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw invalid(`${what} has a descriptor without a size`)
  }
  const parsed = parsePlatform(platform)
  return {
    mediaType: typeof mediaType === 'string' ? mediaType : '',
    digest: digestOf(digest, what),
    size,
    ...(parsed === undefined ? {} : { platform: parsed }),
    annotations: stringsOf(annotations),
  }
}

function parsePlatform(value: unknown): Platform | undefined {
  if (!isObject(value)) return undefined
  const { os, architecture, variant } = value
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined
  return { os, architecture, ...(typeof variant === 'string' ? { variant } : {}) }
}

function digestOf(value: unknown, what: string): Digest {
  if (typeof value === 'string' && isDigest(value)) return value
  throw invalid(`${what} refers to '${String(value)}', expected a sha256 digest`)
}

function stringsOf(value: unknown): Record<string, string> {
  if (!isObject(value)) return {}
  return Object.fromEntries(
    Object.entries(value).filter(
      (entry): entry is [string, string] => typeof entry[1] === 'string',
    ),
  )
}

function strings(value: unknown, message: string): string[] {
  const list = arrayOf(value, message)
  if (list.every((each) => typeof each === 'string')) return list
  throw invalid(message)
}

function arrayOf(value: unknown, message: string): unknown[] {
  if (Array.isArray(value)) return value
  throw invalid(message)
}

function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  const value = parseJson(bytes, what)
  if (isObject(value)) return value
  throw invalid(`${what} is no JSON object`)
}

function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8')) as unknown
  } catch {
    throw invalid(`${what} is not JSON`)
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(message: string): Error {
  return ociError('ERR_OCI_INVALID', message)
}
