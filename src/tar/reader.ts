/**
 * Reads a tar archive entry by entry: headers of all forms are put together to one description, and data is left
 * where it is, as ranges of the archive. Synchronous, for the import process. It extracts nothing and follows
 * no path: what a name means is its caller's business.
 */
import { tarError } from './errors.ts'
import type { Header } from './header.ts'
import { BLOCK_BYTES, decodeHeader, TYPE, untilNul } from './header.ts'
import type { PaxRecord, PaxXattr } from './pax.ts'
import { decodeDecimal, decodePax, decodeTime, FILE_TYPE_KEY, xattrOf } from './pax.ts'
import type { Segment } from './sparse.ts'
import { checkSegments, decodeList, decodeOldGnu, LineMap } from './sparse.ts'

export interface TarSource {
  /** Bytes. */
  readonly size: number
  /** Bytes inside [0, size), valid until the next call. */
  view(offset: number, length: number): Buffer
}

export type TarType =
  | 'file'
  | 'link'
  | 'symlink'
  | 'character-device'
  | 'block-device'
  | 'directory'
  | 'fifo'
  | 'socket'

export interface TarEntry {
  readonly type: TarType
  /** As the archive has it: bytes, perhaps with slashes at either end. */
  readonly path: Buffer
  /** Of links and symbolic links. */
  readonly target: Buffer
  /** 0 to 0o7777. */
  readonly permissions: number
  readonly uid: number
  readonly gid: number
  readonly mtimeSeconds: number
  readonly mtimeNanoseconds: number
  readonly xattrs: readonly PaxXattr[]
  readonly device: { readonly major: number; readonly minor: number }
  /** Bytes of the file, holes included. */
  readonly size: number
  /** Byte of the archive where the data starts. */
  readonly dataOffset: number
  /** The ranges of the file that the archive holds, one behind the other; undefined when it holds all of it. */
  readonly segments: readonly Segment[] | undefined
  /** Byte of the archive where the entry starts: for messages. */
  readonly offset: number
}

/** What one extended header may take: long names and xattrs of 64 KiB each fit many times. */
const MAX_EXTENDED_BYTES = 16 * 1024 * 1024
/** Every entry looks at all of them. */
const MAX_GLOBAL_RECORDS = 100
const MAX_ID = 0xffffffff

const TYPES: ReadonlyMap<string, TarType> = new Map([
  [TYPE.REGULAR, 'file'],
  [TYPE.OLD_REGULAR, 'file'],
  [TYPE.CONTIGUOUS, 'file'],
  [TYPE.GNU_SPARSE, 'file'],
  [TYPE.LINK, 'link'],
  [TYPE.SYMLINK, 'symlink'],
  [TYPE.CHARACTER, 'character-device'],
  [TYPE.BLOCK, 'block-device'],
  [TYPE.DIRECTORY, 'directory'],
  [TYPE.GNU_DIRECTORY, 'directory'],
  [TYPE.FIFO, 'fifo'],
])

/** @throws ERR_TAR_BAD_HEADER, ERR_TAR_TRUNCATED, ERR_TAR_UNSUPPORTED */
export function* readTar(source: TarSource): Generator<TarEntry, void, void> {
  const reader = new Reader(source)
  for (let entry = reader.next(); entry !== undefined; entry = reader.next()) yield entry
}

/** Records and names that precede the header they belong to. */
interface Extensions {
  records: PaxRecord[]
  longName: Buffer | undefined
  longLink: Buffer | undefined
}

class Reader {
  readonly #source: TarSource
  #at = 0
  /** Of global headers, by key: they hold until another replaces them. */
  readonly #global = new Map<string, PaxRecord>()

  constructor(source: TarSource) {
    this.#source = source
  }

  next(): TarEntry | undefined {
    const extensions: Extensions = { records: [], longName: undefined, longLink: undefined }
    for (;;) {
      const offset = this.#at
      const block = this.#block(offset)
      const header = decodeHeader(block, offset)
      if (header === undefined) return undefined
      if (!this.#takeExtension(header, offset, extensions)) {
        return this.#entry(header, offset, extensions)
      }
    }
  }

