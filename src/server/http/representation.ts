/**
 * What HTTP says about a sequence of bytes besides the bytes: media type, entity tag, caching, digest and
 * the headers that keep a browser from running what an image contains. Built once per opened target.
 */
import type { Digest } from '../../core/index.ts'
import { digestToRaw } from '../../core/index.ts'

export interface Representation {
  /** Bytes. */
  readonly size: number
  /** Quoted and strong (RFC 9110 §8.8.3): it names the content, so equal bytes anywhere have equal tags. */
  readonly etag: string
  readonly contentType: string
  /** Names and values in turn: everything that is the same for each request, 304 included. */
  readonly headers: readonly string[]
}

export interface RepresentationOptions {
  readonly size: number
  readonly etag: string
  /** The URL names the content itself: it never changes (RFC 8246). */
  readonly immutable: boolean
  /** Shared caches may keep it: false as soon as reading needs authentication. */
  readonly publicCaching: boolean
  /** sha256 of the whole, where known: sent as Repr-Digest (RFC 9530). */
  readonly digest?: Digest
  /** Name of a file inside an image, for its media type. */
  readonly fileName?: string
}

export const BINARY = 'application/octet-stream'

/** Files that browsers show as they are. Everything else is octet-stream: images hold untrusted content. */
const MEDIA_TYPES: ReadonlyMap<string, string> = new Map([
  ['css', 'text/css; charset=utf-8'],
  ['csv', 'text/csv; charset=utf-8'],
  ['gif', 'image/gif'],
  ['htm', 'text/html; charset=utf-8'],
  ['html', 'text/html; charset=utf-8'],
  ['jpeg', 'image/jpeg'],
  ['jpg', 'image/jpeg'],
  ['js', 'text/javascript; charset=utf-8'],
  ['json', 'application/json'],
  ['log', 'text/plain; charset=utf-8'],
  ['md', 'text/markdown; charset=utf-8'],
  ['mjs', 'text/javascript; charset=utf-8'],
  ['pdf', 'application/pdf'],
  ['png', 'image/png'],
  ['py', 'text/plain; charset=utf-8'],
  ['sh', 'text/plain; charset=utf-8'],
  ['svg', 'image/svg+xml'],
  ['txt', 'text/plain; charset=utf-8'],
  ['wasm', 'application/wasm'],
  ['webp', 'image/webp'],
  ['xhtml', 'application/xhtml+xml'],
  ['xml', 'application/xml'],
  ['yaml', 'application/yaml'],
  ['yml', 'application/yaml'],
])
/** Types that a browser would run scripts of: they are offered for download only. */
const ACTIVE = new Set(['htm', 'html', 'svg', 'xhtml', 'xml'])

export function describe(options: RepresentationOptions): Representation {
  const suffix = suffixOf(options.fileName)
  const headers = [
    'Accept-Ranges',
    'bytes',
    'ETag',
    options.etag,
    'Cache-Control',
    cacheControl(options.immutable, options.publicCaching),
    'X-Content-Type-Options',
    'nosniff',
  ]
  if (options.digest !== undefined) {
    headers.push('Repr-Digest', `sha-256=:${digestToRaw(options.digest).toString('base64')}:`)
  }
  if (options.fileName !== undefined) {
    headers.push('Content-Security-Policy', "sandbox; default-src 'none'")
    if (ACTIVE.has(suffix)) headers.push('Content-Disposition', 'attachment')
  }
  return {
    size: options.size,
    etag: options.etag,
    contentType: MEDIA_TYPES.get(suffix) ?? BINARY,
    headers,
  }
}

/** RFC 9111 and RFC 8246: names of content never change, tags are asked again each time. */
export function cacheControl(immutable: boolean, publicCaching: boolean): string {
  const scope = publicCaching ? 'public' : 'private'
  return immutable ? `${scope}, max-age=31536000, immutable` : `${scope}, no-cache`
}

function suffixOf(name: string | undefined): string {
  const dot = name === undefined ? -1 : name.lastIndexOf('.')
  return name === undefined || dot <= 0 ? '' : name.slice(dot + 1).toLowerCase()
}
