/**
 * The package's one error class, its closed list of codes, and how failures of an export become the eight
 * error values that NBD knows. Nothing here writes to the wire.
 */
import type { NbdErrno } from './protocol.ts'

/** Every code with what it means and what to do about it. */
export const NBD_ERRORS = {
  ERR_NBD_PROTOCOL: 'The client broke the protocol; the connection is closed.',
  ERR_NBD_LIMIT: 'The client went over a limit of the server; the connection is closed.',
  ERR_NBD_HANDSHAKE_TIMEOUT: 'The client did not open an export within its handshake time.',
  ERR_NBD_PROVIDER_TIMEOUT:
    'Opening, describing or listing exports took longer than it may; the client is told ERR_PLATFORM.',
  ERR_NBD_SLOW_READER: 'The client left replies unread for longer than the slow-reader deadline.',
  ERR_NBD_OPEN: 'The export cannot be opened; the error reply says why.',
  ERR_NBD_EXPORT:
    'An export broke its contract, for example by replying with a wrong number of bytes.',
  ERR_NBD_READ: 'A read failed after part of its reply had been sent.',
  ERR_NBD_CONNECTION_LOST: 'The connection ended before its exchange did.',
  ERR_NBD_STATE: 'The server is used in a way its state does not allow, for example after drain().',
} as const

export type NbdErrorCode = keyof typeof NBD_ERRORS

export class NbdError extends Error {
  readonly code: NbdErrorCode

  constructor(code: NbdErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'NbdError'
    this.code = code
  }
}

/** Why an export is refused: the part of NBD_REP_ERR_* that may answer INFO and GO. */
export type NbdRefusal = 'UNKNOWN' | 'POLICY' | 'SHUTDOWN' | 'PLATFORM' | 'TLS_REQD'

/**
 * Thrown by ExportProvider.open() and info(): answered as NBD_REP_ERR_<refusal> with the message as text;
 * EXPORT_NAME, which has no error reply, closes the connection.
 */
export class NbdOpenError extends NbdError {
  readonly refusal: NbdRefusal

  constructor(refusal: NbdRefusal, message: string, cause?: unknown) {
    super('ERR_NBD_OPEN', message, cause)
    this.name = 'NbdOpenError'
    this.refusal = refusal
  }
}

/**
 * NBD proto: "Error values": everything outside of the list is mapped to the nearest in it. Keys are the
 * `code` of Node's system errors.
 */
const ERRNO_OF_CODE: ReadonlyMap<unknown, NbdErrno> = new Map(
  Object.entries({
    EPERM: 'EPERM',
    EACCES: 'EPERM',
    EROFS: 'EPERM',
    EIO: 'EIO',
    ENOMEM: 'ENOMEM',
    EINVAL: 'EINVAL',
    ERR_OUT_OF_RANGE: 'EINVAL',
    ENOSPC: 'ENOSPC',
    EDQUOT: 'ENOSPC',
    EFBIG: 'ENOSPC',
    EOVERFLOW: 'EOVERFLOW',
    ENOTSUP: 'ENOTSUP',
    EOPNOTSUPP: 'ENOTSUP',
    ENOSYS: 'ENOTSUP',
  } as const),
)

/** The NBD error value of whatever an export threw. Unknown causes are EIO. */
export function toNbdErrno(error: unknown): NbdErrno {
  if (typeof error !== 'object' || error === null || !('code' in error)) return 'EIO'
  return ERRNO_OF_CODE.get(error.code) ?? 'EIO'
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
