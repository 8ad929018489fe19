/**
 * The Range header (RFC 9110 §14.1.2, §14.2) as a pure function: text and size in, the byte ranges to send
 * out. Ranges stay in the order of the request and are never joined: clients count the parts. It decides
 * nothing about status codes beyond naming the outcome.
 */
import { MAX_RANGES } from './limits.ts'

export interface ByteRange {
  readonly offset: number
  /** At least 1. */
  readonly length: number
}

export type RangeOutcome =
  /** The header does not apply: send the whole representation. */
  | { readonly kind: 'whole' }
  | { readonly kind: 'ranges'; readonly ranges: readonly ByteRange[] }
  | { readonly kind: 'unsatisfiable' }
  | { readonly kind: 'malformed' }
  | { readonly kind: 'too-many' }

const WHOLE: RangeOutcome = { kind: 'whole' }
const UNSATISFIABLE: RangeOutcome = { kind: 'unsatisfiable' }
const MALFORMED: RangeOutcome = { kind: 'malformed' }
const TOO_MANY: RangeOutcome = { kind: 'too-many' }

const UNIT = 'bytes='
const SPACE = 0x20
const TAB = 0x09
const DASH = 0x2d
const ZERO = 0x30
const NINE = 0x39

/**
 * What a Range header asks of `size` bytes. An unknown unit and an empty representation are answered whole,
 * and so are ranges that together ask for more than the whole (they overlap: RFC 9110 §14.2 on attacks).
 * Positions beyond 2^53 − 1 saturate, so they clamp as RFC 9110 wants of positions beyond the end.
 */
export function parseRange(header: string, size: number): RangeOutcome {
  if (size === 0 || !hasByteUnit(header)) return WHOLE
  const ranges: ByteRange[] = []
  let specs = 0
  let total = 0
  let at = UNIT.length
  while (at < header.length) {
    let end = header.indexOf(',', at)
    if (end < 0) end = header.length
    const from = skipBlank(header, at, end)
    const to = trimBlank(header, from, end)
    at = end + 1
    if (from === to) continue // an empty list element (RFC 9110 §5.6.1.2)
    if (++specs > MAX_RANGES) return TOO_MANY
    const range = parseSpec(header, from, to, size)
    if (range === 'malformed') return MALFORMED
    if (range === 'unsatisfiable') continue
    ranges.push(range)
    total += range.length
  }
  if (specs === 0) return MALFORMED
  if (ranges.length === 0) return UNSATISFIABLE
  return total > size ? WHOLE : { kind: 'ranges', ranges }
}

function hasByteUnit(header: string): boolean {
  return (
    header.startsWith(UNIT) ||
    header.slice(0, UNIT.length).toLowerCase() === UNIT /* range units are case-insensitive */
  )
}

/** One range-spec: `first-`, `first-last` or `-suffix`. */
function parseSpec(
  text: string,
  from: number,
  to: number,
  size: number,
): ByteRange | 'malformed' | 'unsatisfiable' {
  let dash = from
  while (dash < to && isDigit(text.charCodeAt(dash))) dash++
  if (text.charCodeAt(dash) !== DASH || dash >= to) return 'malformed'
  for (let i = dash + 1; i < to; i++) if (!isDigit(text.charCodeAt(i))) return 'malformed'
  const hasFirst = dash > from
  const hasLast = dash + 1 < to
  if (!hasFirst) {
    if (!hasLast) return 'malformed'
    const suffix = Math.min(readNumber(text, dash + 1, to), size)
    return suffix === 0 ? 'unsatisfiable' : { offset: size - suffix, length: suffix }
  }
  const first = readNumber(text, from, dash)
  const last = hasLast ? readNumber(text, dash + 1, to) : size - 1
  if (hasLast && last < first) return 'malformed'
  if (first >= size) return 'unsatisfiable'
  return { offset: first, length: Math.min(last, size - 1) - first + 1 }
}

function readNumber(text: string, from: number, to: number): number {
  let value = 0
  for (let i = from; i < to; i++) value = value * 10 + (text.charCodeAt(i) - ZERO)
  return Math.min(value, Number.MAX_SAFE_INTEGER)
}

function isDigit(code: number): boolean {
  return code >= ZERO && code <= NINE
}

function isBlank(code: number): boolean {
  return code === SPACE || code === TAB
}

function skipBlank(text: string, from: number, to: number): number {
  while (from < to && isBlank(text.charCodeAt(from))) from++
  return from
}

function trimBlank(text: string, from: number, to: number): number {
  while (to > from && isBlank(text.charCodeAt(to - 1))) to--
  return to
}
