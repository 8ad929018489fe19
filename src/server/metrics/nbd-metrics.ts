/** Metrics of the NBD server, from the columns that the library counts in. */
import {
  NBD_COUNTED_COMMANDS,
  NBD_COUNTED_ERRNOS,
  NBD_COUNTER,
  NBD_HANDSHAKE_STAGES,
  NBD_LATENCY_BUCKETS,
  NBD_OUTCOMES,
  NBD_SIZE_BUCKETS,
} from 'nbd-server-ts'

import type { MetricDefinition, Sample } from './definition.ts'
import { histogram, single } from './definition.ts'

export const NBD_METRICS: readonly MetricDefinition[] = [
  {
    name: 'commonpage_nbd_connections',
    help: 'NBD connections open now.',
    type: 'gauge',
    labels: ['tls'],
    sample: ({ nbd }) => [{ labels: { tls: 'false' }, value: at(nbd, NBD_COUNTER.CONNECTIONS) }],
  },
  {
    name: 'commonpage_nbd_connections_total',
    help: 'NBD connections that ended, by how.',
    type: 'counter',
    labels: ['outcome'],
    sample: ({ nbd }) => named('outcome', NBD_OUTCOMES, nbd, NBD_COUNTER.CONNECTIONS_CLOSED),
  },
  {
    name: 'commonpage_nbd_handshake_failures_total',
    help: 'Handshakes that failed, by stage.',
    type: 'counter',
    labels: ['stage'],
    sample: ({ nbd }) => named('stage', NBD_HANDSHAKE_STAGES, nbd, NBD_COUNTER.HANDSHAKE_FAILURES),
  },
  {
    name: 'commonpage_nbd_requests_total',
    help: 'Requests by command.',
    type: 'counter',
    labels: ['command'],
    sample: ({ nbd }) => named('command', NBD_COUNTED_COMMANDS, nbd, NBD_COUNTER.REQUESTS),
  },
  {
    name: 'commonpage_nbd_errors_total',
    help: 'Error replies by command and errno; combinations that never happened are left out, but READ and EIO.',
    type: 'counter',
    labels: ['command', 'errno'],
    sample: ({ nbd }) => errors(nbd),
  },
  {
    name: 'commonpage_nbd_read_bytes_total',
    help: 'Bytes of read data.',
    type: 'counter',
    labels: [],
    sample: ({ nbd }) => single(at(nbd, NBD_COUNTER.READ_BYTES)),
  },
  {
    name: 'commonpage_nbd_request_duration_seconds',
    help: 'Time from receiving a request to its reply being ready to write.',
    type: 'histogram',
    labels: ['command'],
    sample: ({ nbd }) =>
      histogram(
        NBD_LATENCY_BUCKETS,
        nbd.subarray(NBD_COUNTER.READ_LATENCY),
        at(nbd, NBD_COUNTER.READ_LATENCY_SUM),
        {
          command: 'READ',
        },
      ),
  },
  {
    name: 'commonpage_nbd_request_size_bytes',
    help: 'Bytes asked for by READ.',
    type: 'histogram',
    labels: [],
    sample: ({ nbd }) =>
      histogram(
        NBD_SIZE_BUCKETS,
        nbd.subarray(NBD_COUNTER.READ_SIZE),
        at(nbd, NBD_COUNTER.READ_SIZE_SUM),
      ),
  },
  {
    name: 'commonpage_nbd_inflight',
    help: 'Requests whose reply is not written yet.',
    type: 'gauge',
    labels: [],
    sample: ({ nbd }) => single(at(nbd, NBD_COUNTER.IN_FLIGHT)),
  },
  {
    name: 'commonpage_nbd_poll_seconds_total',
    help: 'Event loop time spent polling for the next request.',
    type: 'counter',
    labels: [],
    sample: ({ nbd }) => single(at(nbd, NBD_COUNTER.POLL_SECONDS)),
  },
]

function at(row: Float64Array, column: number): number {
  return row[column] ?? 0
}

function named(
  label: string,
  values: readonly string[],
  row: Float64Array,
  first: number,
): Sample[] {
  return values.map((value, i) => ({ labels: { [label]: value }, value: at(row, first + i) }))
}

function errors(row: Float64Array): Sample[] {
  const samples: Sample[] = []
  for (const [c, command] of NBD_COUNTED_COMMANDS.entries()) {
    for (const [e, errno] of NBD_COUNTED_ERRNOS.entries()) {
      const value = at(row, NBD_COUNTER.ERRORS + c * NBD_COUNTED_ERRNOS.length + e)
      if (value > 0 || (command === 'READ' && errno === 'EIO'))
        samples.push({ labels: { command, errno }, value })
    }
  }
  return samples
}
