/**
 * The wire form of every NBD message, in both directions, as pure functions over bytes: no state, no
 * socket, no decision about what a message means.
 */
import { NbdError } from './errors.ts'
import type { NbdErrno } from './protocol.ts'
import {
  NBD_E,
  NBD_FLAG,
  NBD_INFO,
  NBD_MAGIC,
  NBD_MAX_STRING,
  NBD_REPLY_FLAG,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_SIZE,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './protocol.ts'

export const TWO_32 = 0x1_0000_0000

/** One request of the transmission phase. The cookie is opaque: two u32 halves, copied, never compared. */
export interface RequestHeader {
  magic: number
  flags: number
  type: number
  cookieHigh: number
  cookieLow: number
  /** Bytes; inexact above 2^53, which is beyond the end of every export. */
  offset: number
  length: number
}

export function emptyRequest(): RequestHeader {
  return { magic: 0, flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 }
}

/** Reads the 28 bytes at `at` into `into` (NBD proto: "Request message"). */
export function decodeRequest(view: DataView, at: number, into: RequestHeader): void {
  into.magic = view.getUint32(at)
  into.flags = view.getUint16(at + 4)
  into.type = view.getUint16(at + 6)
  into.cookieHigh = view.getUint32(at + 8)
  into.cookieLow = view.getUint32(at + 12)
  into.offset = view.getUint32(at + 16) * TWO_32 + view.getUint32(at + 20)
  into.length = view.getUint32(at + 24)
}

/** The header in front of the bytes of a successful read, or the whole reply of any other command. */
export function replyHeaderSize(structured: boolean, length: number): number {
  if (!structured) return NBD_SIZE.SIMPLE_REPLY
  return length === 0 ? NBD_SIZE.CHUNK_HEADER : NBD_SIZE.CHUNK_HEADER + NBD_SIZE.CHUNK_OFFSET
}

/**
 * Writes the header of a reply without error: `length` bytes of data follow it. Structured replies are one
 * OFFSET_DATA chunk, or NONE when there is nothing to carry (NBD proto: "Structured reply message").
 */
export function encodeReply(
  view: DataView,
  at: number,
  structured: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  if (!structured) {
    view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC)
    view.setUint32(at + 4, 0)
    view.setUint32(at + 8, cookieHigh)
    view.setUint32(at + 12, cookieLow)
  } else if (length === 0) {
    encodeChunkHeader(view, at, NBD_REPLY_FLAG.DONE, NBD_REPLY_TYPE.NONE, cookieHigh, cookieLow, 0)
  } else {
    encodeDataChunk(view, at, NBD_REPLY_FLAG.DONE, cookieHigh, cookieLow, offset, length)
  }
}

/** Header and offset of an OFFSET_DATA chunk; `length` bytes of data follow. */
export function encodeDataChunk(
  view: DataView,
  at: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  const size = length + NBD_SIZE.CHUNK_OFFSET
  encodeChunkHeader(view, at, flags, NBD_REPLY_TYPE.OFFSET_DATA, cookieHigh, cookieLow, size)
  view.setUint32(at + 20, Math.floor(offset / TWO_32))
  view.setUint32(at + 24, offset % TWO_32)
}

export function encodeChunkHeader(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): void {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setUint32(at + 8, cookieHigh)
  view.setUint32(at + 12, cookieLow)
  view.setUint32(at + 16, length)
}

/** A whole error reply: simple, or an ERROR chunk with DONE and the text. */
export function encodeError(
  structured: boolean,
  cookieHigh: number,
  cookieLow: number,
  errno: NbdErrno,
  message: string,
): Buffer {
  if (!structured) {
    const reply = Buffer.alloc(NBD_SIZE.SIMPLE_REPLY)
    reply.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, 0)
    reply.writeUInt32BE(NBD_E[errno], 4)
    reply.writeUInt32BE(cookieHigh, 8)
    reply.writeUInt32BE(cookieLow, 12)
    return reply
  }
  const text = encodeText(message, MAX_TEXT_BYTES)
  const length = NBD_SIZE.CHUNK_ERROR + text.length
  const reply = Buffer.alloc(NBD_SIZE.CHUNK_HEADER + length)
  const view = new DataView(reply.buffer, reply.byteOffset, reply.length)
  const { DONE } = NBD_REPLY_FLAG
  encodeChunkHeader(view, 0, DONE, NBD_REPLY_TYPE.ERROR, cookieHigh, cookieLow, length)
  reply.writeUInt32BE(NBD_E[errno], 20)
  reply.writeUInt16BE(text.length, 24)
  text.copy(reply, 26)
  return reply
}

