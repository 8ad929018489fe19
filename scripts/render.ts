/**
 * `npm run render`: writes every page and file that is made from tables in the source. Tests compare each with
 * what is rendered, so that page and code cannot part.
 */
import { writeFileSync } from 'node:fs'
import { relative } from 'node:path'

import { REFERENCE_PAGE, renderReference } from '../test/cli/render-reference.ts'
import { DASHBOARD_FILE, renderDashboard } from './render-dashboard.ts'
import { ERRORS_PAGE, renderErrors } from './render-errors.ts'
import { METRICS_PAGE, renderMetrics } from './render-metrics.ts'
import { ROOT } from './steps.ts'

const RENDERED: readonly (readonly [string, string])[] = [
  [REFERENCE_PAGE, await renderReference()],
  [ERRORS_PAGE, await renderErrors()],
  [METRICS_PAGE, renderMetrics()],
  [DASHBOARD_FILE, renderDashboard()],
]

for (const [file, text] of RENDERED) {
  writeFileSync(file, text)
  console.log(`written: ${relative(ROOT, file)}`)
}
