/**
 * The Prometheus registry of a server: all definitions, and prom-client's process and runtime metrics. One
 * snapshot of the counters is taken for each scrape.
 */
import type { Metric } from 'prom-client'
import { collectDefaultMetrics, Registry } from 'prom-client'

import { CACHE_METRICS } from './cache-metrics.ts'
import type { MetricDefinition, MetricsSnapshot } from './definition.ts'
import { single } from './definition.ts'
import { HTTP_METRICS } from './http-metrics.ts'
import { NBD_METRICS } from './nbd-metrics.ts'

const SERVICE_METRICS: readonly MetricDefinition[] = [
  {
    name: 'commonpage_build_info',
    help: 'Version of the server; always 1.',
    type: 'gauge',
    labels: ['version', 'commit', 'node'],
    sample: ({ version, commit }) => [
      { labels: { version, commit, node: process.version }, value: 1 },
    ],
  },
  {
    name: 'commonpage_start_time_seconds',
    help: 'When the server started, in seconds since 1970.',
    type: 'gauge',
    labels: [],
    sample: ({ startedAtSeconds }) => single(startedAtSeconds),
  },
  {
    name: 'commonpage_imports_total',
    help: 'Imports that ended, by how.',
    type: 'counter',
    labels: ['outcome'],
    sample: ({ imports }) =>
      Object.entries(imports).map(([outcome, value]) => ({ labels: { outcome }, value })),
  },
  {
    name: 'commonpage_imports_waiting',
    help: 'Imports that wait for others to end.',
    type: 'gauge',
    labels: [],
    sample: ({ jobsWaiting }) => single(jobsWaiting),
  },
]

/** Every metric of ours, sorted by name: what docs/reference/metrics.md lists. */
export const METRICS: readonly MetricDefinition[] = [
  ...SERVICE_METRICS,
  ...CACHE_METRICS,
  ...NBD_METRICS,
  ...HTTP_METRICS,
].toSorted((a, b) => (a.name < b.name ? -1 : 1))

/** Gauges and names of prom-client's own that `promtool check metrics` refuses; they speak of main's event loop only. */
const LEFT_OUT = [
  'nodejs_active_handles',
  'nodejs_active_handles_total',
  'nodejs_active_requests',
  'nodejs_active_requests_total',
  'nodejs_active_resources',
  'nodejs_active_resources_total',
  'nodejs_eventloop_utilization_histogram',
  'nodejs_eventloop_utilization_summary',
]

export interface MetricsText {
  readonly contentType: string
  readonly body: string
}

/**
 * `nodejs_eventloop_lag_*` are times between two samples, so an idle loop shows this. The library's default of 10
 * wakes an idle server a hundred times a second, which is most of the CPU that it uses.
 */
const EVENT_LOOP_SAMPLE_MS = 40

export class Metrics {
  readonly #registry = new Registry()
  readonly #takeSnapshot: () => Promise<MetricsSnapshot>
  #snapshot: Promise<MetricsSnapshot> | undefined

  constructor(takeSnapshot: () => Promise<MetricsSnapshot>) {
    this.#takeSnapshot = takeSnapshot
    for (const definition of METRICS) this.#registry.registerMetric(this.#asMetric(definition))
    collectDefaultMetrics({
      register: this.#registry,
      eventLoopMonitoringPrecision: EVENT_LOOP_SAMPLE_MS,
    })
    for (const name of LEFT_OUT) this.#registry.removeSingleMetric(name)
  }

  async text(): Promise<MetricsText> {
    this.#snapshot = this.#takeSnapshot()
    return { contentType: this.#registry.contentType, body: await this.#registry.metrics() }
  }

  /** The registry asks a metric for its name and `get()` when it is scraped, and for nothing else. */
  #asMetric(definition: MetricDefinition): Metric {
    const { name, help, type } = definition
    const get = async () => {
      this.#snapshot ??= this.#takeSnapshot()
      const samples = [...definition.sample(await this.#snapshot)]
      return {
        name,
        help,
        type,
        aggregator: 'sum',
        values: samples.map((sample) => ({
          labels: sample.labels,
          value: sample.value,
          ...(sample.suffix === undefined ? {} : { metricName: name + sample.suffix }),
        })),
      }
    }
    return { name, help, type, get, reset: () => undefined } as unknown as Metric
  }
}
