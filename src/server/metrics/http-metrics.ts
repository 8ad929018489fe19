/** Metrics of the HTTP front end. `route` is the template of an operation, never a URL. */
import { DURATION_BUCKETS_SECONDS, STATUS_CLASSES } from '../http/counters.ts'
import type { MetricDefinition } from './definition.ts'
import { histogram, single } from './definition.ts'

export const HTTP_METRICS: readonly MetricDefinition[] = [
  {
    name: 'commonpage_http_requests_total',
    help: 'Requests by method, route and class of status.',
    type: 'counter',
    labels: ['method', 'route', 'status'],
    sample: ({ http }) =>
      http.operations.flatMap(({ method, route, requests }) =>
        STATUS_CLASSES.map((status) => ({
          labels: { method, route, status },
          value: requests[status],
        })),
      ),
  },
  {
    name: 'commonpage_http_request_duration_seconds',
    help: 'Time from a request to the end of its response.',
    type: 'histogram',
    labels: ['method', 'route'],
    sample: ({ http }) =>
      http.operations
        .filter(({ durationSeconds }) => durationSeconds.count > 0)
        .flatMap(({ method, route, durationSeconds }) =>
          histogram(DURATION_BUCKETS_SECONDS, durationSeconds.buckets, durationSeconds.sum, {
            method,
            route,
          }),
        ),
  },
  {
    name: 'commonpage_http_response_bytes_total',
    help: 'Bytes of response bodies.',
    type: 'counter',
    labels: ['route'],
    sample: ({ http }) => {
      const byRoute = new Map<string, number>()
      for (const { route, responseBytes } of http.operations)
        byRoute.set(route, (byRoute.get(route) ?? 0) + responseBytes)
      return [...byRoute].map(([route, value]) => ({ labels: { route }, value }))
    },
  },
  {
    name: 'commonpage_http_aborted_total',
    help: 'Responses whose client left before their end.',
    type: 'counter',
    labels: [],
    sample: ({ http }) => single(http.aborted),
  },
  {
    name: 'commonpage_ws_clients',
    help: 'Clients of the event feed now.',
    type: 'gauge',
    labels: [],
    sample: ({ http }) => single(http.eventClients),
  },
  {
    name: 'commonpage_ws_dropped_updates_total',
    help: 'Updates that slow clients of the event feed did not get; the next one they get is whole.',
    type: 'counter',
    labels: [],
    sample: ({ http }) => single(http.eventDropped),
  },
]
