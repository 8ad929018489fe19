/**
 * Text that is safe and aligned on a terminal: escaped names, visible width, percent-encoded bytes. Names
 * come from images and may hold anything, so nothing reaches a terminal before it went through here.
 */
import { stripVTControlCharacters } from 'node:util'

import { AppError, shortDigest } from '../../core/index.ts'
import type { Digest } from '../../core/index.ts'

/** C0, DEL, C1, line and paragraph separators, direction overrides: what can move a cursor or lie. */
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g

/** A name as a person may see it: control characters become `\xHH` or `\u{HHHH}`. */
export function escapeName(name: string): string {
  return name.replaceAll(UNSAFE, (character) => {
    const code = character.codePointAt(0) ?? 0
    const hex = code.toString(16)
    return code < 0x100 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`
  })
}

/**
 * A name from the API (percent-encoded where it is not UTF-8, and for `%`) as a person may see it: bytes
 * that form UTF-8 are shown as such, others as `\xHH`.
 */
export function showEncodedName(encoded: string): string {
  return splitUtf8(percentDecode(encoded))
}

function splitUtf8(bytes: Uint8Array): string {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let shown = ''
  let index = 0
  while (index < buffer.length) {
    const length = utf8Length(buffer[index] ?? 0)
    const slice = buffer.subarray(index, index + length)
    const text = slice.toString('utf8')
    if (length > 0 && slice.length === length && !text.includes('\ufffd')) {
      shown += escapeName(text)
      index += length
    } else {
      shown += `\\x${(buffer[index] ?? 0).toString(16).padStart(2, '0')}`
      index += 1
    }
  }
  return shown
}

function utf8Length(lead: number): number {
  if (lead < 0x80) return 1
  if (lead >= 0xc2 && lead < 0xe0) return 2
  if (lead >= 0xe0 && lead < 0xf0) return 3
  if (lead >= 0xf0 && lead < 0xf5) return 4
  return 0
}

/** The bytes of a name in which bytes may be written `%HH`; a lone `%` stands for itself. */
function percentDecode(text: string): Uint8Array {
  const source = Buffer.from(text, 'utf8')
  const bytes = Buffer.alloc(source.length)
  let length = 0
  for (let index = 0; index < source.length; index++) {
    const hex = source.toString('latin1', index + 1, index + 3)
    if (source[index] === 0x25 && /^[0-9a-f]{2}$/i.test(hex)) {
      bytes[length++] = Number.parseInt(hex, 16)
      index += 2
    } else {
      bytes[length++] = source[index] ?? 0
    }
  }
  return bytes.subarray(0, length)
}

/**
 * A PATH argument as a path of the API: UTF-8 or bytes as `%HH`; `%` itself is `%25`. Leading slashes are
 * dropped, everything that is not unreserved is encoded.
 * @throws ERR_CLI_USAGE for a `%` without two hex digits, and for U+FFFD, which Node puts where the
 *   argument's bytes were not UTF-8
 */
export function encodePathArgument(argument: string): string {
  if (argument.includes('\ufffd')) {
    throw new AppError(
      'ERR_CLI_USAGE',
      `'${escapeName(argument)}' holds bytes that are not UTF-8`,
      {
        hint: 'write such bytes as %HH, for example caf%E9',
      },
    )
  }
  if (/%(?![0-9a-f]{2})/i.test(argument)) {
    throw new AppError(
      'ERR_CLI_USAGE',
      `'${escapeName(argument)}' has a % without two hex digits`,
      {
        hint: 'a percent sign in a name is written %25',
      },
    )
  }
  const segments = argument.split('/').filter((segment) => segment !== '')
  return segments.map((segment) => percentEncode(percentDecode(segment))).join('/')
}

/** Segments of a path that the API itself encoded (names of a listing), ready for a URL. */
export function encodeListedName(name: string): string {
  return percentEncode(percentDecode(name))
}

function percentEncode(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) {
    const character = String.fromCharCode(byte)
    text += /[A-Za-z0-9._~-]/.test(character)
      ? character
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return text
}

/** Columns that the text takes on a terminal: escape sequences none, wide characters two. */
export function visibleWidth(text: string): number {
  let width = 0
  for (const character of stripVTControlCharacters(text)) {
    const code = character.codePointAt(0) ?? 0
    if (/\p{Mark}/u.test(character)) continue
    width += isWide(code) ? 2 : 1
  }
  return width
}

/** East Asian wide and emoji blocks (UAX #11), enough for alignment. */
function isWide(code: number): boolean {
  return (
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1f64f) ||
    (code >= 0x1f900 && code <= 0x1f9ff) ||
    (code >= 0x20000 && code <= 0x3fffd)
  )
}

export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - visibleWidth(text)))
}

export function padStart(text: string, width: number): string {
  return ' '.repeat(Math.max(0, width - visibleWidth(text))) + text
}

/** `REF@sha256:…` with the digest short, for tables. */
export function shortRef(ref: string): string {
  return ref.replace(/sha256:([0-9a-f]{12})[0-9a-f]{52}$/, 'sha256:$1')
}

export function shortDigestOf(digest: string): string {
  return shortDigest(digest as Digest)
}

/** 1234567 → `1,234,567`. */
export function formatCount(count: number): string {
  return count.toLocaleString('en-US')
}

/** `1 image`, `2 images`. */
export function plural(count: number, noun: string): string {
  const ending = /(s|x|ch)$/.test(noun) ? 'es' : 's'
  const many = /[^aeiou]y$/.test(noun) ? `${noun.slice(0, -1)}ies` : noun + ending
  return `${formatCount(count)} ${count === 1 ? noun : many}`
}

/** RFC 3339 → `3m ago`, for people; the JSON output keeps the time. */
export function relativeTime(time: string | undefined, now: number): string {
  if (time === undefined) return '-'
  const seconds = Math.max(0, Math.round((now - Date.parse(time)) / 1000))
  if (!Number.isFinite(seconds)) return '-'
  if (seconds < 60) return `${seconds}s ago`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ago`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ago`
  return `${Math.floor(seconds / 86_400)}d ago`
}
