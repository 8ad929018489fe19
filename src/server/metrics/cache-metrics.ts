/** Metrics of the page cache, the store behind it, and what sharing saved. */
import { EVICTION_REASONS, FILL_ERROR_CODES, FILL_SECONDS_BOUNDS } from '../../cache/index.ts'
import type { AccountedImage, MetricDefinition, Sample } from './definition.ts'
import { histogram, single } from './definition.ts'

/** Series of one `image_*` metric; images beyond are summed as `other`. */
const MAX_IMAGE_SERIES = 100
const RESULTS = ['hit', 'shared_hit', 'coalesced', 'miss'] as const

export const CACHE_METRICS: readonly MetricDefinition[] = [
  {
    name: 'commonpage_cache_lookups_total',
    help: 'Page lookups by domain and result; each page of each request is counted once.',
    type: 'counter',
    labels: ['domain', 'result'],
    sample: ({ domains }) =>
      domains.flatMap(([domain, stats]) =>
        RESULTS.map((result) => ({ labels: { domain, result }, value: stats[result] })),
      ),
  },
  {
    name: 'commonpage_cache_served_bytes_total',
    help: 'Bytes of replies by where their pages were found: in memory, or read from the store for this request.',
    type: 'counter',
    labels: ['domain', 'source'],
    sample: ({ domains }) =>
      domains.flatMap(([domain, stats]) => [
        { labels: { domain, source: 'memory' }, value: stats.memoryBytes },
        { labels: { domain, source: 'store' }, value: stats.storeBytes },
      ]),
  },
  {
    name: 'commonpage_cache_capacity_bytes',
    help: 'Size of the arena that holds pages.',
    type: 'gauge',
    labels: [],
    sample: ({ capacityBytes }) => single(capacityBytes),
  },
  {
    name: 'commonpage_cache_resident_bytes',
    help: 'Whole frames that hold pages of a domain now.',
    type: 'gauge',
    labels: ['domain'],
    sample: ({ domains }) =>
      domains.map(([domain, stats]) => ({ labels: { domain }, value: stats.residentBytes })),
  },
  {
    name: 'commonpage_cache_pinned_bytes',
    help: 'Whole frames that replies under way hold now.',
    type: 'gauge',
    labels: [],
    sample: ({ pinnedBytes }) => single(pinnedBytes),
  },
  {
    name: 'commonpage_cache_pages',
    help: 'Pages in memory now.',
    type: 'gauge',
    labels: [],
    sample: ({ cache }) => single(cache.residentFrames),
  },
  {
    name: 'commonpage_cache_evictions_total',
    help: 'Pages given up, by reason.',
    type: 'counter',
    labels: ['reason'],
    sample: ({ cache }) =>
      EVICTION_REASONS.map((reason) => ({ labels: { reason }, value: cache.evictions[reason] })),
  },
  {
    name: 'commonpage_cache_evicted_bytes_total',
    help: 'Whole frames given up, by reason.',
    type: 'counter',
    labels: ['reason'],
    sample: ({ cache }) =>
      EVICTION_REASONS.map((reason) => ({ labels: { reason }, value: cache.evictedBytes[reason] })),
  },
  {
    name: 'commonpage_cache_fill_duration_seconds',
    help: 'Time from the decision to fill a page to its publication.',
    type: 'histogram',
    labels: [],
    sample: ({ cache }) =>
      histogram(FILL_SECONDS_BOUNDS, cache.fillDurations, cache.fillSecondsSum),
  },
  {
    name: 'commonpage_cache_fills_inflight',
    help: 'Fills under way.',
    type: 'gauge',
    labels: [],
    sample: ({ cache }) => single(cache.fillsInFlight),
  },
  {
    name: 'commonpage_cache_fill_errors_total',
    help: 'Fills that failed, by error code. ERR_CACHE_PAGE_CORRUPT: the store does not hold what was imported.',
    type: 'counter',
    labels: ['code'],
    sample: ({ cache }) =>
      FILL_ERROR_CODES.map((code) => ({ labels: { code }, value: cache.fillErrors[code] })),
  },
  {
    name: 'commonpage_cache_readahead_pages_total',
    help: 'Pages brought in by readahead that a reader came for, and that were given up unread.',
    type: 'counter',
    labels: ['outcome'],
    sample: ({ cache }) => [
      { labels: { outcome: 'used' }, value: cache.readaheadUsed },
      { labels: { outcome: 'wasted' }, value: cache.readaheadWasted },
    ],
  },
  {
    name: 'commonpage_cache_reads_waiting',
    help: 'Reads that stand in line for frames: the store is slower than what clients ask for, or replies pin the frames.',
    type: 'gauge',
    labels: [],
    sample: ({ cache }) => single(cache.grantsWaiting),
  },
  {
    name: 'commonpage_cache_overloads_total',
    help: 'Reads turned away because too many waited for frames.',
    type: 'counter',
    labels: [],
    sample: ({ cache }) => single(cache.overloads),
  },
  {
    name: 'commonpage_cache_map_bytes',
    help: 'Memory that address maps of open images take.',
    type: 'gauge',
    labels: [],
    sample: ({ mapBytes }) => single(mapBytes),
  },
  {
    name: 'commonpage_store_read_bytes_total',
    help: 'Bytes read from the store to fill pages.',
    type: 'counter',
    labels: ['engine'],
    sample: ({ cache }) => [{ labels: { engine: 'local' }, value: cache.fillBytes }],
  },
  {
    name: 'commonpage_store_reads_total',
    help: 'Page reads from the store.',
    type: 'counter',
    labels: ['engine', 'result'],
    sample: ({ cache }) => [
      { labels: { engine: 'local', result: 'ok' }, value: total(cache.fills) },
      { labels: { engine: 'local', result: 'error' }, value: total(cache.fillErrors) },
    ],
  },
  {
    name: 'commonpage_images',
    help: 'Tagged images.',
    type: 'gauge',
    labels: [],
    sample: ({ images }) => single(images),
  },
  {
    name: 'commonpage_image_touched_bytes',
    help: 'Valid bytes of the pages that reads of an image touched in this epoch (the 100 largest, and other).',
    type: 'gauge',
    labels: ['domain', 'image'],
    sample: ({ accounted }) => perImage(accounted, (row) => row.touchedBytes),
  },
  {
    name: 'commonpage_image_added_bytes',
    help: 'Of those, bytes that were brought into memory for the image first.',
    type: 'gauge',
    labels: ['domain', 'image'],
    sample: ({ accounted }) => perImage(accounted, (row) => row.addedBytes),
  },
  {
    name: 'commonpage_unattributed_bytes',
    help: 'Valid bytes brought into memory in this epoch for no image yet: blob reads and prefetch.',
    type: 'gauge',
    labels: [],
    sample: ({ unattributedBytes }) => single(unattributedBytes),
  },
]

/** The largest by tag; the rest of each domain, and images without a tag, in one series: digests are no labels. */
function perImage(
  images: readonly AccountedImage[],
  value: (image: AccountedImage) => number,
): Sample[] {
  const samples: Sample[] = []
  const rest = new Map<string, number>()
  for (const image of images.toSorted((a, b) => b.touchedBytes - a.touchedBytes)) {
    const { domain, tag } = image
    if (tag !== undefined && samples.length < MAX_IMAGE_SERIES)
      samples.push({ labels: { domain, image: tag }, value: value(image) })
    else rest.set(domain, (rest.get(domain) ?? 0) + value(image))
  }
  for (const [domain, sum] of rest) samples.push({ labels: { domain, image: 'other' }, value: sum })
  return samples
}

function total(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, value) => sum + value, 0)
}
