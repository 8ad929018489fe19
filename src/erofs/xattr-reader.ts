/**
 * Brings together the attributes of one inode: its own area, entries of the shared area, and the long
 * prefix table, wherever the image keeps them. Holds the prefix table (at most 64 KiB) once it was needed.
 */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import { erofsError } from './errors.ts'
import { hasCompat } from './features.ts'
import type { Inode } from './inode.ts'
import { EROFS_XATTR_LONG_PREFIX, XATTR_ENTRY_SIZE, XATTR_UNIT } from './layout.ts'
import { formatNid } from './nid.ts'
import type { Superblock } from './superblock.ts'
import type { LongPrefix, Xattr, XattrEntry } from './xattr.ts'
import {
  decodePrefixTable,
  decodeXattrArea,
  decodeXattrEntry,
  isPadding,
  MAX_XATTR_BYTES,
  maxPrefixTableSize,
  resolveXattr,
  usesLongPrefix,
  xattrEntrySize,
} from './xattr.ts'

/** Where the image keeps things. */
export interface XattrContext {
  readonly sb: Superblock
  readonly primary: ByteSource
  metadataOf(inode: Inode, options?: ReadOptions): Promise<ByteSource>
  metabox(options?: ReadOptions): Promise<ByteSource>
  /** Data of the packed inode; undefined when the image has none. */
  packed(options?: ReadOptions): Promise<ByteSource | undefined>
}

/** Read at first for a shared entry: most names and values fit. */
const SHARED_ENTRY_GUESS = 256

export class XattrReader {
  readonly #context: XattrContext
  #prefixes: readonly LongPrefix[] | undefined

  constructor(context: XattrContext) {
    this.#context = context
  }

  /** All attributes, hidden ones included; shared ones last. @throws ERR_EROFS_BAD_XATTR */
  async read(inode: Inode, options?: ReadOptions): Promise<Xattr[]> {
    const entries = await this.#entries(inode, options)
    const prefixes = entries.some(usesLongPrefix) ? await this.prefixes(options) : []
    return entries.map((entry) => resolveXattr(entry, prefixes))
  }

  /**
   * The value of the attribute that ISHARE_XATTRS names; undefined when the image or the inode has none.
   * @throws ERR_EROFS_BAD_XATTR
   */
  async fingerprint(inode: Inode, options?: ReadOptions): Promise<Uint8Array | undefined> {
    const id = this.#context.sb.fingerprintPrefixId
    if (id === undefined) return undefined
    const entries = await this.#entries(inode, options)
    const index = EROFS_XATTR_LONG_PREFIX | id
    return entries.find((entry) => entry.nameIndex === index && entry.rest.byteLength === 0)?.value
  }

  /** The long prefix table. @throws ERR_EROFS_BAD_XATTR */
  async prefixes(options?: ReadOptions): Promise<readonly LongPrefix[]> {
    if (this.#prefixes !== undefined) return this.#prefixes
    const { sb } = this.#context
    if (sb.xattrPrefixCount === 0) return []
    const source = await this.#prefixSource(options)
    const left = source.size - sb.xattrPrefixOffset
    const length = Math.min(maxPrefixTableSize(sb.xattrPrefixCount), left)
    if (length <= 0) throw outside('the long prefix table', sb.xattrPrefixOffset, source)
    const bytes = await source.read(sb.xattrPrefixOffset, length, options)
    this.#prefixes = decodePrefixTable(bytes, sb.xattrPrefixCount)
    return this.#prefixes
  }

  async #entries(inode: Inode, options?: ReadOptions): Promise<XattrEntry[]> {
    if (inode.xattrSize === 0) return []
    const source = await this.#context.metadataOf(inode, options)
    const start = inode.offset + inode.headerSize
    const what = `xattrs of inode ${formatNid(inode.nid)}`
    if (start + inode.xattrSize > source.size) throw outside(what, start, source)
    const area = decodeXattrArea(await source.read(start, inode.xattrSize, options), inode.nid)
    const entries = area.entries.filter((entry) => !isPadding(entry))
    let bytes = inode.xattrSize
    for (const id of area.sharedIds) {
      const entry = await this.#shared(id, options)
      entries.push(entry)
      bytes += entry.rest.byteLength + entry.value.byteLength
      if (bytes > MAX_XATTR_BYTES) {
        throw erofsError('ERR_EROFS_BAD_XATTR', `${what} have more than ${MAX_XATTR_BYTES} bytes`)
      }
    }
    return entries
  }

  // fs/erofs/xattr.c: erofs_xattr_iter_shared.
  async #shared(id: number, options?: ReadOptions): Promise<XattrEntry> {
    const { sb } = this.#context
    const source = hasCompat(sb.features, 'SHARED_EA_IN_METABOX')
      ? await this.#context.metabox(options)
      : this.#context.primary
    const offset = sb.xattrBlkaddr * sb.blockSize + id * XATTR_UNIT
    if (offset + XATTR_ENTRY_SIZE > source.size) throw outside(`shared xattr ${id}`, offset, source)
    const guess = Math.min(SHARED_ENTRY_GUESS, source.size - offset)
    const head = await source.read(offset, guess, options)
    const size = xattrEntrySize(head)
    if (size <= guess) return decodeXattrEntry(head)
    if (offset + size > source.size) throw outside(`shared xattr ${id}`, offset, source)
    return decodeXattrEntry(await source.read(offset, size, options))
  }

  // fs/erofs/xattr.c: erofs_xattr_prefixes_init.
  async #prefixSource(options?: ReadOptions): Promise<ByteSource> {
    const { sb, primary } = this.#context
    if (hasCompat(sb.features, 'PLAIN_XATTR_PFX')) return primary
    if (sb.metaboxNid !== undefined) return this.#context.metabox(options)
    return (await this.#context.packed(options)) ?? primary
  }
}

function outside(what: string, offset: number, source: ByteSource): Error {
  return erofsError(
    'ERR_EROFS_BAD_XATTR',
    `${what} at byte ${offset} runs over the end of what holds it at ${source.size}`,
  )
}
