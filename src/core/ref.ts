/**
 * The one parser of image references, `DOMAIN/NAME[:TAG|@sha256:HEX]`, for command line, HTTP and NBD. A
 * domain is one OCI name component, a name one or more (distribution-spec, "Pulling manifests"); no tag
 * means `latest`; a domain is never guessed.
 */
import type { Digest } from './digest.ts'
import { isDigest } from './digest.ts'
import { AppError } from './errors.ts'

export interface Ref {
  readonly domain: string
  /** One or more components, joined by `/`. */
  readonly name: string
  /** Present when the reference names a tag. */
  readonly tag?: string
  /** Present when the reference names an image digest. */
  readonly digest?: Digest
}

const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*'
const DOMAIN_PATTERN = new RegExp(`^${COMPONENT}$`)
const NAME_PATTERN = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`)
const TAG_PATTERN = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/

export const MAX_DOMAIN_LENGTH = 64
/** distribution-spec: many clients limit HOST/NAME to 255 characters. */
export const MAX_NAME_LENGTH = 255
export const DEFAULT_TAG = 'latest'

export function isDomain(text: string): boolean {
  return text.length <= MAX_DOMAIN_LENGTH && DOMAIN_PATTERN.test(text)
}

export function isImageName(text: string): boolean {
  return text.length <= MAX_NAME_LENGTH && NAME_PATTERN.test(text)
}

export function isTag(text: string): boolean {
  return TAG_PATTERN.test(text)
}

/** @throws ERR_REF_INVALID, saying which part is wrong. */
export function parseRef(text: string): Ref {
  const slash = text.indexOf('/')
  if (slash <= 0) throw invalid(text, 'a domain and a name are needed')
  const domain = text.slice(0, slash)
  if (!isDomain(domain)) throw invalid(text, `'${domain}' is not a domain`)
  const rest = text.slice(slash + 1)
  const at = rest.indexOf('@')
  if (at >= 0) {
    const digest = rest.slice(at + 1)
    if (!isDigest(digest)) throw invalid(text, `'${digest}' is not a sha256 digest`)
    return { domain, name: checkName(text, rest.slice(0, at)), digest }
  }
  const colon = rest.lastIndexOf(':')
  if (colon < 0) return { domain, name: checkName(text, rest), tag: DEFAULT_TAG }
  const tag = rest.slice(colon + 1)
  if (!isTag(tag)) throw invalid(text, `'${tag}' is not a tag`)
  return { domain, name: checkName(text, rest.slice(0, colon)), tag }
}

export function formatRef(ref: Ref): string {
  const base = `${ref.domain}/${ref.name}`
  return ref.digest === undefined ? `${base}:${ref.tag ?? DEFAULT_TAG}` : `${base}@${ref.digest}`
}

function checkName(text: string, name: string): string {
  if (!isImageName(name)) throw invalid(text, `'${name}' is not an image name`)
  return name
}

function invalid(text: string, why: string): AppError {
  return new AppError('ERR_REF_INVALID', `'${text}' is not a reference: ${why}`, {
    hint: 'references look like DOMAIN/NAME:TAG or DOMAIN/NAME@sha256:HEX, in lower case',
  })
}
