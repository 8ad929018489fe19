/**
 * The grammar of data URLs: what `/v1/images/REF/-/…` and `/v1/blobs/…` name, read from the raw request
 * target. Names have slashes and paths have any bytes, so the router's decoding is of no use here: the path
 * is cut at `/-/` (`-` is no OCI name component) and percent-decoded once, to bytes.
 */
import type { Digest, Ref } from '../../core/index.ts'
import { AppError, isDomain, parseDigest, parseRef } from '../../core/index.ts'

export type DataTarget =
  | { readonly kind: 'raw'; readonly ref: Ref }
  | { readonly kind: 'device'; readonly ref: Ref; readonly device: number }
  | {
      readonly kind: 'file'
      readonly ref: Ref
      readonly path: Uint8Array
      /** The URL ends with a slash: only a directory will do. */
      readonly wantsDirectory: boolean
    }
  | { readonly kind: 'blob'; readonly domain: string; readonly digest: Digest }

export const IMAGES_PREFIX = '/v1/images/'
export const BLOBS_PREFIX = '/v1/blobs/'
export const SEPARATOR = '/-/'

const PERCENT = 0x25
const SLASH = 0x2f
const DOT = 0x2e

/**
 * Routes of the router for URLs under `/v1/images/`. The names cannot collide with a reference: `-` is no
 * domain. The handlers read the reference from the original URL.
 */
export const INNER_ROUTES = {
  image: '/v1/images/-',
  files: '/v1/images/-/files',
  raw: '/v1/images/-/raw',
  device: '/v1/images/-/dev',
  unknown: '/v1/images/-/unknown',
} as const

/**
 * The origin-form of a request target in absolute-form, which proxies are sent and every server has to accept
 * (RFC 9112 §3.2.2). All other targets stay as they are.
 */
function originForm(target: string): string {
  if (target.startsWith('/')) return target
  const authority = /^https?:\/\/[^/?]*/i.exec(target)
  if (authority === null) return target
  const rest = target.slice(authority[0].length)
  return rest.startsWith('/') ? rest : `/${rest}`
}

/** Whom a request target in absolute-form is for; undefined for all other targets. */
export function authorityOf(target: string): string | undefined {
  return target.startsWith('/') ? undefined : /^https?:\/\/([^/?]*)/i.exec(target)?.[1]
}

/** The router's URL for a request's URL; all but image URLs stay as they are. */
export function routeUrl(target: string): string {
  const url = originForm(target)
  if (!url.startsWith(IMAGES_PREFIX)) return url
  const query = url.indexOf('?')
  const path = query < 0 ? url : url.slice(0, query)
  const search = query < 0 ? '' : url.slice(query)
  const at = path.indexOf(SEPARATOR)
  if (at < 0) return INNER_ROUTES.image + search
  const tail = path.slice(at + SEPARATOR.length)
  if (tail === 'raw') return INNER_ROUTES.raw + search
  if (tail === 'files' || tail.startsWith('files/')) return INNER_ROUTES.files + search
  if (tail.startsWith('dev/')) return INNER_ROUTES.device + search
  return INNER_ROUTES.unknown + search
}

/** The path of a request target, without its query. */
export function pathOf(target: string): string {
  const url = originForm(target)
  const query = url.indexOf('?')
  return query < 0 ? url : url.slice(0, query)
}

/** @throws ERR_REF_INVALID, ERR_DIGEST_INVALID, ERR_HTTP_PATH_INVALID, ERR_DEVICE_NOT_FOUND, ERR_HTTP_ROUTE_NOT_FOUND */
export function parseDataTarget(path: string): DataTarget {
  if (path.startsWith(BLOBS_PREFIX)) return parseBlobPath(path.slice(BLOBS_PREFIX.length))
  const at = path.indexOf(SEPARATOR)
  if (!path.startsWith(IMAGES_PREFIX) || at < 0) throw notFound(path)
  const ref = parseUrlRef(path.slice(IMAGES_PREFIX.length, at))
  const tail = path.slice(at + SEPARATOR.length)
  if (tail === 'raw') return { kind: 'raw', ref }
  if (tail.startsWith('dev/')) return { kind: 'device', ref, device: parseDevice(tail.slice(4)) }
  if (tail === 'files' || tail.startsWith('files/')) {
    const encoded = tail.slice('files/'.length)
    return {
      kind: 'file',
      ref,
      path: decodeUrlPath(withoutTrailingSlashes(encoded)),
      wantsDirectory: encoded === '' || encoded.endsWith('/'),
    }
  }
  throw notFound(path)
}

