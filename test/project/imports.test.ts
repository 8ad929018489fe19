/**
 * The boundaries between modules, as docs/architecture.md draws them: who may import whom, values only through
 * the other module's index.ts, and what every source file looks like from outside.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, test } from 'node:test'

import { importsIn, importsOf, moduleOf, ROOT, sourceFiles } from './source-imports.ts'
import type { SourceImport } from './source-imports.ts'

/** What a module may import, besides itself. A name in `types` may be imported as types only. */
interface Allowance {
  readonly values: readonly string[]
  readonly types: readonly string[]
}

const ALLOWED: Readonly<Record<string, Allowance>> = {
  core: { values: [], types: [] },
  nbd: { values: [], types: [] },
  erofs: { values: ['core'], types: [] },
  cache: { values: ['core'], types: [] },
  tar: { values: ['core'], types: [] },
  oci: { values: ['core', 'tar'], types: [] },
  store: { values: ['core', 'erofs', 'oci'], types: ['cache'] },
  images: { values: ['core', 'erofs', 'cache', 'oci', 'store', 'tar'], types: [] },
  dashboard: { values: ['core'], types: ['server'] },
  server: {
    values: ['core', 'nbd', 'erofs', 'cache', 'oci', 'tar', 'store', 'images', 'dashboard'],
    types: [],
  },
  // The command talks to a server over HTTP; `serve` alone starts one, the demo reads over NBD, archives are sent.
  cli: { values: ['core', 'nbd', 'server', 'tar'], types: [] },
}

/**
 * Besides index.ts: tables that the command reads before, or without, loading the whole server. A module's
 * errors.ts is one everywhere.
 */
const LIGHT_FACES = ['src/server/config.ts', 'src/server/settings.ts', 'src/server/error-tables.ts']

/** The NBD library is imported by its package name, as any other program would. */
const NBD_PACKAGE = 'nbd-server-ts'
const MAX_LINES = 500
const VAGUE_NAME = /^(?:utils?|helpers?|common|managers?|misc)$|(?:utils?|helpers?|manager)$/

/** What is wrong with one reference, or undefined. */
function breach(reference: SourceImport): string | undefined {
  const from = moduleOf(reference.from)
  const byPackage = reference.specifier === NBD_PACKAGE
  const to = byPackage ? 'nbd' : reference.target && moduleOf(reference.target)
  if (from === undefined) return undefined
  if (to === undefined) {
    const leaves = reference.target !== undefined && !reference.target.startsWith('src/')
    // A file that is read, such as package.json, is no import.
    const isModule = /\.[jt]s$/.test(reference.target ?? '')
    return leaves && isModule ? 'src imports nothing from outside of src' : undefined
  }
  if (to === from) return undefined
  const allowed = ALLOWED[from]
  if (allowed === undefined) return `src/${from} is not in the table of modules`
  const asType = reference.typeOnly && allowed.types.includes(to)
  if (!asType && !allowed.values.includes(to)) return `${from} must not import ${to}`
  if (to === 'nbd' && !byPackage) return `import the NBD library by its name, ${NBD_PACKAGE}`
  const erased = reference.typeOnly || reference.byUrl
  const face = reference.target ?? ''
  const isFace = ['index.ts', 'errors.ts'].includes(basename(face)) || LIGHT_FACES.includes(face)
  if (!byPackage && !erased && !isFace) {
    return `import from src/${to}/index.ts, the module's public face`
  }
  return undefined
}

function show(reference: SourceImport, why: string): string {
  return `${reference.from}:${reference.line}: '${reference.specifier}': ${why}`
}

function breaches(references: readonly SourceImport[]): string[] {
  return references.flatMap((reference) => {
    const why = breach(reference)
    return why === undefined ? [] : [show(reference, why)]
  })
}

