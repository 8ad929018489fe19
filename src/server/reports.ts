/**
 * Reports for operators: statistics, sharing and disk usage, put together from the counters in shared memory,
 * the frame table, and what the store holds. Reading them costs the data path nothing.
 */
import { NBD_COUNTER } from 'nbd-server-ts'

import type {
  AccountingTotals,
  CacheMemory,
  DomainStats as DomainCounters,
  KeeperClient,
} from '../cache/index.ts'
import {
  cacheStats,
  domainStats,
  MAX_DOMAINS,
  pinnedBytes,
  sumCacheCounters,
} from '../cache/index.ts'
import type { CounterMemory } from '../core/index.ts'
import { sumCounters } from '../core/index.ts'
import type { Catalogue } from './catalogue.ts'
import type { ConnectionGateMemory } from './connection-gate.ts'
import { connectionsInside } from './connection-gate.ts'
import type { Client, DiskUsage, Sharing, SharingRow, Stats } from './http/index.ts'
import { readHttpCounters } from './http/index.ts'
import type { ImageRegistry } from './image-registry.ts'
import type { ImportProcesses } from './import-processes.ts'
import type { Jobs } from './jobs.ts'
import type { AccountedImage, MetricsSnapshot } from './metrics/definition.ts'
import type { ServerSummary } from './run-options.ts'
import type { Uploads } from './uploads.ts'
import type { UsageIndex } from './usage-index.ts'
import { COMMIT, VERSION } from './version.ts'

/** One row for each data worker. */
export interface FrontCounters {
  readonly nbd: CounterMemory
  readonly http: CounterMemory
}

export interface ReportsOptions {
  readonly memory: CacheMemory
  readonly keeper: KeeperClient
  readonly registry: ImageRegistry
  readonly catalogue: Catalogue
  readonly usage: UsageIndex
  readonly jobs: Jobs
  readonly processes: ImportProcesses
  readonly counters: FrontCounters
  readonly workers: number
  readonly httpGate: ConnectionGateMemory
  readonly uploads: Uploads
  /** The clients of all workers, asked for each time. */
  readonly clients: () => Promise<Client[]>
}

export class Reports {
  readonly #options: ReportsOptions
  readonly #startedAt = Date.now()
  #epochStartedAt = Date.now()

  constructor(options: ReportsOptions) {
    this.#options = options
  }

