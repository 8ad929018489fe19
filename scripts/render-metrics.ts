/** Makes docs/reference/metrics.md from the definitions of the metrics. `npm run render` writes it. */
import { join } from 'node:path'

import { METRICS } from '../src/server/metrics/registry.ts'
import { ROOT } from './steps.ts'

export const METRICS_PAGE = join(ROOT, 'docs/reference/metrics.md')

const HEAD = `# Metrics

\`GET /metrics\` answers in the text format of Prometheus. Names, types and labels do not change between minor
releases. Counters are kept in shared memory by the threads that do the work and summed when they are read: a
scrape costs the data path nothing. All are counted since the server started; the \`image_\` metrics and
\`unattributed\` since the last \`commonpage sharing --reset\`.

Beside these there are the \`process_*\` and \`nodejs_*\` metrics of the client library. \`nodejs_eventloop_*\`
are of the main thread, which serves no data; those with a statistic in their name (\`nodejs_eventloop_lag_p99_seconds\`)
are times between two looks at it, which are 0.04 when it is idle.

Bytes served for each byte read from the store, which is what sharing is for:

\`\`\`text
sum(rate(commonpage_cache_served_bytes_total[5m])) / sum(rate(commonpage_store_read_bytes_total[5m]))
\`\`\`

This page is written by \`npm run render\` from the tables in the source.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
`

export function renderMetrics(): string {
  const rows = METRICS.map(({ name, type, labels, help }) => {
    const list = labels.map((label) => `\`${label}\``).join(', ')
    return `| \`${name}\` | ${type} | ${list === '' ? '–' : list} | ${help} |\n`
  })
  return HEAD + rows.join('')
}
