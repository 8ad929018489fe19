/** Environment variables: those that the code reads, those that `serve` knows and those of the documents are the same. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { checkoutFiles } from '../../scripts/checkout-files.ts'
import { ROOT } from '../../scripts/steps.ts'
import {
  DEVELOPMENT_VARIABLES,
  environmentName,
  SETTING_PATHS,
  VARIABLES,
} from '../../src/server/settings.ts'

const SETTING_VARIABLES = new Set(SETTING_PATHS.map(environmentName))
const known = new Set([
  ...SETTING_VARIABLES,
  ...Object.keys(VARIABLES),
  ...Object.keys(DEVELOPMENT_VARIABLES),
])
/** Reading, and the one constant that is exported; test files also make names up. */
const READ = /(?:\benv(?:\?\.|\.|\[['"])|_VARIABLE = ['"])(COMMONPAGE_[A-Z_]+)/g
/** Of tests, benchmarks and tasks only: a server never sees them. */
const READ_BY_TESTS = /\benv\[['"]((?:BENCH|REQUIRE|SOAK|UPDATE)_[A-Z_]+)/g
const NAMED = /\bCOMMONPAGE_[A-Z]+(?:_+[A-Z]+)*\b/g

const files = checkoutFiles({ untracked: true })
const code = files.filter((file) => /^(src|scripts|bench|bin|test)\/.*\.[jt]s$/.test(file))
const documents = files.filter((file) => /\.md$|^deploy\/|Dockerfile/.test(file))

function namesIn(paths: readonly string[], pattern: RegExp): Map<string, string> {
  const found = new Map<string, string>()
  for (const path of paths) {
    const text = readFileSync(join(ROOT, path), 'utf8')
    for (const [all, name] of text.matchAll(pattern)) found.set(name ?? all, path)
  }
  return found
}

describe('environment variables', () => {
  const read = namesIn(code, READ)

  test('what the code reads is known', () => {
    assert.ok(read.has('COMMONPAGE_LOG') && read.has('COMMONPAGE_SERVER'), 'the search finds them')
    for (const [name, path] of read) assert.ok(known.has(name), `${path} reads ${name}`)
  })

  test('what is known is read', () => {
    for (const name of known) {
      assert.ok(SETTING_VARIABLES.has(name) || read.has(name), `nobody reads ${name}`)
    }
  })

  test('what documents and deployments name is known', () => {
    const named = namesIn(documents, NAMED)
    for (const [name, path] of named) assert.ok(known.has(name), `${path} names ${name}`)
  })

  test('what is known is documented with its meaning', () => {
    const reference = readFileSync(join(ROOT, 'docs/reference/cli.md'), 'utf8')
    for (const [name, doc] of Object.entries(VARIABLES)) {
      assert.ok(reference.includes(`| \`${name}\` | ${doc} |`), name)
    }
    for (const name of SETTING_VARIABLES) assert.ok(reference.includes(`\`${name}\``), name)
    const contributing = readFileSync(join(ROOT, 'CONTRIBUTING.md'), 'utf8').replaceAll(
      / +\|/g,
      ' |',
    )
    for (const [name, doc] of Object.entries(DEVELOPMENT_VARIABLES)) {
      const row = new RegExp(`\\| \`${name}\` +\\| ${RegExp.escape(doc)} \\|`)
      assert.match(contributing, row)
    }
  })

  test('what tests and benchmarks read is documented', () => {
    const pages = ['CONTRIBUTING.md', 'bench/README.md'].map((page) =>
      readFileSync(join(ROOT, page), 'utf8'),
    )
    const readByTests = namesIn(code, READ_BY_TESTS)
    assert.ok(readByTests.has('BENCH_ROUNDS') && readByTests.has('SOAK_SEED'), 'finds them')
    for (const [name, path] of readByTests) {
      assert.ok(
        pages.some((page) => page.includes(`| \`${name}\``)),
        `${path} reads ${name}`,
      )
    }
  })
})
