/**
 * The error codes of the store and the one place where an operating system error becomes one of them.
 * Nothing here decides what to do about an error.
 */
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
    doc: 'The file system of the data directory has no room: free space, or collect garbage.',
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
    doc: 'An object of the store does not have the form or the digest it must have: restore it, or run scrub.',
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
    http: 412,
    exit: 1,
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
  const errno = errnoOf(error) ?? String(error)
  if (FULL.has(errno)) {
    return new AppError('ERR_STORE_FULL', `no space left to write ${what} (${errno})`, {
      hint: 'free space on the file system of the data directory, or run commonpage gc',
      cause: error,
    })
  }
  return new AppError('ERR_STORE_WRITE_FAILED', `cannot write ${what}: ${errno}`, { cause: error })
}

/** ERR_STORE_READ_FAILED for an operating system error; an AppError passes unchanged. */
export function readError(error: unknown, what: string): AppError {
  if (isAppError(error)) return error
  const errno = errnoOf(error) ?? String(error)
  return new AppError('ERR_STORE_READ_FAILED', `cannot read ${what}: ${errno}`, { cause: error })
}

/** ERR_STORE_CORRUPT. */
export function corrupt(what: string, why: string, cause?: unknown): AppError {
  return new AppError('ERR_STORE_CORRUPT', `${what} is damaged: ${why}`, {
    hint: 'run commonpage scrub, and restore the object from a copy',
    ...(cause === undefined ? {} : { cause }),
  })
}