describe('module boundaries', () => {
  const files = sourceFiles('src')

  test('imports follow the direction of the modules', () => {
    assert.deepEqual(breaches(files.flatMap(importsOf)), [])
  })

  test('every relative import names a file that exists', () => {
    const dangling = files
      .flatMap(importsOf)
      .filter(({ target }) => target !== undefined && !existsSync(join(ROOT, target)))
      .map((reference) => show(reference, 'no such file'))
    assert.deepEqual(dangling, [])
  })

  test('the NBD library uses nothing but Node', () => {
    const foreign = sourceFiles('src/nbd')
      .flatMap(importsOf)
      .filter(({ specifier }) => !specifier.startsWith('.') && !specifier.startsWith('node:'))
      .map((reference) => show(reference, 'a dependency'))
    assert.deepEqual(foreign, [])
  })

  test('every module has a public face that says what it is for', () => {
    const modules = new Set(files.map(moduleOf).filter((name) => name !== undefined))
    for (const name of modules) {
      const index = join(ROOT, 'src', name, 'index.ts')
      assert.ok(existsSync(index), `src/${name}/index.ts is missing`)
      assert.match(
        readFileSync(index, 'utf8'),
        /^\/\*\*\n? \*? ?\S/,
        `src/${name}/index.ts opens with a paragraph`,
      )
    }
  })
})

describe('source files', () => {
  const files = ['src', 'test', 'bench', 'scripts'].flatMap(sourceFiles)

  test('every file but a test opens with a paragraph of what it is responsible for', () => {
    const silent = files.filter((file) => {
      if (file.endsWith('.test.ts')) return false
      // A directive to a tool has to stand first.
      const text = readFileSync(join(ROOT, file), 'utf8').replace(/^(?:#!|\/\/ oxlint)[^\n]*\n/, '')
      return !text.startsWith('/**')
    })
    assert.deepEqual(silent, [])
  })

  test(`no file is longer than ${MAX_LINES} lines`, () => {
    const long = files.filter(
      (file) => readFileSync(join(ROOT, file), 'utf8').split('\n').length - 1 > MAX_LINES,
    )
    assert.deepEqual(long, [])
  })

  test('no file or folder has a name that says nothing', () => {
    const vague = files.filter((file) =>
      file
        .replace(/\.test\.ts$|\.ts$/, '')
        .split('/')
        .some((part) => VAGUE_NAME.test(part)),
    )
    assert.deepEqual(vague, [])
  })
})

describe('the boundary check itself', () => {
  const cases: readonly [file: string, code: string, expected: RegExp | undefined][] = [
    ['src/core/x.ts', "import { a } from '../cache/index.ts'", /core must not import cache/],
    ['src/cache/x.ts', "export * from '../erofs/index.ts'", /cache must not import erofs/],
    ['src/store/x.ts', "import { a } from '../cache/index.ts'", /store must not import cache/],
    ['src/store/x.ts', "import type { A } from '../cache/index.ts'", undefined],
    [
      'src/images/x.ts',
      "const a = await import('../server/index.ts')",
      /images must not import server/,
    ],
    [
      'src/images/x.ts',
      "siblingModule(import.meta.url, '../server/y')",
      /images must not import server/,
    ],
    ['src/server/x.ts', "siblingModule(import.meta.url, '../images/import-process')", undefined],
    ['src/server/x.ts', "import {\n  a,\n  b,\n} from '../cache/arena.ts'", /public face/],
    ['src/cli/x.ts', "import type { A } from '../server/http/schemas.ts'", undefined],
    ['src/server/x.ts', "import { a } from '../nbd/index.ts'", /by its name/],
    ['src/server/x.ts', "import { a } from 'nbd-server-ts'", undefined],
    ['src/images/x.ts', "import { a } from 'nbd-server-ts'", /images must not import nbd/],
    ['src/cli/x.ts', "import '../../test/requires.ts'", /nothing from outside/],
    ['src/core/x.ts', "// import { a } from '../cache/index.ts'", undefined],
    ['src/core/x.ts', "/**\n * import { a } from '../cache/index.ts'\n */", undefined],
  ]
  for (const [file, code, expected] of cases) {
    test(`${file}: ${code.replaceAll('\n', ' ')}`, () => {
      const found = breaches(importsIn(file, code))
      if (expected === undefined) assert.deepEqual(found, [])
      else assert.match(found.join('\n'), expected)
    })
  }
})
