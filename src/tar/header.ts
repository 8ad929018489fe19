/**
 * One 512-byte header of a tar archive: POSIX ustar, the older v7 form and GNU's. Decodes fields and checks the
 * sum; what a type means, and which header belongs to which entry, is the reader's.
 *
 * Sources: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
 */
import { tarError } from './errors.ts'

export const BLOCK_BYTES = 512
export const SPACE = 0x20

/** Byte offset and length of each field. */
export const FIELD = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  chksum: [148, 8],
  typeflag: [156, 1],
  linkname: [157, 100],
  magic: [257, 6],
  devmajor: [329, 8],
  devminor: [337, 8],
  prefix: [345, 155],
} as const

/** typeflag, as one character. */
export const TYPE = {
  REGULAR: '0',
  /** v7 wrote NUL. */
  OLD_REGULAR: '\0',
  LINK: '1',
  SYMLINK: '2',
  CHARACTER: '3',
  BLOCK: '4',
  DIRECTORY: '5',
  FIFO: '6',
  CONTIGUOUS: '7',
  PAX_GLOBAL: 'g',
  PAX: 'x',
  /** Sun's older form of PAX. */
  SUN_PAX: 'X',
  GNU_LONG_NAME: 'L',
  GNU_LONG_LINK: 'K',
  GNU_SPARSE: 'S',
  GNU_DIRECTORY: 'D',
  GNU_VOLUME: 'V',
} as const

export interface Header {
  readonly name: Buffer
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of data that follow, for the types that have data. */
  readonly size: number
  /** Seconds since 1970. */
  readonly mtime: number
  /** One character. */
  readonly type: string
  readonly linkName: Buffer
  readonly deviceMajor: number
  readonly deviceMinor: number
}

/** Undefined for a block of zeros, which ends an archive. @throws ERR_TAR_BAD_HEADER */
export function decodeHeader(block: Buffer, offset: number): Header | undefined {
  if (isZero(block)) return undefined
  const sum = number(block, 'chksum', offset)
  if (sum !== sumOf(block, false) && sum !== sumOf(block, true)) {
    throw tarError(
      'ERR_TAR_BAD_HEADER',
      `no tar header at byte ${offset}: its checksum does not match`,
    )
  }
  const magic = field(block, 'magic').toString('latin1')
  // GNU's own form has no prefix: other things are there
  const isUstar = magic === 'ustar\0'
  const name = text(block, 'name')
  const prefix = isUstar ? text(block, 'prefix') : EMPTY
  const type = String.fromCharCode(block[FIELD.typeflag[0]] ?? 0)
  // with other types, and in the oldest form, anything may be there
  const hasDevice = (isUstar || magic === 'ustar ') && DEVICE_TYPES.includes(type)
  return {
    name: prefix.length === 0 ? name : Buffer.concat([prefix, SLASH, name]),
    mode: number(block, 'mode', offset) & 0o7777,
    uid: number(block, 'uid', offset),
    gid: number(block, 'gid', offset),
    size: number(block, 'size', offset),
    mtime: number(block, 'mtime', offset),
    type,
    linkName: text(block, 'linkname'),
    deviceMajor: hasDevice ? number(block, 'devmajor', offset) : 0,
    deviceMinor: hasDevice ? number(block, 'devminor', offset) : 0,
  }
}

/**
 * A numeric field: octal digits between spaces and NULs, or, with the first bit set, a big-endian two's complement
 * number (GNU tar manual, "Extensions to the tar Archive Format").
 */
export function decodeNumber(bytes: Buffer): number | undefined {
  const first = bytes[0] ?? 0
  if ((first & 0x80) !== 0) {
    // 0xff starts a negative number, 0x80 a positive one.
    let value = first === 0xff ? -1 : first & 0x3f
    for (const byte of bytes.subarray(1)) value = value * 256 + byte
    return Number.isSafeInteger(value) ? value : undefined
  }
  const digits = bytes.toString('latin1').replace(/^[ \0]+|[ \0][^]*$/g, '')
  if (digits === '') return 0
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined
}

export function untilNul(bytes: Buffer): Buffer {
  const nul = bytes.indexOf(0)
  return nul < 0 ? bytes : bytes.subarray(0, nul)
}

export function isZero(block: Buffer): boolean {
  return block.equals(ZEROS)
}

const EMPTY = Buffer.alloc(0)
/** Character and block devices. */
const DEVICE_TYPES = '34'
const SLASH = Buffer.from('/')
const ZEROS = Buffer.alloc(BLOCK_BYTES)

type FieldName = keyof typeof FIELD

function field(block: Buffer, name: FieldName): Buffer {
  const [at, length] = FIELD[name]
  return block.subarray(at, at + length)
}

/** A copy, so that the block is not kept alive. */
function text(block: Buffer, name: FieldName): Buffer {
  return Buffer.from(untilNul(field(block, name)))
}

function number(block: Buffer, name: FieldName, offset: number): number {
  const value = decodeNumber(field(block, name))
  if (value !== undefined && (value >= 0 || name === 'mtime')) return value
  throw tarError('ERR_TAR_BAD_HEADER', `the header at byte ${offset} has no valid ${name}`)
}

/** Sum of all bytes, those of the checksum itself counted as spaces. Old writers took bytes for signed ones. */
function sumOf(block: Buffer, signed: boolean): number {
  const [at, length] = FIELD.chksum
  let sum = 0
  for (const [index, byte] of block.entries()) {
    const isSum = index >= at && index < at + length
    sum += isSum ? SPACE : signed && byte > 127 ? byte - 256 : byte
  }
  return sum
}
