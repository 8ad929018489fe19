/**
 * `npm run check`: what can be known in seconds: format, lint, types, unused code, and the tests of the
 * modules that do no I/O. `npm test` does all of it and the rest.
 */
import { describeFailures, FORMAT, LINT, runSteps, TYPES, UNUSED } from './steps.ts'
import { closingLines, findTestFiles, runSuite } from './suite.ts'

const PURE_TESTS = [
  'test/core',
  'test/erofs',
  'test/oci',
  'test/project/imports.test.ts',
  'test/project/documents.test.ts',
]

const checks = await runSteps([FORMAT, LINT, TYPES, UNUSED])
const result = await runSuite(findTestFiles(PURE_TESTS))
const failures = [
  ...describeFailures(checks),
  ...result.failedFiles.map((file) => `✖ to repeat: npm test -- ${file}`),
]
console.log([...failures, ...closingLines(result)].join('\n'))
process.exitCode = failures.length === 0 && result.counts.cancelled === 0 ? 0 : 1
