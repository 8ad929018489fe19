/**
 * The shared-memory page cache: one memory for every thread, image and protocol, in which a page is kept once per
 * (domain, blob). This is its public face; docs/adr/0002 says how the threads share
 * it. It knows blobs as numbered ranges of bytes, not images, files or stores.
 *
 * Composition: `createCacheMemory` once; `runKeeper` in a thread; a `KeeperClient` in main, which makes the ports;
 * `runFiller` in each fill thread over the store's `PageSource`; a `PageReader` in each data worker.
 */
export { type BlobKey, type OpenedBlob } from './blob-table.ts'
export {
  CACHE_COUNTER,
  type CacheStats,
  cacheStats,
  DOMAIN_COLUMNS,
  DOMAIN_COUNTER,
  domainColumn,
  type DomainStats,
  domainStats,
  EVICTION_REASONS,
  type EvictionReason,
  FILL_ERROR_CODES,
  FILL_KINDS,
  FILL_SECONDS_BOUNDS,
  type FillKind,
  LOOKUP,
  type LookupResult,
  MAX_DOMAINS,
  sumCacheCounters,
} from './counters.ts'
export type { AccountingTotals } from './epoch-ledger.ts'
export { CACHE_ERRORS, type CacheErrorCode } from './errors.ts'
export { type FillerOptions, runFiller } from './filler.ts'
export { MAX_IMAGE_ID } from './frame-table.ts'
export {
  createImageAccounting,
  ImageAccounting,
  type ImageAccountingMemory,
} from './image-accounting.ts'
export { Keeper, type KeeperOptions } from './keeper.ts'
export { KeeperClient } from './keeper-client.ts'
export { type KeeperThreadOptions, runKeeper } from './keeper-thread.ts'
export type { Lease } from './lease.ts'
export {
  type CacheMemory,
  type CacheOptions,
  createCacheMemory,
  DEFAULT_FRAME_SIZE,
  FRAME_SIZES,
  type FrameSize,
  MIN_CACHE_BYTES,
} from './memory.ts'
export { PageReader, type PageReaderOptions, type ReadOptions } from './page-reader.ts'
export { DIGEST_PAGE_BYTES, type PageSource } from './page-source.ts'
export { type CachePolicy, SecondChance } from './policy.ts'
export type { ReadContext } from './read-ledger.ts'
export { SequentialState } from './readahead.ts'
export { pinnedBytes, residentPagesByBlob } from './residency.ts'
export { RunList } from './run-list.ts'
