/**
 * What the Grafana dashboard shows: rows of panels with their queries. render-dashboard.ts turns it into
 * Grafana's JSON; nothing here knows that format.
 */
export interface Panel {
  readonly title: string
  /** What the panel tells and what to look for; shown behind the (i). */
  readonly description: string
  readonly kind: 'stat' | 'timeseries' | 'stacked' | 'table'
  /** A unit id of Grafana. */
  readonly unit:
    'bytes' | 'Bps' | 'percentunit' | 's' | 'short' | 'ops' | 'dateTimeFromNow' | 'none'
  /** PromQL by legend; a legend may use {{label}}. */
  readonly queries: Readonly<Record<string, string>>
  /** Of 24 columns. */
  readonly width: 3 | 4 | 6 | 8 | 12 | 24
}

export interface Row {
  readonly title: string
  readonly panels: readonly Panel[]
}

const SELECT = 'job="$job",instance=~"$instance"'

function rate(metric: string, labels = ''): string {
  return `rate(${metric}{${SELECT}${labels}}[$__rate_interval])`
}

function quantile(q: number, metric: string, labels = ''): string {
  return `histogram_quantile(${q}, sum by (le) (${rate(`${metric}_bucket`, labels)}))`
}

function quantiles(metric: string, labels = ''): Record<string, string> {
  return {
    p50: quantile(0.5, metric, labels),
    p95: quantile(0.95, metric, labels),
    p99: quantile(0.99, metric, labels),
  }
}

const LOOKUPS = 'commonpage_cache_lookups_total'

