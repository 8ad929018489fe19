/**
 * What a client may open, by name: the grammar that NBD export names and HTTP data paths share. `-` is no
 * OCI name component, so `/-/` always separates a reference from what is meant inside it.
 *
 *     REF                        the flattened view
 *     REF/-/raw                  the same (HTTP's spelling)
 *     REF/-/dev/N                one device
 *     REF/-/files/PATH           a file inside
 *     DOMAIN/-/blobs/sha256:HEX  a blob
 */
import type { Digest, Ref } from '../core/index.ts'
import { AppError, isDigest, isDomain, parseRef } from '../core/index.ts'

export type ExportTarget =
  | { readonly kind: 'image'; readonly ref: Ref }
  | { readonly kind: 'device'; readonly ref: Ref; readonly device: number }
  | { readonly kind: 'file'; readonly ref: Ref; readonly path: Uint8Array }
  | { readonly kind: 'blob'; readonly domain: string; readonly digest: Digest }

const SEPARATOR = '/-/'

/** @throws ERR_EXPORT_NOT_FOUND for a name outside the grammar, ERR_REF_INVALID for a bad reference */
export function parseExportName(name: string): ExportTarget {
  const at = name.indexOf(SEPARATOR)
  if (at < 0) return { kind: 'image', ref: parseRef(name) }
  const head = name.slice(0, at)
  const tail = name.slice(at + SEPARATOR.length)
  if (tail === 'raw') return { kind: 'image', ref: parseRef(head) }
  const slash = tail.indexOf('/')
  const kind = slash < 0 ? tail : tail.slice(0, slash)
  const rest = slash < 0 ? '' : tail.slice(slash + 1)
  switch (kind) {
    case 'dev':
      if (/^(0|[1-9]\d{0,4})$/.test(rest))
        return { kind: 'device', ref: parseRef(head), device: Number(rest) }
      break
    case 'files':
      return { kind: 'file', ref: parseRef(head), path: decodePath(rest) }
    case 'blobs':
      if (isDomain(head) && isDigest(rest)) return { kind: 'blob', domain: head, digest: rest }
      break
  }
  throw new AppError('ERR_EXPORT_NOT_FOUND', `'${name}' is not the name of an export`, {
    hint: 'names are REF, REF/-/dev/N, REF/-/files/PATH or DOMAIN/-/blobs/sha256:HEX',
  })
}

/** The bytes of a percent-encoded path; what is not percent-encoded is UTF-8. @throws ERR_INVALID_ARGUMENT */
export function decodePath(text: string): Uint8Array {
  const raw = Buffer.from(text, 'utf8')
  const bytes = Buffer.allocUnsafe(raw.length) // overwritten up to `length`, the rest is cut off
  let length = 0
  for (let i = 0; i < raw.length; i++) {
    let byte = raw[i] ?? 0
    if (byte === 0x25) {
      const digits = raw.toString('latin1', i + 1, i + 3)
      if (!/^[0-9a-fA-F]{2}$/.test(digits)) {
        throw new AppError(
          'ERR_INVALID_ARGUMENT',
          `'%${digits}' in a path is not a percent-encoded byte`,
        )
      }
      byte = Number.parseInt(digits, 16)
      i += 2
    }
    bytes[length++] = byte
  }
  return bytes.subarray(0, length)
}

/** The reverse: bytes that are not UTF-8, controls and `%` are percent-encoded, all else stays readable. */
export function encodePath(path: Uint8Array): string {
  const bytes = Buffer.from(path.buffer, path.byteOffset, path.byteLength)
  const text = bytes.toString('utf8')
  if (!text.includes('\uFFFD') || Buffer.from(text, 'utf8').equals(bytes)) {
    return text.replace(/[%\u0000-\u001f\u007f]/g, (char) => percent(char.charCodeAt(0)))
  }
  let out = ''
  for (const byte of bytes) {
    out += byte >= 0x20 && byte < 0x7f && byte !== 0x25 ? String.fromCharCode(byte) : percent(byte)
  }
  return out
}

function percent(byte: number): string {
  return `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
}
