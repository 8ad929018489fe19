/**
 * Extended attributes: the area after an inode (header, shared ids, inline entries), single entries, and
 * how a name is put together from prefix index and rest. Reads nothing itself.
 *
 * The name filter in the header is not used: it saves the kernel a scan for one absent name, and here the
 * whole area arrives in one read anyway.
 */
import { erofsError } from './errors.ts'
import {
  EROFS_NAME_LEN,
  EROFS_XATTR_INDEX,
  EROFS_XATTR_LONG_PREFIX,
  EROFS_XATTR_LONG_PREFIX_MASK,
  XATTR_ENTRY,
  XATTR_ENTRY_SIZE,
  XATTR_IBODY,
  XATTR_IBODY_SIZE,
  XATTR_LONG_PREFIX,
  XATTR_LONG_PREFIX_LENGTH_SIZE,
  XATTR_UNIT,
} from './layout.ts'
import { viewOf } from './little-endian.ts'
import type { Nid } from './nid.ts'
import { formatNid } from './nid.ts'

/**
 * Bytes of names and values that one inode may have: its inline area is at most 256 KiB, but up to 255
 * shared entries of 64 KiB could follow, the same one again and again.
 */
export const MAX_XATTR_BYTES = 4 * 1024 * 1024

export interface Xattr {
  /** Full name with prefix, as bytes. */
  readonly name: Uint8Array
  readonly value: Uint8Array
  /** The kernel does not list it: internal attributes (index 0), or a namespace that EROFS does not serve. */
  readonly hidden: boolean
}

/** An entry as stored. */
export interface XattrEntry {
  readonly nameIndex: number
  /** Name after the prefix. */
  readonly rest: Uint8Array
  readonly value: Uint8Array
}

/** erofs_fs.h: struct erofs_xattr_long_prefix. */
export interface LongPrefix {
  readonly baseIndex: number
  readonly infix: Uint8Array
}

export interface XattrArea {
  /** Positions in the shared area, in units of 4 bytes from its start. */
  readonly sharedIds: readonly number[]
  readonly entries: readonly XattrEntry[]
}

/** The bytes between an inode's header and its data, a multiple of 4. @throws ERR_EROFS_BAD_XATTR */
export function decodeXattrArea(bytes: Uint8Array, nid: Nid): XattrArea {
  const view = viewOf(bytes)
  const sharedCount = view.getUint8(XATTR_IBODY.h_shared_count)
  let off = XATTR_IBODY_SIZE + sharedCount * XATTR_UNIT
  if (off > bytes.byteLength) {
    throw bad(`inode ${formatNid(nid)} has ${sharedCount} shared ids in ${bytes.byteLength} bytes`)
  }
  const sharedIds = Array.from({ length: sharedCount }, (_, index) =>
    view.getUint32(XATTR_IBODY_SIZE + index * XATTR_UNIT, true),
  )
  const entries: XattrEntry[] = []
  while (off < bytes.byteLength) {
    const entry = decodeXattrEntry(bytes.subarray(off))
    entries.push(entry)
    off += alignedEntrySize(entry)
  }
  return { sharedIds, entries }
}

/** Bytes of the entry whose first XATTR_ENTRY_SIZE bytes these are, without padding. */
export function xattrEntrySize(head: Uint8Array): number {
  const view = viewOf(head)
  const nameLength = view.getUint8(XATTR_ENTRY.e_name_len)
  return XATTR_ENTRY_SIZE + nameLength + view.getUint16(XATTR_ENTRY.e_value_size, true)
}

/** The entry at the start of `bytes`; copies. @throws ERR_EROFS_BAD_XATTR */
export function decodeXattrEntry(bytes: Uint8Array): XattrEntry {
  const size = bytes.byteLength < XATTR_ENTRY_SIZE ? XATTR_ENTRY_SIZE : xattrEntrySize(bytes)
  if (size > bytes.byteLength) {
    throw bad(`an xattr entry needs ${size} bytes, only ${bytes.byteLength} are left`)
  }
  const view = viewOf(bytes)
  const nameEnd = XATTR_ENTRY_SIZE + view.getUint8(XATTR_ENTRY.e_name_len)
  return {
    nameIndex: view.getUint8(XATTR_ENTRY.e_name_index),
    rest: bytes.slice(XATTR_ENTRY_SIZE, nameEnd),
    value: bytes.slice(nameEnd, size),
  }
}

function alignedEntrySize(entry: XattrEntry): number {
  const size = XATTR_ENTRY_SIZE + entry.rest.byteLength + entry.value.byteLength
  return Math.ceil(size / XATTR_UNIT) * XATTR_UNIT
}

export function usesLongPrefix(entry: XattrEntry): boolean {
  return (entry.nameIndex & EROFS_XATTR_LONG_PREFIX) !== 0
}