export const ROWS: readonly Row[] = [
  {
    title: 'Service',
    panels: [
      {
        title: 'Up',
        description: 'Servers that answer the scrape.',
        kind: 'stat',
        unit: 'short',
        queries: { servers: `sum(up{${SELECT}})` },
        width: 3,
      },
      {
        title: 'Version',
        description: 'Versions that run now, by number of servers.',
        kind: 'stat',
        unit: 'none',
        queries: { '{{version}}': `count by (version) (commonpage_build_info{${SELECT}})` },
        width: 3,
      },
      {
        title: 'Started',
        description: 'The most recent start. Counters begin at 0 there.',
        kind: 'stat',
        unit: 'dateTimeFromNow',
        queries: { started: `max(commonpage_start_time_seconds{${SELECT}}) * 1000` },
        width: 3,
      },
      {
        title: 'Images',
        description: 'Tagged images of all domains.',
        kind: 'stat',
        unit: 'short',
        queries: { images: `max(commonpage_images{${SELECT}})` },
        width: 3,
      },
      {
        title: 'Served',
        description: 'Bytes of data sent to clients, whatever the protocol.',
        kind: 'timeseries',
        unit: 'Bps',
        queries: {
          NBD: `sum(${rate('commonpage_nbd_read_bytes_total')})`,
          HTTP: `sum(${rate('commonpage_http_response_bytes_total')})`,
        },
        width: 12,
      },
      {
        title: 'Imports',
        description: 'Imports that ended, by outcome, and imports that wait for others.',
        kind: 'timeseries',
        unit: 'short',
        queries: {
          '{{outcome}}': `sum by (outcome) (increase(commonpage_imports_total{${SELECT}}[$__rate_interval]))`,
          waiting: `sum(commonpage_imports_waiting{${SELECT}})`,
        },
        width: 12,
      },
      {
        title: 'Event feed',
        description: 'Clients of /v1/events, and updates that slow ones did not get.',
        kind: 'timeseries',
        unit: 'short',
        queries: {
          clients: `sum(commonpage_ws_clients{${SELECT}})`,
          'dropped per second': `sum(${rate('commonpage_ws_dropped_updates_total')})`,
        },
        width: 12,
      },
    ],
  },
  {
    title: 'Shared cache',
    panels: [
      {
        title: 'Found in memory',
        description: 'Share of page lookups that found their page in memory.',
        kind: 'stat',
        unit: 'percentunit',
        queries: {
          hits: `sum(${rate(LOOKUPS, ',result=~"hit|shared_hit"')}) / sum(${rate(LOOKUPS)})`,
        },
        width: 4,
      },
      {
        title: 'Found thanks to another image',
        description:
          'Share of page lookups that found a page which another image had brought in: what sharing one cache gives.',
        kind: 'stat',
        unit: 'percentunit',
        queries: {
          'shared hits': `sum(${rate(LOOKUPS, ',result="shared_hit"')}) / sum(${rate(LOOKUPS)})`,
        },
        width: 4,
      },
      {
        title: 'Served for one byte read',
        description: 'Bytes that clients got for each byte read from the store.',
        kind: 'stat',
        unit: 'short',
        queries: {
          amplification: `sum(${rate('commonpage_cache_served_bytes_total')}) / sum(${rate('commonpage_store_read_bytes_total')})`,
        },
        width: 4,
      },
      {
        title: 'Lookups by result',
        description:
          'Each page of each request once. miss: started a read of the store; coalesced: joined one; hit; shared_hit: found, brought in for another image.',
        kind: 'stacked',
        unit: 'ops',
        queries: { '{{result}}': `sum by (result) (${rate(LOOKUPS)})` },
        width: 12,
      },
      {
        title: 'Touched and added by image',
        description:
          'Bytes that reads of an image touched in this epoch, and the part that had to be brought into memory for it. The difference was already there. The 100 largest images, and other.',
        kind: 'table',
        unit: 'bytes',
        queries: {
          touched: `topk(20, sum by (domain, image) (commonpage_image_touched_bytes{${SELECT}}))`,
          added: `sum by (domain, image) (commonpage_image_added_bytes{${SELECT}})`,
        },
        width: 12,
      },
      {
        title: 'Memory',
        description:
          'Frames that hold pages, by domain, frames held by replies under way, and the size of the arena.',
        kind: 'timeseries',
        unit: 'bytes',
        queries: {
          'resident {{domain}}': `sum by (domain) (commonpage_cache_resident_bytes{${SELECT}})`,
          pinned: `sum(commonpage_cache_pinned_bytes{${SELECT}})`,
          capacity: `sum(commonpage_cache_capacity_bytes{${SELECT}})`,
          'address maps': `sum(commonpage_cache_map_bytes{${SELECT}})`,
          'not attributed to an image': `sum(commonpage_unattributed_bytes{${SELECT}})`,
        },
        width: 12,
      },
      {
        title: 'Served by source',
        description:
          'Bytes of replies whose pages were in memory, and whose pages were read for them.',
        kind: 'stacked',
        unit: 'Bps',
        queries: {
          '{{source}}': `sum by (source) (${rate('commonpage_cache_served_bytes_total')})`,
        },
        width: 8,
      },
      {
        title: 'Evictions',
        description:
          'Bytes given up, by reason. Many for capacity: the working set is larger than the cache.',
        kind: 'stacked',
        unit: 'Bps',
        queries: {
          '{{reason}}': `sum by (reason) (${rate('commonpage_cache_evicted_bytes_total')})`,
        },
        width: 8,
      },
      {
        title: 'Readahead and refusals',
        description:
          'Pages read ahead that were used or given up unread, and reads turned away for want of memory.',
        kind: 'timeseries',
        unit: 'ops',
        queries: {
          'readahead {{outcome}}': `sum by (outcome) (${rate('commonpage_cache_readahead_pages_total')})`,
          'turned away': `sum(${rate('commonpage_cache_overloads_total')})`,
        },
        width: 8,
      },
    ],
  },
  {
    title: 'NBD',
    panels: [
      {
        title: 'Connections',
        description: 'Open now, and ended by outcome.',
        kind: 'timeseries',
        unit: 'short',
        queries: {
          open: `sum(commonpage_nbd_connections{${SELECT}})`,
          'ended {{outcome}}/s': `sum by (outcome) (${rate('commonpage_nbd_connections_total')})`,
        },
        width: 8,
      },
      {
        title: 'Requests',
        description: 'By command, and requests whose reply is not written yet.',
        kind: 'timeseries',
        unit: 'ops',
        queries: {
          '{{command}}': `sum by (command) (${rate('commonpage_nbd_requests_total')})`,
          'in flight': `sum(commonpage_nbd_inflight{${SELECT}})`,
        },
        width: 8,
      },
      {
        title: 'Read latency',
        description: 'From receiving a READ to its reply being ready to write.',
        kind: 'timeseries',
        unit: 's',
        queries: quantiles('commonpage_nbd_request_duration_seconds', ',command="READ"'),
        width: 8,
      },
      {
        title: 'Request size',
        description: 'Bytes that READ asks for.',
        kind: 'timeseries',
        unit: 'bytes',
        queries: quantiles('commonpage_nbd_request_size_bytes'),
        width: 8,
      },
      {
        title: 'Errors',
        description:
          'Error replies by command and errno, and failed handshakes by stage. EIO to a READ is seen by applications.',
        kind: 'timeseries',
        unit: 'ops',
        queries: {
          '{{command}} {{errno}}': `sum by (command, errno) (${rate('commonpage_nbd_errors_total')})`,
          'handshake {{stage}}': `sum by (stage) (${rate('commonpage_nbd_handshake_failures_total')})`,
        },
        width: 8,
      },
      {
        title: 'Polling',
        description: 'Event loop time spent waiting awake for the next request, in cores.',
        kind: 'timeseries',
        unit: 'short',
        queries: { cores: `sum(${rate('commonpage_nbd_poll_seconds_total')})` },
        width: 8,
      },
    ],
  },
  {
    title: 'HTTP',
    panels: [
      {
        title: 'Requests by status',
        description: 'By class of status, and responses whose client left before the end.',
        kind: 'stacked',
        unit: 'ops',
        queries: {
          '{{status}}': `sum by (status) (${rate('commonpage_http_requests_total')})`,
          aborted: `sum(${rate('commonpage_http_aborted_total')})`,
        },
        width: 8,
      },
      {
        title: 'Bytes by route',
        description: 'Bytes of response bodies.',
        kind: 'stacked',
        unit: 'Bps',
        queries: {
          '{{route}}': `sum by (route) (${rate('commonpage_http_response_bytes_total')})`,
        },
        width: 8,
      },
      {
        title: 'Latency',
        description:
          'From a request to the end of its response, so it grows with the size of the body.',
        kind: 'timeseries',
        unit: 's',
        queries: quantiles('commonpage_http_request_duration_seconds'),
        width: 8,
      },
    ],
  },
  {
    title: 'Store',
    panels: [
      {
        title: 'Reads',
        description: 'Page reads by engine and result.',
        kind: 'timeseries',
        unit: 'ops',
        queries: {
          '{{engine}} {{result}}': `sum by (engine, result) (${rate('commonpage_store_reads_total')})`,
        },
        width: 8,
      },
      {
        title: 'Bytes read',
        description: 'Bytes read from the store to fill pages.',
        kind: 'timeseries',
        unit: 'Bps',
        queries: { '{{engine}}': `sum by (engine) (${rate('commonpage_store_read_bytes_total')})` },
        width: 8,
      },
      {
        title: 'Fills',
        description: 'Time from the decision to fill a page to its publication.',
        kind: 'timeseries',
        unit: 's',
        queries: quantiles('commonpage_cache_fill_duration_seconds'),
        width: 8,
      },
      {
        title: 'Fills under way',
        description: 'Fills that wait for the store.',
        kind: 'timeseries',
        unit: 'short',
        queries: {
          fills: `sum(commonpage_cache_fills_inflight{${SELECT}})`,
          'reads waiting': `sum(commonpage_cache_reads_waiting{${SELECT}})`,
        },
        width: 12,
      },
      {
        title: 'Fill errors',
        description:
          'By code. ERR_CACHE_PAGE_CORRUPT: the store returned bytes that are not what was imported; they were not served.',
        kind: 'timeseries',
        unit: 'ops',
        queries: { '{{code}}': `sum by (code) (${rate('commonpage_cache_fill_errors_total')})` },
        width: 12,
      },
    ],
  },
  {
    title: 'Runtime',
    panels: [
      {
        title: 'CPU',
        description: 'Cores in use by the whole process.',
        kind: 'timeseries',
        unit: 'short',
        queries: { '{{instance}}': `sum by (instance) (${rate('process_cpu_seconds_total')})` },
        width: 8,
      },
      {
        title: 'Process memory',
        description:
          'Resident memory holds the cache; heap and external memory are the rest of the main thread.',
        kind: 'timeseries',
        unit: 'bytes',
        queries: {
          'resident {{instance}}': `process_resident_memory_bytes{${SELECT}}`,
          'heap {{instance}}': `nodejs_heap_size_used_bytes{${SELECT}}`,
          'external {{instance}}': `nodejs_external_memory_bytes{${SELECT}}`,
        },
        width: 8,
      },
      {
        title: 'Event loop lag',
        description:
          'Time between two looks at the main thread: 0.04 s when it is not late. It supervises and answers /metrics; data is served by workers.',
        kind: 'timeseries',
        unit: 's',
        queries: {
          'p99 {{instance}}': `nodejs_eventloop_lag_p99_seconds{${SELECT}}`,
          'p50 {{instance}}': `nodejs_eventloop_lag_p50_seconds{${SELECT}}`,
        },
        width: 8,
      },
      {
        title: 'Garbage collection',
        description: 'Share of time that the main thread spends collecting garbage.',
        kind: 'timeseries',
        unit: 'percentunit',
        queries: {
          '{{instance}}': `sum by (instance) (${rate('nodejs_gc_duration_seconds_sum')})`,
        },
        width: 12,
      },
      {
        title: 'File descriptors',
        description: 'Open, and allowed.',
        kind: 'timeseries',
        unit: 'short',
        queries: {
          'open {{instance}}': `process_open_fds{${SELECT}}`,
          'allowed {{instance}}': `process_max_fds{${SELECT}}`,
        },
        width: 12,
      },
    ],
  },
]
