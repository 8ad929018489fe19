/**
 * Extended attributes as the writer stores them: what several inodes of a layer have goes to the shared area
 * once, the rest behind the inode's header. Names become a prefix index and a rest (fs/erofs/xattr.h).
 */
import {
  EROFS_XATTR_LONG_PREFIX,
  XATTR_ENTRY,
  XATTR_ENTRY_SIZE,
  XATTR_IBODY,
  XATTR_IBODY_SIZE,
  XATTR_UNIT,
} from '../layout.ts'
import { viewOf } from '../little-endian.ts'
import { splitXattrName } from '../xattr.ts'
import { roundUp } from './placement.ts'
import type { NodeXattr } from './tree.ts'

/** e_name_len is a byte, e_value_size a u16, and i_xattr_icount counts 4 bytes in a u16. */
const MAX_NAME_REST = 255
const MAX_VALUE_BYTES = 65_535
const MAX_IBODY_BYTES = XATTR_IBODY_SIZE + XATTR_UNIT * 65_534
/** h_shared_count is a byte. */
const MAX_SHARED = 255

/** The long prefix that fingerprints have: the first of the table (Linux 7.0). */
export const FINGERPRINT_PREFIX_ID = 0

/** Whether EROFS has room for an attribute: not for namespaces that it has no index for. */
export function storableXattr(name: Uint8Array, value: Uint8Array): boolean {
  const split = splitXattrName(name)
  return (
    split !== undefined &&
    split.rest.byteLength <= MAX_NAME_REST &&
    value.byteLength <= MAX_VALUE_BYTES
  )
}

/** Whether all of them together fit behind one inode, be none of them shared. */
export function xattrsFit(xattrs: readonly NodeXattr[]): boolean {
  const bytes = xattrs.reduce((sum, xattr) => sum + encodeEntry(xattr).byteLength, 0)
  return XATTR_IBODY_SIZE + bytes + FINGERPRINT_ROOM <= MAX_IBODY_BYTES
}

const FINGERPRINT_ROOM = 64

/** The shared area: grows by layers, so that the ids of a base hold in all that derives from it. */
export class SharedXattrs {
  /** Entries by their own bytes, as a latin1 string: the id, in units of 4 bytes. */
  readonly #ids = new Map<string, number>()
  readonly #chunks: Buffer[] = []
  #size = 0

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks)
  }

  /** Takes in what at least two of these inodes have and where sharing saves bytes. */
  addCommon(inodes: Iterable<readonly NodeXattr[]>): void {
    const counts = new Map<string, number>()
    for (const xattrs of inodes) {
      for (const xattr of xattrs) {
        const key = encodeEntry(xattr).toString('latin1')
        if (!this.#ids.has(key)) counts.set(key, (counts.get(key) ?? 0) + 1)
      }
    }
    const common = [...counts].filter(([, count]) => count > 1).map(([key]) => key)
    for (const key of common.sort((a, b) => (a < b ? -1 : 1))) {
      this.#ids.set(key, this.#size / XATTR_UNIT)
      const bytes = Buffer.from(key, 'latin1')
      this.#chunks.push(bytes)
      this.#size += bytes.byteLength
    }
  }

  id(entry: Buffer): number | undefined {
    return this.#ids.get(entry.toString('latin1'))
  }
}

const NO_BYTES = Buffer.alloc(0)

/**
 * The area between an inode's header and its data: shared ids, then entries, in the order of their bytes.
 * Empty when there are none.
 *
 * @param fingerprint value of the attribute whose whole name is the fingerprint prefix
 */
export function encodeXattrBody(
  xattrs: readonly NodeXattr[],
  shared: SharedXattrs,
  fingerprint?: Uint8Array,
): Buffer {
  if (xattrs.length === 0 && fingerprint === undefined) return NO_BYTES
  const ids: number[] = []
  const entries: Buffer[] = []
  for (const xattr of xattrs) {
    const entry = encodeEntry(xattr)
    const id = ids.length < MAX_SHARED ? shared.id(entry) : undefined
    if (id === undefined) entries.push(entry)
    else ids.push(id)
  }
  entries.sort((a, b) => Buffer.compare(a, b))
  if (fingerprint !== undefined) {
    entries.push(
      encode(EROFS_XATTR_LONG_PREFIX | FINGERPRINT_PREFIX_ID, Buffer.alloc(0), fingerprint),
    )
  }
  const head = Buffer.alloc(XATTR_IBODY_SIZE + ids.length * XATTR_UNIT)
  head.writeUInt8(ids.length, XATTR_IBODY.h_shared_count)
  for (const [index, id] of ids.sort((a, b) => a - b).entries()) {
    head.writeUInt32LE(id, XATTR_IBODY_SIZE + index * XATTR_UNIT)
  }
  return Buffer.concat([head, ...entries])
}

/** i_xattr_icount of an area of so many bytes (erofs_fs.h: erofs_xattr_ibody_size). */
export function xattrCount(bodySize: number): number {
  return bodySize === 0 ? 0 : (bodySize - XATTR_IBODY_SIZE) / XATTR_UNIT + 1
}

function encodeEntry({ name, value }: NodeXattr): Buffer {
  const split = splitXattrName(name)
  if (split === undefined) throw new RangeError('an attribute that EROFS cannot store')
  return encode(split.index, split.rest, value)
}

function encode(index: number, rest: Uint8Array, value: Uint8Array): Buffer {
  const size = XATTR_ENTRY_SIZE + rest.byteLength + value.byteLength
  const bytes = Buffer.alloc(roundUp(size, XATTR_UNIT))
  const view = viewOf(bytes)
  view.setUint8(XATTR_ENTRY.e_name_len, rest.byteLength)
  view.setUint8(XATTR_ENTRY.e_name_index, index)
  view.setUint16(XATTR_ENTRY.e_value_size, value.byteLength, true)
  bytes.set(rest, XATTR_ENTRY_SIZE)
  bytes.set(value, XATTR_ENTRY_SIZE + rest.byteLength)
  return bytes
}
