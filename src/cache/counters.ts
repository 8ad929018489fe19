/**
 * The cache's counters: the columns of one thread's row of counter memory, and their sums with names. Names of
 * metrics are made elsewhere, from these.
 */
import { type CounterMemory, sumCounters } from '../core/index.ts'

/** Results of a look-up, in the order of their columns. One per page of one request; they partition all look-ups. */
export const LOOKUP = { hit: 0, shared_hit: 1, coalesced: 2, miss: 3 } as const
export type LookupResult = keyof typeof LOOKUP

export const EVICTION_REASONS = ['capacity', 'pressure', 'removed', 'admin'] as const
export type EvictionReason = (typeof EVICTION_REASONS)[number]

/** Why a page was filled. */
export const FILL_KINDS = ['demand', 'readahead', 'prefetch'] as const
export type FillKind = (typeof FILL_KINDS)[number]

/** Codes by which fill errors are counted; any other is counted as the last. */
export const FILL_ERROR_CODES = [
  'ERR_CACHE_PAGE_CORRUPT',
  'ERR_CACHE_FILL_TIMEOUT',
  'ERR_CACHE_FILL_FAILED',
] as const

/** Upper bounds of the fill duration histogram: 50 µs, each 2.5 times the last, and 10 s. */
export const FILL_SECONDS_BOUNDS: readonly number[] = [
  ...Array.from({ length: 14 }, (_, i) => Number((50e-6 * 2.5 ** i).toPrecision(6))),
  10,
]

/** Domains with numbers of their own. Later ones share number 0. */
export const MAX_DOMAINS = 1024

/** Offsets in a domain's block. */
export const DOMAIN_COUNTER = {
  /** + LOOKUP.x */
  LOOKUPS: 0,
  /** Bytes of replies from pages that were in memory or on their way; zeros of holes too. */
  MEMORY_BYTES: 4,
  /** Bytes of replies from pages that this request had brought in. */
  STORE_BYTES: 5,
  /** Gauge, keeper only: whole frames. */
  RESIDENT_BYTES: 6,
} as const
export const DOMAIN_COLUMNS = 7

let next = 0
function columns(width: number): number {
  const first = next
  next += width
  return first
}

/** Columns. Where a list of names is given, the column of its first; gauges are written by the keeper alone. */
export const CACHE_COUNTER = {
  /** + FILL_KINDS. Pages filled, verified and published. */
  FILLS: columns(FILL_KINDS.length),
  /** Valid bytes of them. */
  FILL_BYTES: columns(1),
  /** Of the fills, those of pages that had been in memory before in this epoch. */
  REFILLS: columns(1),
  /** Gauge. */
  FILLS_IN_FLIGHT: columns(1),
  /** + FILL_ERROR_CODES */
  FILL_ERRORS: columns(FILL_ERROR_CODES.length),
  /** + FILL_SECONDS_BOUNDS, then one above all of them */
  FILL_DURATION: columns(FILL_SECONDS_BOUNDS.length + 1),
  FILL_SECONDS_SUM: columns(1),
  /** + EVICTION_REASONS */
  EVICTIONS: columns(EVICTION_REASONS.length),
  /** + EVICTION_REASONS. Whole frames. */
  EVICTED_BYTES: columns(EVICTION_REASONS.length),
  READAHEAD_USED: columns(1),
  READAHEAD_WASTED: columns(1),
  /** Readahead and prefetch pages not fetched for want of room. */
  BACKGROUND_DROPPED: columns(1),
  /** Gauge. */
  RESIDENT_FRAMES: columns(1),
  /** Gauge: reads that wait for frames. */
  GRANTS_WAITING: columns(1),
  /** Reads turned away with ERR_CACHE_OVERLOADED. */
  OVERLOADS: columns(1),
  /** + domainNo × DOMAIN_COLUMNS + DOMAIN_COUNTER.x */
  DOMAINS: columns(MAX_DOMAINS * DOMAIN_COLUMNS),
} as const

export const CACHE_COUNTER_COLUMNS = next

