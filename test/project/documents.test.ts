/**
 * The documents hold what they promise: links lead somewhere, the pages written from code match it, and no
 * tracked file names a place that exists on one machine only.
 */
import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, test } from 'node:test'

import { checkoutFiles } from '../../scripts/checkout-files.ts'
import { ERRORS_PAGE, renderErrors } from '../../scripts/render-errors.ts'
import { ROOT } from '../../scripts/steps.ts'

const MAX_README_LINES = 200
const LINK = /\[[^\]]*\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/g
const FENCED = /^(```|~~~)[\s\S]*?^\1/gm
const CODE_SPAN = /`[^`\n]*`/g

/** Built from parts, so that this file does not hold what it looks for. */
const BUILD_FOLDERS = ['work', 'tmp/bash_jobs', 'tmp/brief'].map((path) => `/${path}/`)

const documents = globSync('**/*.md', {
  cwd: ROOT,
  exclude: (name) => ['node_modules', 'dist', '.cache', '.git'].includes(name),
}).toSorted()

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8')
}

/** Anchors as GitHub makes them: of headings, and explicit ones. */
function anchorsOf(text: string): Set<string> {
  const prose = text.replace(FENCED, '')
  const anchors = new Set<string>()
  for (const [, id] of prose.matchAll(/<a id="([^"]+)"/g)) anchors.add(id ?? '')
  for (const [, title] of prose.matchAll(/^#{1,6}\s+(.+)$/gm)) {
    const base = (title ?? '')
      .trim()
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-')
    let anchor = base
    for (let n = 1; anchors.has(anchor); n++) anchor = `${base}-${n}`
    anchors.add(anchor)
  }
  return anchors
}

function brokenLinks(file: string, text: string): string[] {
  const prose = text.replace(FENCED, '').replace(CODE_SPAN, '')
  return [...prose.matchAll(LINK)].flatMap(([, link = '']) => {
    if (/^[a-z]+:/.test(link)) return []
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? file : relative(ROOT, join(ROOT, dirname(file), path))
    if (!existsSync(join(ROOT, target))) return [`${file}: ${link}: no such file`]
    if (anchor === undefined || !target.endsWith('.md')) return []
    return anchorsOf(target === file ? text : read(target)).has(anchor)
      ? []
      : [`${file}: ${link}: no such heading`]
  })
}

describe('documents', () => {
  test('there are documents', () => {
    assert.ok(documents.includes('README.md'))
  })

  for (const file of documents) {
    test(`links of ${file} lead somewhere`, () => {
      assert.deepEqual(brokenLinks(file, read(file)), [])
    })
  }

  test(`README.md has at most ${MAX_README_LINES} lines`, () => {
    assert.ok(read('README.md').split('\n').length - 1 <= MAX_README_LINES)
  })

  test('the link check finds a broken link and passes a good one', () => {
    const text =
      '# A heading\n[a](nowhere.md) [b](#a-heading) [c](docs/architecture.md#none) `[d](x.md)` [e](package.json)'
    assert.deepEqual(brokenLinks('README.md', text), [
      'README.md: nowhere.md: no such file',
      'README.md: docs/architecture.md#none: no such heading',
    ])
    assert.ok(anchorsOf(text).has('a-heading'))
  })
})

describe('pages written from code', () => {
  test('docs/reference/errors.md lists every error code, and no other', async () => {
    const page = existsSync(ERRORS_PAGE) ? readFileSync(ERRORS_PAGE, 'utf8') : ''
    assert.equal(page, await renderErrors(), 'run: npm run render')
  })
})

describe('dependencies', () => {
  test('each has its line in the decision record', () => {
    const { dependencies } = JSON.parse(read('package.json')) as {
      dependencies: Record<string, string>
    }
    const record = read('docs/adr/0001-runtime-and-dependencies.md')
    const unexplained = Object.entries(dependencies).filter(([name, range]) => {
      const version = range.replace(/^npm:.*@/, '')
      return !record
        .split('\n')
        .some(
          (line) =>
            line.startsWith(`| ${name} `) && (name === 'nbd-server-ts' || line.includes(version)),
        )
    })
    assert.deepEqual(unexplained, [])
    assert.ok(Object.keys(dependencies).length <= 16, 'at most 16 at run time')
  })
})

describe('tracked files', () => {
  test('no file names a folder of the machine it was written on', () => {
    const files = checkoutFiles({ untracked: false })
    assert.ok(files.includes('package.json'))
    const guilty = files.filter((file) => {
      if (!existsSync(join(ROOT, file))) return false
      const text = readFileSync(join(ROOT, file), 'latin1')
      return BUILD_FOLDERS.some((folder) => new RegExp(`(?<![\\w.$}-])${folder}`).test(text))
    })
    assert.deepEqual(guilty, [])
  })

  test('no program takes the path of a URL for the path of a file: a folder may have a space', () => {
    const programs = checkoutFiles({ untracked: true }).filter((file) => /\.[jt]s$/.test(file))
    const guilty = programs.filter(
      (file) =>
        existsSync(join(ROOT, file)) &&
        /import\.meta\.url\s*,?\s*\)\s*\.pathname/.test(readFileSync(join(ROOT, file), 'utf8')),
    )
    assert.deepEqual(guilty, [], 'fileURLToPath(new URL(…)) is the path of the file')
  })
})
