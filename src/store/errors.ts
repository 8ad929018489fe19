/**
 * The error codes of the store and the one place where an operating system error becomes one of them.
 * Nothing here decides what to do about an error.
 */
import { getSystemErrorMessage } from 'node:util'

import { AppError, defineErrors, isAppError } from '../core/index.ts'

export const STORE_ERRORS = defineErrors({
  ERR_STORE_LOCKED: {
    http: 503,
    exit: 1,
    doc: 'Another process has the data directory open: stop it, or use another directory.',
  },
  ERR_STORE_FORMAT: {
    http: 500,
    exit: 1,
    doc: 'The data directory is not a store, or was written by a newer version: upgrade, or use another directory.',
  },
  ERR_STORE_UNSUPPORTED: {
    http: 500,
    exit: 1,
    doc: 'This machine cannot run the store (it is big-endian).',
  },
  ERR_STORE_FULL: {
    http: 507,
    nbd: 'ENOSPC',
    exit: 1,
    doc: 'The file system of the data directory has no room: free space there.',
  },
  ERR_STORE_READ_FAILED: {
    http: 502,
    nbd: 'EIO',
    exit: 1,
    doc: 'The storage engine could not read: the log names the object and the cause.',
  },
  ERR_STORE_WRITE_FAILED: {
    http: 500,
    nbd: 'EIO',
    exit: 1,
    doc: 'The storage engine could not write: the log names the object and the cause.',
  },
  ERR_STORE_RANGE: {
    http: 500,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'A range outside of an object was asked for.',
  },
  ERR_STORE_KEY_INVALID: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'A name cannot be a key of the store.',
  },
  ERR_STORE_CORRUPT: {
    http: 502,
    nbd: 'EIO',
    exit: 1,
    doc: 'An object of the store does not have the form or the digest it must have: import the image that it belongs to again, or restore the file from a copy.',
  },
  ERR_STORE_BLOB_MISSING: {
    http: 404,
    nbd: 'EIO',
    exit: 1,
    doc: 'The domain has no blob of this digest.',
  },
  ERR_STORE_MAP_MISSING: {
    http: 404,
    nbd: 'EIO',
    exit: 1,
    doc: 'The domain has no valid address map of this device.',
  },
  ERR_STORE_MANIFEST_MISSING: {
    http: 404,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'The domain has no image record or manifest of this digest.',
  },
  ERR_STORE_DIGEST_MISMATCH: {
    http: 400,
    exit: 1,
    doc: 'Uploaded bytes do not have the digest or size that was announced.',
  },
  ERR_STORE_TOO_LARGE: {
    http: 413,
    exit: 1,
    doc: 'An object is larger than the store takes for its kind.',
  },
  ERR_STORE_REF_CONFLICT: {
    http: 409,
    exit: 4,
    doc: 'The tag was changed by somebody else since it was read: read it again and repeat.',
  },
  ERR_STORE_MEMBER: {
    http: 500,
    exit: 1,
    doc: 'A process that does not own the store tried to change a tag.',
  },
})

export type StoreErrorCode = keyof typeof STORE_ERRORS

/** No space, no quota, no inode: what an administrator solves by making room. */
const FULL = new Set(['ENOSPC', 'EDQUOT'])
/** sqlite3.h: primary result code. */
const SQLITE_FULL = 13
export const FULL_HINT = 'free space on the file system of the data directory'

/** `ENOENT` and the like of an operating system error, otherwise undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || isAppError(error) || !('code' in error)) {
    return undefined
  }
  return typeof error.code === 'string' ? error.code : undefined
}

/** ERR_STORE_FULL or ERR_STORE_WRITE_FAILED for an operating system error; an AppError passes unchanged. */
export function writeError(error: unknown, what: string): AppError {
  if (isAppError(error)) return error
  if (FULL.has(errnoOf(error) ?? '') || sqliteCodeOf(error) === SQLITE_FULL) {
    return new AppError('ERR_STORE_FULL', `no space left to write ${what}: ${reasonOf(error)}`, {
      hint: FULL_HINT,
      cause: error,
    })
  }
  return new AppError('ERR_STORE_WRITE_FAILED', `cannot write ${what}: ${reasonOf(error)}`, {
    cause: error,
  })
}

/** ERR_STORE_READ_FAILED for an operating system error; an AppError passes unchanged. */
export function readError(error: unknown, what: string): AppError {
  if (isAppError(error)) return error
  return new AppError('ERR_STORE_READ_FAILED', `cannot read ${what}: ${reasonOf(error)}`, {
    cause: error,
  })
}

/** The low byte of SQLite's result code, which is the primary code; undefined for other errors. */
export function sqliteCodeOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('errcode' in error)) return undefined
  return typeof error.errcode === 'number' ? error.errcode & 0xff : undefined
}

/** Why, in the words of whoever refused: `permission denied (EACCES)`, `unable to open database file (SQLite 14)`. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if ('errstr' in error && typeof error.errstr === 'string' && 'errcode' in error) {
    return `${error.errstr} (SQLite ${String(error.errcode)})`
  }
  const code = errnoOf(error)
  if (code === undefined || !('errno' in error) || typeof error.errno !== 'number') {
    return error.message
  }
  return `${getSystemErrorMessage(error.errno) ?? error.message} (${code})`
}

/** What reading an object that is damaged ends with. */
const DAMAGE: ReadonlySet<string> = new Set<StoreErrorCode>([
  'ERR_STORE_CORRUPT',
  'ERR_STORE_RANGE',
  'ERR_STORE_READ_FAILED',
  'ERR_STORE_TOO_LARGE',
])
/** Refusals that say something of this process or machine and nothing of the object. */
const EXHAUSTED: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM'])

/**
 * Whether reading an object failed because of the object: what it should say has to come from elsewhere, and
 * one that is stored again may take its place. An object that is not there is not damaged.
 */
export function isDamage(error: unknown): error is AppError {
  if (!isAppError(error) || !DAMAGE.has(error.code)) return false
  return !EXHAUSTED.has(errnoOf(error.cause) ?? '')
}

/** ERR_STORE_CORRUPT. */
export function corrupt(what: string, why: string, cause?: unknown): AppError {
  return new AppError('ERR_STORE_CORRUPT', `${what} is damaged: ${why}`, {
    hint: 'import the image that it belongs to again, or restore the file from a copy',
    ...(cause === undefined ? {} : { cause }),
  })
}
