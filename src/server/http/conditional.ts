/**
 * Conditional requests (RFC 9110 §13) over strong entity tags. Representations here have no modification
 * date (a file's mtime says nothing about when the bytes behind a URL changed), so If-Modified-Since and
 * If-Unmodified-Since are ignored, as §13.1.3 and §13.1.4 demand, and a date in If-Range never matches.
 */
export interface ConditionalHeaders {
  readonly 'if-match'?: string | undefined
  readonly 'if-none-match'?: string | undefined
  readonly 'if-range'?: string | undefined
}

export type Precondition = 'proceed' | 'not-modified' | 'failed'

/** If-Match, then If-None-Match (§13.2.2), for GET and HEAD of something that exists. `etag`: quoted, strong. */
export function evaluatePreconditions(headers: ConditionalHeaders, etag: string): Precondition {
  const match = headers['if-match']
  if (match !== undefined && !listMatches(match, etag, false)) return 'failed'
  const noneMatch = headers['if-none-match']
  if (noneMatch !== undefined && listMatches(noneMatch, etag, true)) return 'not-modified'
  return 'proceed'
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