/** By a loop: the regular expression for it takes seconds on a path of slashes. */
function withoutTrailingSlashes(text: string): string {
  let end = text.length
  while (end > 0 && text.charCodeAt(end - 1) === SLASH) end--
  return text.slice(0, end)
}

/** The reference of `/v1/images/REF`. `:` and `@` may be percent-encoded, as URL libraries do. */
export function parseImagePath(path: string): Ref {
  return parseUrlRef(path.slice(IMAGES_PREFIX.length))
}

function parseUrlRef(text: string): Ref {
  return parseRef(text.includes('%') ? text.replace(/%3a/gi, ':').replace(/%40/g, '@') : text)
}

function parseBlobPath(rest: string): DataTarget {
  const slash = rest.indexOf('/')
  const domain = slash < 0 ? rest : rest.slice(0, slash)
  if (!isDomain(domain)) {
    throw new AppError('ERR_REF_INVALID', `'${domain}' is not a domain`, {
      hint: 'blobs have the path /v1/blobs/DOMAIN/sha256:HEX',
    })
  }
  const digest = parseDigest(rest.slice(slash + 1).replace(/%3a/i, ':'))
  return { kind: 'blob', domain, digest }
}

function parseDevice(text: string): number {
  // EROFS numbers devices with 16 bits (erofs_fs.h: device_id)
  if (/^(0|[1-9]\d{0,4})$/.test(text)) return Number(text)
  throw new AppError('ERR_DEVICE_NOT_FOUND', `'${text}' is not the number of a device`)
}

/**
 * The bytes that a percent-encoded path names. An encoded slash, a NUL byte and `..` are refused rather than
 * interpreted: no two layers may ever read one URL as two files.
 * @throws ERR_HTTP_PATH_INVALID
 */
export function decodeUrlPath(text: string): Uint8Array {
  const raw = Buffer.from(text, 'latin1') // request targets are octets; node shows each as one character
  const bytes = Buffer.alloc(raw.length)
  let length = 0
  for (let i = 0; i < raw.length; i++) {
    let byte = raw[i] ?? 0
    if (byte === PERCENT) {
      const digits = raw.toString('latin1', i + 1, i + 3)
      if (!/^[0-9a-fA-F]{2}$/.test(digits)) {
        throw invalidPath(`'%${digits}' is not a percent-encoded byte`)
      }
      byte = Number.parseInt(digits, 16)
      if (byte === SLASH) throw invalidPath('an encoded slash (%2F) names no file')
      i += 2
    }
    if (byte === 0) throw invalidPath('a NUL byte names no file')
    bytes[length++] = byte
  }
  const path = bytes.subarray(0, length)
  if (hasParentSegment(path)) throw invalidPath('a .. segment is not resolved')
  return path
}

function hasParentSegment(path: Uint8Array): boolean {
  for (let i = 0; i + 1 < path.length; i++) {
    if (path[i] !== DOT || path[i + 1] !== DOT) continue
    const starts = i === 0 || path[i - 1] === SLASH
    const ends = i + 2 === path.length || path[i + 2] === SLASH
    if (starts && ends) return true
  }
  return false
}

function invalidPath(why: string): AppError {
  return new AppError('ERR_HTTP_PATH_INVALID', `the path is invalid: ${why}`, {
    hint: 'percent-encode each byte of a name that is not a letter, digit or one of -._~',
  })
}

function notFound(path: string): AppError {
  return new AppError('ERR_HTTP_ROUTE_NOT_FOUND', `no route has the path ${path}`, {
    hint: 'inside an image there are /-/files/PATH, /-/raw and /-/dev/N',
  })
}