  /** @returns false for the header of an entry */
  #takeExtension(header: Header, offset: number, into: Extensions): boolean {
    switch (header.type) {
      case TYPE.PAX:
      case TYPE.SUN_PAX:
        into.records = into.records.concat(decodePax(this.#extended(header, offset), offset))
        return true
      case TYPE.PAX_GLOBAL:
        this.#takeGlobal(decodePax(this.#extended(header, offset), offset), offset)
        return true
      case TYPE.GNU_LONG_NAME:
        into.longName = Buffer.from(untilNul(this.#extended(header, offset)))
        return true
      case TYPE.GNU_LONG_LINK:
        into.longLink = Buffer.from(untilNul(this.#extended(header, offset)))
        return true
      case TYPE.GNU_VOLUME:
        this.#skip(offset, header.size)
        return true
      default:
        return false
    }
  }

  #takeGlobal(records: readonly PaxRecord[], offset: number): void {
    for (const record of records) this.#global.set(record.key, record)
    if (this.#global.size <= MAX_GLOBAL_RECORDS) return
    throw tarError(
      'ERR_TAR_BAD_HEADER',
      `the global header at byte ${offset} is one too many: ${MAX_GLOBAL_RECORDS} fields can hold for all entries`,
    )
  }

  #extended(header: Header, offset: number): Buffer {
    if (header.size > MAX_EXTENDED_BYTES) {
      throw tarError(
        'ERR_TAR_BAD_HEADER',
        `the extended header at byte ${offset} has ${header.size} bytes, at most ${MAX_EXTENDED_BYTES} are read`,
      )
    }
    const bytes = Buffer.from(this.#bytes(offset + BLOCK_BYTES, header.size))
    this.#skip(offset, header.size)
    return bytes
  }

  #entry(header: Header, offset: number, extensions: Extensions): TarEntry {
    const pax = new PaxFields([...this.#global.values()].concat(extensions.records), offset)
    const path = pax.path ?? extensions.longName ?? header.name
    const type = pax.isSocket ? 'socket' : typeOf(header, path, offset)
    const storedSize = type === 'file' ? (pax.number('size') ?? header.size) : 0
    const data = this.#data(header, pax, storedSize, offset)
    const mtime = pax.mtime ?? { seconds: header.mtime, nanoseconds: 0 }
    return {
      type,
      path,
      target: pax.bytes('linkpath') ?? extensions.longLink ?? header.linkName,
      permissions: header.mode,
      uid: this.#id(pax.number('uid') ?? header.uid, offset),
      gid: this.#id(pax.number('gid') ?? header.gid, offset),
      mtimeSeconds: mtime.seconds,
      mtimeNanoseconds: mtime.nanoseconds,
      xattrs: pax.xattrs,
      device: { major: header.deviceMajor, minor: header.deviceMinor },
      offset,
      ...data,
    }
  }

  /** Moves behind the entry. */
  #data(
    header: Header,
    pax: PaxFields,
    storedSize: number,
    offset: number,
  ): Pick<TarEntry, 'size' | 'dataOffset' | 'segments'> {
    const start = offset + BLOCK_BYTES
    if (header.type === TYPE.GNU_SPARSE) {
      const head = Buffer.from(this.#block(offset))
      const map = decodeOldGnu(head, offset, (behind) => this.#block(offset + behind))
      this.#skip(offset + map.extraBytes, storedSize)
      checkSegments(map.segments, map.realSize, storedSize, offset)
      return {
        size: map.realSize,
        dataOffset: start + map.extraBytes,
        segments: map.segments,
      }
    }
    this.#skip(offset, storedSize)
    const realSize = pax.number('GNU.sparse.realsize') ?? pax.number('GNU.sparse.size')
    if (realSize === undefined) return { size: storedSize, dataOffset: start, segments: undefined }
    if (pax.number('GNU.sparse.major') !== 1) {
      const segments = decodeList(pax.sparseList, offset)
      checkSegments(segments, realSize, storedSize, offset)
      return { size: realSize, dataOffset: start, segments }
    }
    const map = new LineMap(offset)
    let mapBytes = 0
    for (let done = false; !done; mapBytes += BLOCK_BYTES) {
      if (mapBytes >= storedSize) {
        throw tarError('ERR_TAR_BAD_HEADER', `the sparse file at byte ${offset} has no whole map`)
      }
      done = map.push(this.#block(start + mapBytes))
    }
    checkSegments(map.segments, realSize, storedSize - mapBytes, offset)
    return { size: realSize, dataOffset: start + mapBytes, segments: map.segments }
  }

  #id(value: number, offset: number): number {
    if (value <= MAX_ID) return value
    throw tarError(
      'ERR_TAR_BAD_HEADER',
      `the entry at byte ${offset} has a user or group above ${MAX_ID}`,
    )
  }

  #skip(offset: number, dataBytes: number): void {
    const end = offset + BLOCK_BYTES + Math.ceil(dataBytes / BLOCK_BYTES) * BLOCK_BYTES
    if (end > this.#source.size) throw truncated(this.#source.size, offset)
    this.#at = end
  }

  #block(offset: number): Buffer {
    return this.#bytes(offset, BLOCK_BYTES)
  }

  #bytes(offset: number, length: number): Buffer {
    if (offset + length > this.#source.size) throw truncated(this.#source.size, offset)
    return this.#source.view(offset, length)
  }
}

/** The records of one entry: of several with one key, the last one counts. */
class PaxFields {
  readonly xattrs: readonly PaxXattr[]
  readonly #values = new Map<string, Buffer>()
  readonly #pairs: string[] = []
  readonly #offset: number

  constructor(records: readonly PaxRecord[], offset: number) {
    this.#offset = offset
    const xattrs = new Map<string, PaxXattr>()
    for (const record of records) {
      const xattr = xattrOf(record)
      if (xattr !== undefined) xattrs.set(xattr.name.toString('latin1'), xattr)
      // 0.0 repeats these keys, one pair for each segment
      else if (/^GNU\.sparse\.(offset|numbytes)$/.test(record.key)) {
        this.#pairs.push(record.value.toString('latin1'))
      } else if (record.value.length === 0) {
        this.#values.delete(record.key)
      } else this.#values.set(record.key, record.value)
    }
    this.xattrs = [...xattrs.values()]
  }

  get path(): Buffer | undefined {
    return this.#values.get('GNU.sparse.name') ?? this.#values.get('path')
  }

  get mtime(): ReturnType<typeof decodeTime> {
    const value = this.#values.get('mtime')
    return value === undefined ? undefined : this.#valid('mtime', decodeTime(value))
  }

  get sparseList(): Buffer {
    return this.#values.get('GNU.sparse.map') ?? Buffer.from(this.#pairs.join(','), 'latin1')
  }

  get isSocket(): boolean {
    return this.#values.get(FILE_TYPE_KEY)?.toString('latin1') === 'socket'
  }

  bytes(key: string): Buffer | undefined {
    return this.#values.get(key)
  }

  number(key: string): number | undefined {
    const value = this.#values.get(key)
    return value === undefined ? undefined : this.#valid(key, decodeDecimal(value))
  }

  #valid<T>(key: string, value: T | undefined): T {
    if (value !== undefined) return value
    throw tarError(
      'ERR_TAR_BAD_HEADER',
      `the entry at byte ${this.#offset} has no valid ${key} in its extended header`,
    )
  }
}

function typeOf(header: Header, path: Buffer, offset: number): TarType {
  const type = TYPES.get(header.type)
  if (type === undefined) {
    const shown = /[!-~]/.test(header.type)
      ? `'${header.type}'`
      : `0x${header.type.charCodeAt(0).toString(16)}`
    throw tarError('ERR_TAR_UNSUPPORTED', `the entry at byte ${offset} is of the type ${shown}`)
  }
  // v7 had no directories: a name with a slash at its end was one
  const isOld = type === 'file' && path.at(-1) === 0x2f
  return isOld ? 'directory' : type
}

function truncated(size: number, offset: number): Error {
  return tarError(
    'ERR_TAR_TRUNCATED',
    `the archive ends at byte ${size}, in or before the entry at byte ${offset}: it was cut short`,
  )
}
