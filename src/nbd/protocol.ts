/**
 * The numbers of the NBD protocol under the specification's own names (NBD proto: "Values"), and the way
 * back from a number to its name. Nothing here encodes, decides or keeps state.
 */

/** Magics are two u32 halves, high first: a 64-bit literal does not fit a JavaScript number. */
export const NBD_MAGIC = {
  /** ASCII `NBDMAGIC`. */
  INIT: [0x4e42444d, 0x41474943],
  /** ASCII `IHAVEOPT`. */
  OPTION: [0x49484156, 0x454f5054],
  OPTION_REPLY: [0x0003e889, 0x045565a9],
} as const

export const NBD_REQUEST_MAGIC = 0x25609513
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef

/** Handshake flags, server to client (u16). */
export const NBD_FLAG = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const

/** Client flags (u32). */
export const NBD_FLAG_C = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const

/** Transmission flags (u16). */
export const NBD_EXPORT_FLAG = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
  BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const

export const NBD_OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const

/** Option reply types; errors have bit 31 set. */
export const NBD_REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const

export const NBD_INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

export const NBD_CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const

export const NBD_CMD_FLAG = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
  PAYLOAD_LEN: 1 << 5,
} as const

export const NBD_REPLY_FLAG = { DONE: 1 << 0 } as const

/** Structured reply chunk types; bit 15 marks an error. */
export const NBD_REPLY_TYPE = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const

/** The only error values that may appear on the wire (NBD proto: "Error values"). */
export const NBD_E = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const

export type NbdErrno = keyof typeof NBD_E

/** NBD proto: "String values": at most 4096 bytes, no NUL. */
export const NBD_MAX_STRING = 4096

/** Fixed sizes of the messages, in bytes. */
export const NBD_SIZE = {
  GREETING: 18,
  CLIENT_FLAGS: 4,
  OPTION_HEADER: 16,
  OPTION_REPLY_HEADER: 20,
  EXPORT_NAME_ZEROES: 124,
  REQUEST: 28,
  SIMPLE_REPLY: 16,
  CHUNK_HEADER: 20,
  /** The u64 offset in front of the bytes of an OFFSET_DATA chunk. */
  CHUNK_OFFSET: 8,
  /** u32 error and u16 text length in front of the text of an ERROR chunk. */
  CHUNK_ERROR: 6,
} as const

/** IANA's port for NBD. */
export const NBD_DEFAULT_PORT = 10809

/**
 * The specification's name of a value: `nameOf(NBD_OPT, 'NBD_OPT', 7)` is `NBD_OPT_GO`; a value the table
 * does not hold is given in hex, `NBD_OPT_0x2a`.
 */
export function nameOf(
  table: Readonly<Record<string, number>>,
  prefix: string,
  value: number,
): string {
  for (const [name, number] of Object.entries(table))
    if (number === value) return `${prefix}_${name}`
  return `${prefix}_0x${value.toString(16)}`
}
