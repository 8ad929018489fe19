/**
 * What a metric is here: a name, a help text, its labels, and a function that reads its samples from a
 * snapshot of the counters. Hot code increments plain fields in shared memory and knows nothing of this.
 */
import type { CacheStats, DomainStats } from '../../cache/index.ts'
import type { Digest } from '../../core/index.ts'
import type { HttpSample } from '../http/counters.ts'

export interface Sample {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  /** `_bucket`, `_sum` or `_count` of a histogram. */
  readonly suffix?: string
}

export interface MetricDefinition {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly labels: readonly string[]
  readonly sample: (snapshot: MetricsSnapshot) => Iterable<Sample>
}

/** What one image has touched and added in this epoch. */
export interface AccountedImage {
  readonly domain: string
  readonly digest: Digest
  /** DOMAIN/NAME:TAG of its first tag; absent when it has none any more. */
  readonly tag?: string
  readonly touchedBytes: number
  readonly addedBytes: number
  readonly sharedHits: number
}

/** Everything that a scrape reads, taken once. */
export interface MetricsSnapshot {
  readonly version: string
  readonly commit: string
  readonly startedAtSeconds: number
  readonly cache: CacheStats
  readonly domains: readonly (readonly [domain: string, stats: DomainStats])[]
  readonly frameSizeBytes: number
  readonly capacityBytes: number
  readonly pinnedBytes: number
  readonly nbd: Float64Array
  readonly http: HttpSample
  /** Every image that was opened in this epoch. */
  readonly accounted: readonly AccountedImage[]
  readonly unattributedBytes: number
  readonly images: number
  readonly mapBytes: number
  readonly imports: Readonly<Record<'done' | 'failed' | 'cancelled', number>>
  readonly jobsWaiting: number
}

/** One sample without labels. */
export function single(value: number): Sample[] {
  return [{ labels: {}, value }]
}

/** Cumulative buckets, sum and count from plain buckets; `counts` has one more entry than `bounds`. */
export function histogram(
  bounds: readonly number[],
  counts: ArrayLike<number>,
  sum: number,
  labels: Readonly<Record<string, string>> = {},
): Sample[] {
  const samples: Sample[] = []
  let total = 0
  for (let i = 0; i <= bounds.length; i++) {
    total += counts[i] ?? 0
    const le = i < bounds.length ? String(bounds[i]) : '+Inf'
    samples.push({ labels: { ...labels, le }, value: total, suffix: '_bucket' })
  }
  samples.push({ labels, value: sum, suffix: '_sum' }, { labels, value: total, suffix: '_count' })
  return samples
}
