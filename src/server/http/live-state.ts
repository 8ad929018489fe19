/**
 * What the live feed shows, and the difference between two moments of it. Pure. Tables are objects keyed by
 * what identifies a row, so that a change of one row costs one row on the wire (RFC 7396, JSON Merge Patch).
 */
import type { ControlPlane } from '../planes.ts'
import { MAX_EVENT_CLIENT_ROWS, MAX_EVENT_IMAGES } from './limits.ts'
import type { Client, ImageSizes, Job } from './schemas.ts'

export interface LiveImage extends ImageSizes {
  readonly domain: string
  readonly digest: string
  readonly touchedBytes: number
  readonly addedBytes: number
  readonly sharedHits: number
}

export interface LiveState {
  readonly version: string
  readonly startedAt: string
  readonly servedBytes: number
  readonly storeReadBytes: number
  readonly cache: {
    readonly capacityBytes: number
    readonly residentBytes: number
    readonly pinnedBytes: number
    readonly evictions: number
    readonly fillErrors: number
  }
  readonly lookups: {
    readonly hits: number
    readonly sharedHits: number
    readonly coalesced: number
    readonly misses: number
  }
  readonly epochStartedAt: string
  readonly broughtInBytes: number
  readonly totals: {
    readonly images: number
    readonly domains: number
    readonly clients: number
    readonly storedBytes: number
    readonly logicalBytes: number
  }
  /** By reference: the MAX_EVENT_IMAGES with the most touched bytes. */
  readonly images: Readonly<Record<string, LiveImage>>
  /** By id: the MAX_EVENT_CLIENT_ROWS that read most. */
  readonly clients: Readonly<Record<string, Omit<Client, 'id'>>>
  /** By id: jobs that run or wait. */
  readonly jobs: Readonly<
    Record<string, Pick<Job, 'ref' | 'state' | 'phase' | 'doneBytes' | 'totalBytes'>>
  >
}

/** Where the feed gets its state from; asked once a second while somebody listens. */
export interface EventFeed {
  snapshot(): Promise<LiveState>
}

/** The feed over the control plane's own reports. */
export function controlFeed(control: ControlPlane): EventFeed {
  return { snapshot: () => collectLiveState(control) }
}

async function collectLiveState(control: ControlPlane): Promise<LiveState> {
  const [stats, sharing, usage, jobs] = await Promise.all([
    control.stats(),
    control.sharing({}),
    control.diskUsage({}),
    control.jobs(),
  ])
  const sizes = new Map(usage.images.map((row) => [row.ref, row]))
  const shared = new Map(sharing.images.map((row) => [row.ref, row]))
  const refs = [...new Set([...sizes.keys(), ...shared.keys()])]
  const images = refs.map((ref): readonly [string, LiveImage] => {
    const size = sizes.get(ref)
    const row = shared.get(ref)
    return [
      ref,
      {
        domain: row?.domain ?? ref.slice(0, ref.indexOf('/')),
        digest: row?.digest ?? size?.digest ?? '',
        logicalBytes: size?.logicalBytes ?? 0,
        storedBytes: size?.storedBytes ?? 0,
        uniqueBytes: size?.uniqueBytes ?? 0,
        sharedBytes: size?.sharedBytes ?? 0,
        residentBytes: row?.residentBytes ?? size?.residentBytes ?? 0,
        touchedBytes: row?.touchedBytes ?? 0,
        addedBytes: row?.addedBytes ?? 0,
        sharedHits: row?.sharedHits ?? 0,
      },
    ]
  })
  const { capacityBytes, residentBytes, pinnedBytes, evictions, fillErrors } = stats.cache
  return {
    version: stats.version,
    startedAt: stats.startedAt,
    servedBytes: stats.servedBytes,
    storeReadBytes: stats.storeReadBytes,
    cache: { capacityBytes, residentBytes, pinnedBytes, evictions, fillErrors },
    lookups: {
      hits: sum(stats.domains, (row) => row.hits),
      sharedHits: sum(stats.domains, (row) => row.sharedHits),
      coalesced: sum(stats.domains, (row) => row.coalesced),
      misses: sum(stats.domains, (row) => row.misses),
    },
    epochStartedAt: sharing.epochStartedAt,
    broughtInBytes: sharing.broughtInBytes,
    totals: {
      images: stats.images,
      domains: stats.domains.length,
      clients: stats.clients.length,
      storedBytes: usage.totals.storedBytes,
      logicalBytes: usage.totals.logicalBytes,
    },
    images: Object.fromEntries(
      images
        .toSorted(([a, x], [b, y]) => y.touchedBytes - x.touchedBytes || (a < b ? -1 : 1))
        .slice(0, MAX_EVENT_IMAGES),
    ),
    clients: Object.fromEntries(
      stats.clients
        .toSorted((a, b) => b.readBytes - a.readBytes)
        .slice(0, MAX_EVENT_CLIENT_ROWS)
        .map(({ id, ...client }) => [id, client]),
    ),
    jobs: Object.fromEntries(
      jobs
        .filter((job) => job.state === 'running' || job.state === 'queued')
        .map(({ id, ref, state, phase, doneBytes, totalBytes }) => [
          id,
          { ref, state, phase, doneBytes, totalBytes },
        ]),
    ),
  }
}

function sum<T>(rows: readonly T[], value: (row: T) => number): number {
  return rows.reduce((total, row) => total + value(row), 0)
}

/** The merge patch that turns `before` into `after`; undefined when they are equal. JSON values only. */
export function mergePatch(before: object, after: object): Record<string, unknown> | undefined {
  const patch: Record<string, unknown> = {}
  const old = new Map<string, unknown>(Object.entries(before))
  for (const [key, value] of Object.entries(after)) {
    const previous = old.get(key)
    old.delete(key)
    if (isTable(previous) && isTable(value)) {
      const inner = mergePatch(previous, value)
      if (inner !== undefined) patch[key] = inner
    } else if (!Object.is(previous, value)) {
      patch[key] = value
    }
  }
  for (const key of old.keys()) patch[key] = null
  return Object.keys(patch).length === 0 ? undefined : patch
}

function isTable(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
