/**
 * The names of everything in a store (docs/format/store.md, "Keys"): keys are the same for every
 * engine. Only names: no file is opened here.
 */
import type { Digest } from '../core/index.ts'
import { AppError, hexOf, isDigest, isDomain, isImageName, isTag } from '../core/index.ts'

export const FORMAT_FILE = 'commonpage.json'
export const FORMAT_VERSION = 1
export const LOCK_FILE = 'lock.db'
export const DOMAINS = 'domains'
/** Folders of a domain that hold no objects: work in progress, and what can be derived again. */
export const UPLOADS = 'uploads'
export const INDEX = 'index'
export const INDEX_SUFFIX = '.idx'
/** Separates NAME from TAG: no component of a NAME starts with `_`. */
const TAGS = '/_tags/'

/** Blocks of region 1 of a blob: the block size of nearly every EROFS image, and of O_DIRECT. */
export const STORE_BLOCK_BYTES = 4096
/** One sha256 is kept for so many bytes of a blob, whatever the frame size of the cache. */
export const DIGEST_PAGE_BYTES = 16 * 1024
/** S3 takes keys of up to 1,024 bytes. */
export const MAX_KEY_BYTES = 1024

const KEY = /^[A-Za-z0-9._-]+(?:\/[A-Za-z0-9._-]+)*$/

/** @throws ERR_STORE_KEY_INVALID for anything that could leave the store or name work in progress. */
export function checkKey(key: string): string {
  const parts = key.split('/')
  const plain =
    KEY.test(key) && key.length <= MAX_KEY_BYTES && !parts.includes('..') && !parts.includes('.')
  const place = parts[0] === DOMAINS && parts.length > 3 && !isHidden(parts[2] ?? '')
  if (plain && place) return key
  throw new AppError(
    'ERR_STORE_KEY_INVALID',
    `'${key}' is not a key of the store, expected domains/DOMAIN/KIND/NAME`,
  )
}

/** True for the folders of a domain that are not objects. */
export function isHidden(component: string): boolean {
  return component === UPLOADS || component === INDEX
}

/** `domains/DOMAIN/` @throws ERR_STORE_KEY_INVALID */
export function domainPrefix(domain: string): string {
  if (isDomain(domain)) return `${DOMAINS}/${domain}/`
  throw new AppError('ERR_STORE_KEY_INVALID', `'${domain}' is not a domain`)
}

export function blobKey(domain: string, digest: Digest): string {
  return blobsPrefix(domain) + sharded(digest)
}

export function blobIndexKey(domain: string, digest: Digest): string {
  return blobKey(domain, digest) + INDEX_SUFFIX
}

export function blobsPrefix(domain: string): string {
  return `${domainPrefix(domain)}blobs/sha256/`
}

/** Of a device's map: `device` is the sha256 of the device's bytes. */
export function mapKey(domain: string, device: Digest, generation: number): string {
  return `${mapPrefix(domain, device)}${generation}`
}

export function mapPrefix(domain: string, device: Digest): string {
  return `${mapsPrefix(domain)}${sharded(device)}/`
}

export function mapsPrefix(domain: string): string {
  return `${domainPrefix(domain)}maps/sha256/`
}

export function manifestKey(domain: string, digest: Digest): string {
  return manifestsPrefix(domain) + sharded(digest)
}

export function manifestsPrefix(domain: string): string {
  return `${domainPrefix(domain)}manifests/sha256/`
}

export function refsPrefix(domain: string): string {
  return `${domainPrefix(domain)}refs/`
}

/** @throws ERR_STORE_KEY_INVALID */
export function refKey(domain: string, name: string, tag: string): string {
  if (!isImageName(name) || !isTag(tag)) {
    throw new AppError('ERR_STORE_KEY_INVALID', `'${name}:${tag}' is not NAME:TAG`)
  }
  return checkKey(`${refsPrefix(domain)}${name}${TAGS}${tag}`)
}

/** `NAME/_tags/TAG` (a ref key without its prefix) in its parts; undefined when it is no such thing. */
export function parseRefSuffix(suffix: string): { name: string; tag: string } | undefined {
  const at = suffix.lastIndexOf(TAGS)
  if (at < 0) return undefined
  const name = suffix.slice(0, at)
  const tag = suffix.slice(at + TAGS.length)
  return isImageName(name) && isTag(tag) ? { name, tag } : undefined
}

/** The digest that a sharded key ends in (`…/AB/HEX`); undefined when it is no such thing. */
export function digestOfKey(key: string): Digest | undefined {
  const parts = key.split('/')
  const hex = parts.at(-1) ?? ''
  const digest = `sha256:${hex}`
  return isDigest(digest) && parts.at(-2) === hex.slice(0, 2) ? digest : undefined
}

/** `AB/HEX`: 256 folders keep each of them small. */
function sharded(digest: Digest): string {
  const hex = hexOf(digest)
  return `${hex.slice(0, 2)}/${hex}`
}
