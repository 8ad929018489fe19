/**
 * PAX extended headers: records "LENGTH KEY=VALUE\n" whose values replace fields of the header that follows, carry
 * extended attributes and describe sparse files. Values are bytes; nothing is taken for UTF-8.
 *
 * Sources: POSIX.1-2017, pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files" and "xattrs".
 */
import { tarError } from './errors.ts'
import { SPACE } from './header.ts'

export interface PaxRecord {
  /** One character for each byte. */
  readonly key: string
  readonly value: Buffer
}

export interface PaxXattr {
  readonly name: Buffer
  readonly value: Buffer
}

const EQUALS = 0x3d
const NEWLINE = 0x0a

/** A file's fields and attributes; the map of a sparse file in the form 0.0 has two for each range. */
const MAX_RECORDS = 200_000

/** @throws ERR_TAR_BAD_HEADER */
export function decodePax(bytes: Buffer, offset: number): PaxRecord[] {
  const bad = (): Error =>
    tarError('ERR_TAR_BAD_HEADER', `the extended header at byte ${offset} is damaged`)
  const records: PaxRecord[] = []
  for (let at = 0; at < bytes.length;) {
    // some writers pad the last block's rest with NULs and count it
    if (bytes[at] === 0) break
    const space = bytes.indexOf(SPACE, at)
    const digits = space < 0 ? '' : bytes.toString('latin1', at, space)
    const end = at + Number(digits)
    if (!/^[1-9][0-9]{0,9}$/.test(digits) || end > bytes.length || bytes[end - 1] !== NEWLINE) {
      throw bad()
    }
    const equals = bytes.indexOf(EQUALS, space)
    if (equals < 0 || equals >= end || records.length >= MAX_RECORDS) throw bad()
    records.push({
      key: bytes.toString('latin1', space + 1, equals),
      value: Buffer.from(bytes.subarray(equals + 1, end - 1)),
    })
    at = end
  }
  return records
}

/** Ours: `socket` for a fifo entry that stands for a socket, which tar has no type for. */
export const FILE_TYPE_KEY = 'COMMONPAGE.filetype'

const SCHILY_XATTR = 'SCHILY.xattr.'
const LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.'

/** GNU tar, star, bsdtar and Go write the first form; bsdtar the second as well, in base64 and percent-encoded. */
export function xattrOf({ key, value }: PaxRecord): PaxXattr | undefined {
  if (key.startsWith(SCHILY_XATTR)) {
    return { name: Buffer.from(key.slice(SCHILY_XATTR.length), 'latin1'), value }
  }
  if (key.startsWith(LIBARCHIVE_XATTR)) {
    const name = key
      .slice(LIBARCHIVE_XATTR.length)
      .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
        String.fromCharCode(Number.parseInt(hex, 16)),
      )
    const raw = Buffer.from(value.toString('latin1'), 'base64')
    return { name: Buffer.from(name, 'latin1'), value: raw }
  }
  return undefined
}

/** "SECONDS[.FRACTION]", negative ones too; undefined when it is none. */
export function decodeTime(
  value: Buffer,
): { readonly seconds: number; readonly nanoseconds: number } | undefined {
  const match = /^(-?)(\d{1,16})(?:\.(\d*))?$/.exec(value.toString('latin1'))
  if (match === null) return undefined
  const nanoseconds = Number((match[3] ?? '').padEnd(9, '0').slice(0, 9))
  const seconds = Number(match[2])
  if (!Number.isSafeInteger(seconds)) return undefined
  if (match[1] === '') return { seconds, nanoseconds }
  // -1.25 is 1.25 seconds before 1970: second -2 and 0.75 of it
  return nanoseconds === 0
    ? { seconds: -seconds, nanoseconds: 0 }
    : { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds }
}

/** A decimal number that is not negative; undefined when it is none. */
export function decodeDecimal(value: Buffer): number | undefined {
  const text = value.toString('latin1')
  const number = Number(text)
  return /^\d{1,16}$/.test(text) && Number.isSafeInteger(number) ? number : undefined
}