/** An ERROR_OFFSET chunk with DONE: the read failed at byte `offset` of the export. */
export function encodeErrorOffset(
  cookieHigh: number,
  cookieLow: number,
  errno: NbdErrno,
  message: string,
  offset: number,
): Buffer {
  const text = encodeText(message, MAX_TEXT_BYTES)
  const length = NBD_SIZE.CHUNK_ERROR + text.length + NBD_SIZE.CHUNK_OFFSET
  const reply = Buffer.alloc(NBD_SIZE.CHUNK_HEADER + length)
  const view = new DataView(reply.buffer, reply.byteOffset, reply.length)
  const { DONE } = NBD_REPLY_FLAG
  encodeChunkHeader(view, 0, DONE, NBD_REPLY_TYPE.ERROR_OFFSET, cookieHigh, cookieLow, length)
  reply.writeUInt32BE(NBD_E[errno], 20)
  reply.writeUInt16BE(text.length, 24)
  text.copy(reply, 26)
  writeSize(reply, 26 + text.length, offset)
  return reply
}

/** NBD proto: "Fixed newstyle negotiation": both magics and the handshake flags. */
export function encodeGreeting(): Buffer {
  const greeting = Buffer.alloc(NBD_SIZE.GREETING)
  writeMagic(greeting, 0, NBD_MAGIC.INIT)
  writeMagic(greeting, 8, NBD_MAGIC.OPTION)
  greeting.writeUInt16BE(NBD_FLAG.FIXED_NEWSTYLE | NBD_FLAG.NO_ZEROES, 16)
  return greeting
}

export interface OptionHeader {
  readonly magicValid: boolean
  readonly option: number
  readonly length: number
}

export function decodeOptionHeader(bytes: Buffer): OptionHeader {
  const [high, low] = NBD_MAGIC.OPTION
  return {
    magicValid: bytes.readUInt32BE(0) === high && bytes.readUInt32BE(4) === low,
    option: bytes.readUInt32BE(8),
    length: bytes.readUInt32BE(12),
  }
}

/** One option reply, header and data in one piece: `nbd-client -l` reads its fields by single read()s. */
export function encodeOptionReply(option: number, type: number, data: Buffer = EMPTY): Buffer {
  const reply = Buffer.alloc(NBD_SIZE.OPTION_REPLY_HEADER + data.length)
  writeMagic(reply, 0, NBD_MAGIC.OPTION_REPLY)
  reply.writeUInt32BE(option, 8)
  reply.writeUInt32BE(type, 12)
  reply.writeUInt32BE(data.length, 16)
  data.copy(reply, 20)
  return reply
}

/** An error reply with its text. The text ends with a full stop: nbd-client overwrites its last byte. */
export function encodeOptionError(option: number, type: number, message: string): Buffer {
  const text = encodeText(message, MAX_TEXT_BYTES - FULL_STOP.length)
  const stopped = text.length === 0 || text.subarray(-1).equals(FULL_STOP)
  return encodeOptionReply(option, type, stopped ? text : Buffer.concat([text, FULL_STOP]))
}

export function encodeListEntry(option: number, type: number, name: string, text: string): Buffer {
  const nameBytes = Buffer.from(name)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(nameBytes.length)
  return encodeOptionReply(
    option,
    type,
    Buffer.concat([length, nameBytes, encodeText(text, MAX_TEXT_BYTES)]),
  )
}

