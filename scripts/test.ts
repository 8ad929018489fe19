/**
 * `npm test`: everything of every kind at reduced counts: installs what the tests need (provision.ts), checks
 * format, lint and types, runs all tests, and closes with node's own counts. With paths, only the tests below
 * them. REQUIRE_ALL=1 makes a skipped test a failure; COMMONPAGE_FULL=1 runs the full counts.
 */
import { parseArgs } from 'node:util'

import { provision } from './provision.ts'
import { describeFailures, FORMAT, LINT, runSteps, TYPES, UNUSED } from './steps.ts'
import { closingLines, describeSkips, findTestFiles, runSuite } from './suite.ts'

const USAGE = `usage: npm test [-- PATH...]

  npm test                          everything (installs Debian packages when root)
  npm test -- test/nbd              the tests below a folder, and nothing else
  npm test -- test/nbd/x.test.ts    one file

  REQUIRE_ALL=1       a skipped test is a failure
  COMMONPAGE_FULL=1   full counts instead of reduced ones (see also: npm run check:full)
  COMMONPAGE_NO_APT=1 install no Debian packages
`

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return true
  }
  const everything = positionals.length === 0
  const advice = everything ? provision() : []
  const checks = everything ? await runSteps([FORMAT, LINT, TYPES, UNUSED]) : []
  const files = findTestFiles(everything ? ['test'] : positionals)
  if (files.length === 0) {
    console.log(`no test file below ${positionals.join(', ')}`)
    return false
  }
  const result = await runSuite(files)
  const skipIsFailure = process.env['REQUIRE_ALL'] === '1' && result.skipped.length > 0
  const last = [
    ...result.evidence.map(([name, value]) => `  ${name}: ${value}`),
    ...describeSkips(result.skipped),
    ...(skipIsFailure ? ['✖ REQUIRE_ALL=1: a skipped test is a failure'] : []),
    ...describeFailures(checks),
    ...result.failedFiles.map((file) => `✖ to repeat: npm test -- ${file}`),
    ...advice,
    ...closingLines(result),
  ]
  console.log(last.join('\n'))
  const failed = result.counts.fail + result.counts.cancelled
  return (
    failed === 0 &&
    result.counts.tests > 0 &&
    !skipIsFailure &&
    checks.every(({ passed }) => passed)
  )
}

process.exitCode = (await main()) ? 0 : 1