export function domainColumn(domainNo: number): number {
  return CACHE_COUNTER.DOMAINS + domainNo * DOMAIN_COLUMNS
}

/** `row[column] += amount`. */
export function count(row: Float64Array, column: number, amount = 1): void {
  row[column] = (row[column] ?? 0) + amount
}

export interface DomainStats extends Readonly<Record<LookupResult, number>> {
  readonly memoryBytes: number
  readonly storeBytes: number
  readonly residentBytes: number
}

export interface CacheStats {
  readonly fills: Readonly<Record<FillKind, number>>
  readonly fillBytes: number
  readonly refills: number
  readonly fillsInFlight: number
  readonly fillErrors: Readonly<Record<(typeof FILL_ERROR_CODES)[number], number>>
  /** Per bound of FILL_SECONDS_BOUNDS (not cumulative), then one above all of them. */
  readonly fillDurations: readonly number[]
  readonly fillSecondsSum: number
  readonly evictions: Readonly<Record<EvictionReason, number>>
  readonly evictedBytes: Readonly<Record<EvictionReason, number>>
  readonly readaheadUsed: number
  readonly readaheadWasted: number
  readonly backgroundDropped: number
  readonly residentFrames: number
  readonly grantsWaiting: number
  readonly overloads: number
}

/** All counters but the domains' (`domainStats`), summed over the threads. */
export function cacheStats(sums: Float64Array): CacheStats {
  const at = (column: number) => sums[column] ?? 0
  const named = <const N extends string>(names: readonly N[], column: number) =>
    Object.fromEntries(names.map((name, i) => [name, at(column + i)])) as Record<N, number>
  return {
    fills: named(FILL_KINDS, CACHE_COUNTER.FILLS),
    fillBytes: at(CACHE_COUNTER.FILL_BYTES),
    refills: at(CACHE_COUNTER.REFILLS),
    fillsInFlight: at(CACHE_COUNTER.FILLS_IN_FLIGHT),
    fillErrors: named(FILL_ERROR_CODES, CACHE_COUNTER.FILL_ERRORS),
    fillDurations: Array.from(
      sums.subarray(CACHE_COUNTER.FILL_DURATION, CACHE_COUNTER.FILL_SECONDS_SUM),
    ),
    fillSecondsSum: at(CACHE_COUNTER.FILL_SECONDS_SUM),
    evictions: named(EVICTION_REASONS, CACHE_COUNTER.EVICTIONS),
    evictedBytes: named(EVICTION_REASONS, CACHE_COUNTER.EVICTED_BYTES),
    readaheadUsed: at(CACHE_COUNTER.READAHEAD_USED),
    readaheadWasted: at(CACHE_COUNTER.READAHEAD_WASTED),
    backgroundDropped: at(CACHE_COUNTER.BACKGROUND_DROPPED),
    residentFrames: at(CACHE_COUNTER.RESIDENT_FRAMES),
    grantsWaiting: at(CACHE_COUNTER.GRANTS_WAITING),
    overloads: at(CACHE_COUNTER.OVERLOADS),
  }
}

export function domainStats(sums: Float64Array, domainNo: number): DomainStats {
  const at = (column: number) => sums[domainColumn(domainNo) + column] ?? 0
  return {
    hit: at(DOMAIN_COUNTER.LOOKUPS + LOOKUP.hit),
    shared_hit: at(DOMAIN_COUNTER.LOOKUPS + LOOKUP.shared_hit),
    coalesced: at(DOMAIN_COUNTER.LOOKUPS + LOOKUP.coalesced),
    miss: at(DOMAIN_COUNTER.LOOKUPS + LOOKUP.miss),
    memoryBytes: at(DOMAIN_COUNTER.MEMORY_BYTES),
    storeBytes: at(DOMAIN_COUNTER.STORE_BYTES),
    residentBytes: at(DOMAIN_COUNTER.RESIDENT_BYTES),
  }
}

/** Sums over all threads: what `cacheStats` and `domainStats` read. */
export function sumCacheCounters(memory: { readonly counters: CounterMemory }): Float64Array {
  return sumCounters(memory.counters)
}