/** An entry that a writer puts in to fill the space: no name, no value. */
export function isPadding(entry: XattrEntry): boolean {
  return entry.nameIndex === 0 && entry.rest.byteLength === 0 && entry.value.byteLength === 0
}

/** @throws ERR_EROFS_BAD_XATTR for a long prefix that is not in the table */
export function resolveXattr(entry: XattrEntry, prefixes: readonly LongPrefix[]): Xattr {
  if (!usesLongPrefix(entry)) {
    const base = BASE_PREFIXES.get(entry.nameIndex)
    const name = Buffer.concat([base?.bytes ?? EMPTY, entry.rest])
    return { name, value: entry.value, hidden: base?.listed !== true }
  }
  const index = entry.nameIndex & EROFS_XATTR_LONG_PREFIX_MASK
  const prefix = prefixes[index]
  if (prefix === undefined) {
    throw bad(`an entry uses long prefix ${index}, the table has ${prefixes.length}`)
  }
  const base = BASE_PREFIXES.get(prefix.baseIndex)
  const name = Buffer.concat([base?.bytes ?? EMPTY, prefix.infix, entry.rest])
  return { name, value: entry.value, hidden: base?.listed !== true }
}

/**
 * The most that a table of `count` prefixes takes: each a length, a base index, an infix no longer than a
 * name, and padding.
 */
export function maxPrefixTableSize(count: number): number {
  const record = XATTR_LONG_PREFIX_LENGTH_SIZE + XATTR_LONG_PREFIX.infix + EROFS_NAME_LEN
  return count * (Math.ceil(record / XATTR_UNIT) * XATTR_UNIT)
}

/** `bytes` may go on after the table. @throws ERR_EROFS_BAD_XATTR */
export function decodePrefixTable(bytes: Uint8Array, count: number): LongPrefix[] {
  const view = viewOf(bytes)
  const prefixes: LongPrefix[] = []
  let off = 0
  while (prefixes.length < count) {
    const start = off + XATTR_LONG_PREFIX_LENGTH_SIZE
    if (start > bytes.byteLength) throw bad(`the table of ${count} long prefixes is cut short`)
    const length = view.getUint16(off, true)
    const infixLength = length - XATTR_LONG_PREFIX.infix
    if (infixLength < 0 || infixLength > EROFS_NAME_LEN || start + length > bytes.byteLength) {
      throw bad(
        `long prefix ${prefixes.length} has ${length} bytes, expected 1 to 256 in the table`,
      )
    }
    prefixes.push({
      baseIndex: view.getUint8(start + XATTR_LONG_PREFIX.base_index),
      infix: bytes.slice(start + XATTR_LONG_PREFIX.infix, start + length),
    })
    off = Math.ceil((start + length) / XATTR_UNIT) * XATTR_UNIT
  }
  return prefixes
}

const EMPTY = new Uint8Array(0)

// fs/erofs/xattr.h: erofs_xattr_prefix. The kernel has no handler for lustre and so never lists it.
const BASE_PREFIXES: ReadonlyMap<number, { readonly bytes: Uint8Array; readonly listed: boolean }> =
  new Map(
    (
      [
        [EROFS_XATTR_INDEX.HIDDEN, '', false],
        [EROFS_XATTR_INDEX.USER, 'user.', true],
        [EROFS_XATTR_INDEX.POSIX_ACL_ACCESS, 'system.posix_acl_access', true],
        [EROFS_XATTR_INDEX.POSIX_ACL_DEFAULT, 'system.posix_acl_default', true],
        [EROFS_XATTR_INDEX.TRUSTED, 'trusted.', true],
        [EROFS_XATTR_INDEX.LUSTRE, 'lustre.', false],
        [EROFS_XATTR_INDEX.SECURITY, 'security.', true],
      ] as const
    ).map(([index, text, listed]) => [index, { bytes: new TextEncoder().encode(text), listed }]),
  )

/**
 * The prefix index and the rest of a full name; undefined for a namespace that has no index.
 * (fs/erofs/xattr.h: erofs_xattr_prefix; the access control lists are whole names.)
 */
export function splitXattrName(
  name: Uint8Array,
): { readonly index: number; readonly rest: Uint8Array } | undefined {
  for (const [index, { bytes, listed }] of BASE_PREFIXES) {
    if (!listed || Buffer.compare(name.subarray(0, bytes.byteLength), bytes) !== 0) continue
    const rest = name.subarray(bytes.byteLength)
    const isWhole = WHOLE_NAMES.has(index)
    if (isWhole === (rest.byteLength === 0)) return { index, rest }
  }
  return undefined
}

const WHOLE_NAMES: ReadonlySet<number> = new Set([
  EROFS_XATTR_INDEX.POSIX_ACL_ACCESS,
  EROFS_XATTR_INDEX.POSIX_ACL_DEFAULT,
])

function bad(message: string): Error {
  return erofsError('ERR_EROFS_BAD_XATTR', `bad extended attributes: ${message}`)
}
