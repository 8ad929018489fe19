/** Headers of entries that have no data, with everything that may not fit in records before them (PAX). */
import { BLOCK_BYTES, FIELD, SPACE, TYPE } from './header.ts'
import { FILE_TYPE_KEY } from './pax.ts'

export interface SocketEntry {
  /** Bytes, without slashes at either end. */
  readonly path: Buffer
  /** 0 to 0o7777. */
  readonly permissions: number
  readonly uid: number
  readonly gid: number
  /** Nanoseconds since 1970. */
  readonly mtimeNs: bigint
}

const NS_PER_SECOND = 1_000_000_000n

/**
 * A Unix socket, which tar has no type for: a fifo whose extended header says what it is. Programs that do not
 * know the record make a fifo of it.
 */
export function encodeSocket(entry: SocketEntry): Buffer {
  const records = Buffer.concat([
    record('path', entry.path),
    record('uid', String(entry.uid)),
    record('gid', String(entry.gid)),
    record('mtime', decimalTime(entry.mtimeNs)),
    record(FILE_TYPE_KEY, 'socket'),
  ])
  const padding = (BLOCK_BYTES - (records.length % BLOCK_BYTES)) % BLOCK_BYTES
  return Buffer.concat([
    header(TYPE.PAX, 'PaxHeader', 0o644, records.length),
    records,
    Buffer.alloc(padding),
    header(TYPE.FIFO, 'socket', entry.permissions, 0),
  ])
}

/** POSIX.1-2017, pax: the length counts its own digits. */
function record(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([
    Buffer.from(` ${key}=`, 'latin1'),
    Buffer.from(value),
    Buffer.from('\n'),
  ])
  let length = rest.length
  while (String(length).length + rest.length !== length) {
    length = String(length).length + rest.length
  }
  return Buffer.concat([Buffer.from(String(length), 'latin1'), rest])
}

/** Seconds and their fraction; before 1970 both are negative, as one number is. */
function decimalTime(nanoseconds: bigint): string {
  const size = nanoseconds < 0n ? -nanoseconds : nanoseconds
  const fraction = String(size % NS_PER_SECOND).padStart(9, '0')
  return `${nanoseconds < 0n ? '-' : ''}${size / NS_PER_SECOND}.${fraction}`
}

function header(type: string, name: string, permissions: number, size: number): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES)
  const put = (field: keyof typeof FIELD, text: string): void => {
    block.write(text, FIELD[field][0], 'latin1')
  }
  put('name', name)
  put('mode', octal(permissions, 7))
  put('uid', octal(0, 7))
  put('gid', octal(0, 7))
  put('size', octal(size, 11))
  put('mtime', octal(0, 11))
  put('typeflag', type)
  put('magic', 'ustar\x0000')
  block.fill(SPACE, FIELD.chksum[0], FIELD.chksum[0] + FIELD.chksum[1])
  const sum = block.reduce((total, byte) => total + byte, 0)
  put('chksum', `${octal(sum, 6)}\0 `)
  return block
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, '0')
}
