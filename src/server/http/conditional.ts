/**
 * Conditional requests (RFC 9110 §13) over strong entity tags. Representations here have no modification
 * date (a file's mtime says nothing about when the bytes behind a URL changed), so If-Modified-Since and
 * If-Unmodified-Since are ignored, as §13.1.3 and §13.1.4 demand, and a date in If-Range never matches.
 */
import { AppError } from '../../core/index.ts'

export interface ConditionalHeaders {
  readonly 'if-match'?: string | undefined
  readonly 'if-none-match'?: string | undefined
  readonly 'if-range'?: string | undefined
}

/** The part that decides whether something is changed. Plain data: a change is decided where what it changes is. */
export type Preconditions = Pick<ConditionalHeaders, 'if-match' | 'if-none-match'>

export type Precondition = 'proceed' | 'not-modified' | 'failed'

/**
 * If-Match, then If-None-Match (§13.2.2). `etag`: quoted, strong; undefined where there is nothing, which not even
 * `*` matches (§13.1.1, §13.1.2).
 */
export function evaluatePreconditions(
  headers: Preconditions,
  etag: string | undefined,
): Precondition {
  const matches = (list: string, weak: boolean): boolean =>
    etag !== undefined && listMatches(list, etag, weak)
  const match = headers['if-match']
  if (match !== undefined && !matches(match, false)) return 'failed'
  const noneMatch = headers['if-none-match']
  if (noneMatch !== undefined && matches(noneMatch, true)) return 'not-modified'
  return 'proceed'
}

/**
 * For a request that changes what has this tag: to it, every condition that does not hold is a refusal (§13.1.2).
 * @throws ERR_HTTP_PRECONDITION_FAILED
 */
export function checkPreconditions(headers: Preconditions, etag: string | undefined): void {
  const outcome = evaluatePreconditions(headers, etag)
  if (outcome === 'proceed') return
  throw preconditionFailed(outcome === 'failed' ? 'if-match' : 'if-none-match', etag)
}

export function preconditionFailed(
  header: 'if-match' | 'if-none-match',
  etag: string | undefined,
): AppError {
  const current = etag === undefined ? 'there is nothing' : `the current entity tag is ${etag}`
  return new AppError('ERR_HTTP_PRECONDITION_FAILED', `${header} does not hold: ${current}`)
}

/** The conditions of a request, without its other headers. */
export function preconditionsOf(headers: ConditionalHeaders): Preconditions {
  return { 'if-match': headers['if-match'], 'if-none-match': headers['if-none-match'] }
}

/** The entity tag of `/v1/images/REF`: what the reference names. */
export function imageEtag(digest: string): string {
  return `"${digest}"`
}

/** Whether a Range header is to be honoured (§13.1.5): strong comparison, so a weak tag never matches. */
export function rangeApplies(headers: ConditionalHeaders, etag: string): boolean {
  const ifRange = headers['if-range']
  return ifRange === undefined || ifRange.trim() === etag
}

/**
 * Whether a list of entity tags (§8.8.3: `[W/]"…"`, separated by commas) or `*` names the strong tag `etag`.
 * `weak` selects weak comparison (§8.8.3.2). A malformed list matches nothing from its first fault on.
 */
function listMatches(list: string, etag: string, weak: boolean): boolean {
  if (list === etag) return true
  if (list.trim() === '*') return true
  const pattern = /[\t ,]*(W\/)?("[\x21\x23-\x7e\x80-\xff]*")[\t ]*(?:,|$)/y
  for (let found = pattern.exec(list); found !== null; found = pattern.exec(list)) {
    if (found[2] === etag && (weak || found[1] === undefined)) return true
  }
  return false
}
