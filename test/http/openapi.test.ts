/** The committed API description equals what the routes say. `COMMONPAGE_UPDATE=1` writes it anew. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { after, describe, test } from 'node:test'

import { errorDefinitions } from '../../src/core/index.ts'
import { OPERATIONS } from '../../src/server/http/operations.ts'
import { startTestServer } from './test-server.ts'

const PATH = new URL('../../docs/reference/openapi.json', import.meta.url)
/** The document of a release has that release's version; the committed one shows changes of the API only. */
const VERSION = '0.0.0'

interface Documented {
  readonly operationId: string
  readonly summary: string
  readonly tags: readonly string[]
  readonly description?: string
  readonly parameters?: readonly { readonly name: string; readonly in: string }[]
  readonly responses: Readonly<Record<string, { readonly description: string }>>
}

const server = await startTestServer({ version: VERSION })
after(() => server[Symbol.asyncDispose]())
const text = (await server.app.inject({ url: '/openapi.json' })).body
const document = JSON.parse(text) as {
  openapi: string
  paths: Record<string, Record<string, Documented>>
  components: { schemas: Record<string, unknown> }
}
const documented = Object.values(document.paths).flatMap((path) => Object.values(path))

describe('openapi.json', () => {
  test('is committed as it is', async () => {
    if (process.env['COMMONPAGE_UPDATE'] === '1') await writeFile(PATH, text)
    assert.equal(
      text,
      await readFile(PATH, 'utf8'),
      'run this test with COMMONPAGE_UPDATE=1 to write it anew',
    )
  })

  test('has every operation once, and no other', () => {
    const known = Object.keys(OPERATIONS).filter((id) => id !== 'unmatched')
    assert.deepEqual(documented.map((row) => row.operationId).toSorted(), known.toSorted())
  })

  test('each operation says what it is, what it takes and how it fails', () => {
    for (const row of documented) {
      assert.ok(row.summary.length > 0 && row.tags.length === 1, row.operationId)
      assert.ok(row.responses['default']?.description, row.operationId)
      assert.ok(Object.keys(row.responses).length >= 2, row.operationId)
    }
    for (const [path, methods] of Object.entries(document.paths)) {
      const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
      for (const row of Object.values(methods)) {
        const given = (row.parameters ?? []).filter((parameter) => parameter.in === 'path')
        assert.deepEqual(
          given.map((parameter) => parameter.name),
          names,
          row.operationId,
        )
      }
    }
  })

  test('every error code that it names exists', () => {
    const known = new Set(errorDefinitions().map(([code]) => code))
    for (const [code] of text.matchAll(/ERR_[A-Z_]+/g)) assert.ok(known.has(code), code)
  })

  test('every reference leads to a component', () => {
    for (const [, name = ''] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      assert.ok(name in document.components.schemas, name)
    }
  })
})