/** The data of NBD_INFO_EXPORT. */
export function encodeInfoExport(size: number, flags: number): Buffer {
  const data = Buffer.alloc(12)
  data.writeUInt16BE(NBD_INFO.EXPORT, 0)
  writeSize(data, 2, size)
  data.writeUInt16BE(flags, 10)
  return data
}

/** The data of NBD_INFO_NAME and NBD_INFO_DESCRIPTION. */
export function encodeInfoText(type: number, text: string): Buffer {
  const bytes = encodeText(text, MAX_TEXT_BYTES)
  const data = Buffer.alloc(2 + bytes.length)
  data.writeUInt16BE(type, 0)
  bytes.copy(data, 2)
  return data
}

/** The data of NBD_INFO_BLOCK_SIZE. */
export function encodeInfoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  const data = Buffer.alloc(14)
  data.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 0)
  data.writeUInt32BE(minimum, 2)
  data.writeUInt32BE(preferred, 6)
  data.writeUInt32BE(maximum, 10)
  return data
}

/** The answer to EXPORT_NAME. */
export function encodeExportName(size: number, flags: number, zeroes: boolean): Buffer {
  const reply = Buffer.alloc(10 + (zeroes ? NBD_SIZE.EXPORT_NAME_ZEROES : 0))
  writeSize(reply, 0, size)
  reply.writeUInt16BE(flags, 8)
  return reply
}

export interface InfoRequest {
  readonly name: string
  /** NBD_INFO_* numbers as asked for; unknown ones are to be ignored. */
  readonly infos: readonly number[]
}

/**
 * The data of NBD_OPT_INFO and NBD_OPT_GO.
 * @throws ERR_NBD_PROTOCOL when its lengths do not add up or the name is no valid string
 */
export function decodeInfoRequest(data: Buffer): InfoRequest {
  if (data.length < 6)
    throw protocolError(`option data of ${data.length} bytes, expected at least 6`)
  const nameLength = data.readUInt32BE(0)
  if (nameLength > data.length - 6) {
    throw protocolError(`name of ${nameLength} bytes does not fit option data of ${data.length}`)
  }
  const name = decodeName(data.subarray(4, 4 + nameLength))
  const count = data.readUInt16BE(4 + nameLength)
  const expected = 6 + nameLength + 2 * count
  if (data.length !== expected) {
    throw protocolError(`option data of ${data.length} bytes, expected ${expected}`)
  }
  const infos = Array.from({ length: count }, (_, i) => data.readUInt16BE(6 + nameLength + 2 * i))
  return { name, infos }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * An export name (NBD proto: "String values").
 * @throws ERR_NBD_PROTOCOL unless it is UTF-8 without NUL of at most 4096 bytes
 */
export function decodeName(bytes: Buffer): string {
  if (bytes.length > NBD_MAX_STRING) {
    throw protocolError(`name of ${bytes.length} bytes, expected at most ${NBD_MAX_STRING}`)
  }
  if (bytes.includes(0)) throw protocolError('name with a NUL byte')
  try {
    return UTF8.decode(bytes)
  } catch {
    throw protocolError('name that is not UTF-8')
  }
}

const EMPTY = Buffer.alloc(0)
const FULL_STOP = Buffer.from('.')

/** nbd-client reads texts below 4096 bytes only and loses its place behind longer ones. */
export const MAX_TEXT_BYTES = 4000

/** UTF-8 bytes of the text, cut before the character that would exceed `limit` bytes. */
export function encodeText(text: string, limit: number): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.length <= limit) return bytes
  let end = limit
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return bytes.subarray(0, end)
}

function writeMagic(bytes: Buffer, at: number, [high, low]: readonly [number, number]): void {
  bytes.writeUInt32BE(high, at)
  bytes.writeUInt32BE(low, at + 4)
}

function writeSize(bytes: Buffer, at: number, size: number): void {
  bytes.writeUInt32BE(Math.floor(size / TWO_32), at)
  bytes.writeUInt32BE(size % TWO_32, at + 4)
}

function protocolError(message: string): NbdError {
  return new NbdError('ERR_NBD_PROTOCOL', message)
}
