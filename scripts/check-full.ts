/**
 * `npm run check:full`: all tests at full counts (COMMONPAGE_FULL=1). Takes long; writes what was run and the
 * figures and seeds that tests print as `evidence: NAME KEY=VALUE …` to docs/evidence/check-full.md.
 */
import { relative } from 'node:path'

import { writeEvidence } from './evidence.ts'
import { provision } from './provision.ts'
import { describeFailures, FORMAT, LINT, ROOT, runSteps, TYPES, UNUSED } from './steps.ts'
import { closingLines, describeSkips, findTestFiles, runSuite } from './suite.ts'

// Test files run in processes of their own, which inherit this.
process.env['COMMONPAGE_FULL'] = '1'

const advice = provision()
const checks = await runSteps([FORMAT, LINT, TYPES, UNUSED])
const result = await runSuite(findTestFiles(['test']))
const { counts } = result
const failed = counts.fail + counts.cancelled
const failures = [
  ...describeFailures(checks),
  ...result.failedFiles.map((file) => `✖ to repeat: COMMONPAGE_FULL=1 npm test -- ${file}`),
  ...(counts.tests === 0 ? ['✖ no test was run'] : []),
]
const skips = describeSkips(result.skipped)
const file = writeEvidence('check-full', 'The last full check', [
  'Written by `npm run check:full`, which runs every test at full counts.',
  '',
  '| tests | passed | failed | skipped | minutes |',
  '| ---: | ---: | ---: | ---: | ---: |',
  `| ${counts.tests} | ${counts.pass} | ${failed} | ${counts.skipped} | ${(result.durationMs / 60_000).toFixed(1)} |`,
  '',
  ...(failures.length === 0 ? [] : [...failures.map((line) => `- ${line}`), '']),
  ...(skips.length === 0 ? [] : [...skips.map((line) => `- ${line}`), '']),
  '| of | figures |',
  '| --- | --- |',
  ...result.evidence.map(([name, value]) => `| ${name} | ${value} |`),
])

console.log(
  [
    `written: ${relative(ROOT, file)}`,
    ...skips,
    ...failures,
    ...advice,
    ...closingLines(result),
  ].join('\n'),
)
const noSkipAllowed = process.env['REQUIRE_ALL'] === '1'
const passed = failures.length === 0 && failed === 0 && !(noSkipAllowed && counts.skipped > 0)
process.exitCode = passed ? 0 : 1