  async stats(): Promise<Stats> {
    const { memory, keeper, counters, workers, clients, catalogue, httpGate, uploads } =
      this.#options
    const sums = sumCacheCounters(memory)
    const cache = cacheStats(sums)
    const domains = (await keeper.domains()).map(([domain, no]) =>
      domainRow(domain, domainStats(sums, no)),
    )
    const nbd = sumCounters(counters.nbd)
    const http = readHttpCounters(sumCounters(counters.http))
    return {
      version: VERSION,
      startedAt: new Date(this.#startedAt).toISOString(),
      uptimeSeconds: (Date.now() - this.#startedAt) / 1000,
      workers,
      cache: {
        capacityBytes: memory.frames * memory.frameSize,
        residentBytes: cache.residentFrames * memory.frameSize,
        pinnedBytes: pinnedBytes(memory),
        frameSizeBytes: memory.frameSize,
        evictions: sumOf(cache.evictions),
        fillErrors: sumOf(cache.fillErrors),
      },
      domains,
      servedBytes: domains.reduce(
        (sum, row) => sum + row.servedMemoryBytes + row.servedStoreBytes,
        0,
      ),
      storeReadBytes: cache.fillBytes,
      nbdConnections: nbd[NBD_COUNTER.CONNECTIONS] ?? 0,
      httpConnections: connectionsInside(httpGate),
      httpRequests: http.requests,
      uploads: uploads.counts,
      images: (await catalogue.tagged()).length,
      clients: await clients(),
    }
  }

  async sharing(only: string | undefined): Promise<Sharing> {
    const { memory, keeper, usage, catalogue } = this.#options
    const totals = await keeper.accounting()
    const { unattributedBytes, broughtBytes } = await this.#broughtIn(only, totals)
    const resident = usage.residentPages()
    const images: SharingRow[] = []
    for (const row of await this.#accounted(totals.epoch)) {
      if (only !== undefined && row.domain !== only) continue
      const { tag, ...figures } = row
      const residentBytes = await usage.residentBytes(row.domain, row.digest, resident)
      const ref = tag ?? catalogue.untaggedRef(row.domain, row.digest)
      images.push({ ...figures, ref, residentBytes })
    }
    return {
      epochStartedAt: new Date(this.#epochStartedAt).toISOString(),
      images: images.toSorted(
        (a, b) => b.touchedBytes - a.touchedBytes || (a.ref < b.ref ? -1 : 1),
      ),
      unattributedBytes,
      broughtInBytes: broughtBytes,
      residentBytes: await this.#residentBytes(only),
      capacityBytes: memory.frames * memory.frameSize,
    }
  }

  async resetEpoch(): Promise<void> {
    await this.#options.keeper.resetEpoch()
    this.#epochStartedAt = Date.now()
    await this.#options.registry.startEpoch()
  }

  async metricsSnapshot(): Promise<MetricsSnapshot> {
    const { memory, keeper, counters, registry, jobs, processes, catalogue } = this.#options
    const sums = sumCacheCounters(memory)
    const { epoch, unattributedBytes } = await keeper.accounting()
    const domains = (await keeper.domains()).map(
      ([domain, no]) => [domain, domainStats(sums, no)] as const,
    )
    return {
      version: VERSION,
      commit: COMMIT,
      startedAtSeconds: this.#startedAt / 1000,
      cache: cacheStats(sums),
      domains,
      frameSizeBytes: memory.frameSize,
      capacityBytes: memory.frames * memory.frameSize,
      pinnedBytes: pinnedBytes(memory),
      nbd: sumCounters(counters.nbd),
      http: readHttpCounters(sumCounters(counters.http)),
      accounted: await this.#accounted(epoch),
      unattributedBytes,
      images: (await catalogue.tagged()).length,
      mapBytes: registry.mapBytes,
      imports: jobs.ended,
      jobsWaiting: processes.waiting,
    }
  }

  async diskUsage(only: string | undefined): Promise<DiskUsage> {
    return this.#options.usage.report(only, await this.#residentBytes(only))
  }

  /** Whole frames that hold pages of a domain, or of all. */
  async #residentBytes(only: string | undefined): Promise<number> {
    const { memory, keeper } = this.#options
    const sums = sumCacheCounters(memory)
    if (only === undefined) return cacheStats(sums).residentFrames * memory.frameSize
    const known = (await keeper.domains()).find(([domain]) => domain === only)
    return known === undefined ? 0 : domainStats(sums, known[1]).residentBytes
  }

  /** What came into memory in this epoch, of a domain or of all. */
  async #broughtIn(only: string | undefined, totals: AccountingTotals) {
    if (only === undefined) return totals
    const known = (await this.#options.keeper.domains()).find(([domain]) => domain === only)
    const row = totals.domains.find(({ domainNo }) => domainNo === known?.[1])
    return row ?? { unattributedBytes: 0, broughtBytes: 0 }
  }

  async #accounted(epoch: number): Promise<AccountedImage[]> {
    const { registry, catalogue } = this.#options
    const tags = await catalogue.firstTags()
    return Array.from(registry.known(), ({ domain, digest, accounting }) => {
      const tag = tags.get(`${domain}/${digest}`)
      return {
        domain,
        digest,
        ...(tag === undefined ? {} : { tag }),
        touchedBytes: accounting.touchedBytes(epoch),
        addedBytes: accounting.addedBytes(epoch),
        sharedHits: accounting.sharedHits(epoch),
      }
    })
  }

  /** For the last line of a server; the keeper need not answer any more. */
  summary(): ServerSummary {
    const { memory } = this.#options
    const sums = sumCacheCounters(memory)
    const totals = { found: 0, lookups: 0, served: 0 }
    for (let no = 0; no < MAX_DOMAINS; no++) {
      const row = domainStats(sums, no)
      totals.found += row.hit + row.shared_hit + row.coalesced
      totals.lookups += row.hit + row.shared_hit + row.coalesced + row.miss
      totals.served += row.memoryBytes + row.storeBytes
    }
    return {
      uptimeMs: Date.now() - this.#startedAt,
      servedBytes: totals.served,
      hitRatio: totals.lookups === 0 ? undefined : totals.found / totals.lookups,
      evictions: sumOf(cacheStats(sums).evictions),
    }
  }
}

function domainRow(domain: string, stats: DomainCounters): Stats['domains'][number] {
  return {
    domain,
    hits: stats.hit,
    sharedHits: stats.shared_hit,
    coalesced: stats.coalesced,
    misses: stats.miss,
    servedMemoryBytes: stats.memoryBytes,
    servedStoreBytes: stats.storeBytes,
    residentBytes: stats.residentBytes,
  }
}

function sumOf(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}
