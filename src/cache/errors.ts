/** The error codes of the page cache. Nothing here knows when they are raised. */
import { defineErrors } from '../core/index.ts'

export const CACHE_ERRORS = defineErrors({
  ERR_CACHE_TOO_SMALL: {
    http: 400,
    exit: 2,
    doc: 'The cache size is below 64 MiB. Give a larger --cache-size; --allow-tiny-cache is for tests.',
  },
  ERR_CACHE_PAGE_CORRUPT: {
    http: 502,
    nbd: 'EIO',
    exit: 6,
    doc: 'Bytes read from the store do not have the digest that was recorded for them. They were not served. Suspect the disk: the log names the blob, restore its file from a copy.',
  },
  ERR_CACHE_FILL_TIMEOUT: {
    http: 504,
    nbd: 'EIO',
    exit: 1,
    doc: 'The store did not deliver a page, or the read did not come to its turn in the line for memory, before the deadline.',
  },
  ERR_CACHE_FILL_FAILED: {
    http: 502,
    nbd: 'EIO',
    exit: 1,
    doc: 'The store failed to read a page; the message has its reason. The failure is not remembered: a new read tries again.',
  },
  ERR_CACHE_OVERLOADED: {
    http: 503,
    nbd: 'EIO',
    exit: 1,
    doc: 'More reads wait for memory than the cache queues. Give it more memory or fewer clients.',
  },
  ERR_CACHE_BLOB_UNKNOWN: {
    http: 404,
    nbd: 'EIO',
    exit: 3,
    doc: 'A read names a blob that was never opened or has been dropped from the cache.',
  },
  ERR_CACHE_RANGE: {
    http: 416,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'A read lies outside of its blob, or is too large for one reply.',
  },
  ERR_CACHE_CLOSED: {
    http: 503,
    nbd: 'EIO',
    exit: 1,
    doc: 'The cache is shutting down.',
  },
})

export type CacheErrorCode = keyof typeof CACHE_ERRORS
