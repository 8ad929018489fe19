/** docs/format/store.md and the codecs say the same: each table of fields against the constants, both ways. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import {
  BLOB_INDEX,
  BLOB_INDEX_HEADER_BYTES,
  BLOB_INDEX_MAGIC,
} from '../../src/store/blob-index-codec.ts'
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, MAX_CHUNK_BYTES } from '../../src/store/chunk-record.ts'
import {
  RECORDS_PER_BLOCK,
  RUN,
  RUN_HEADER_BYTES,
  RUN_MAGIC,
  RUN_RECORD_BYTES,
} from '../../src/store/chunk-run-codec.ts'
import {
  EXTENT,
  EXTENT_BYTES,
  MAP,
  MAP_BLOB,
  MAP_BLOB_BYTES,
  MAP_HEADER_BYTES,
  MAP_MAGIC,
} from '../../src/store/map-codec.ts'

const page = readFileSync(join(import.meta.dirname, '../../docs/format/store.md'), 'utf8')

/** The rows of the table that follows `<!-- layout: NAME -->`: field → offset, and where the last one ends. */
function documented(name: string): { fields: Record<string, number>; end: number } {
  const after = page.split(`<!-- layout: ${name} -->`)[1]
  assert.ok(after, `the page has a table ${name}`)
  const fields: Record<string, number> = {}
  let end = 0
  for (const line of after.trimStart().split('\n').slice(2)) {
    if (!line.startsWith('|')) break
    const [, offset, size, field = ''] = line.split('|').map((cell) => cell.trim())
    assert.equal(Number(offset), end, `${name}.${field} follows the field before it`)
    fields[field] = Number(offset)
    end += Number(size)
  }
  return { fields, end }
}

const extentOffsets = Object.fromEntries(
  Object.entries(EXTENT).map(([field, word]) => [field, word * 4]),
)

describe('format page', () => {
  for (const [name, layout, size] of [
    ['BLOB_INDEX', BLOB_INDEX, BLOB_INDEX_HEADER_BYTES],
    ['CHUNK_ENTRY', CHUNK_ENTRY, CHUNK_ENTRY_BYTES],
    ['MAP', MAP, MAP_HEADER_BYTES],
    ['MAP_BLOB', MAP_BLOB, MAP_BLOB_BYTES],
    ['EXTENT', extentOffsets, EXTENT_BYTES],
    ['RUN', RUN, RUN_HEADER_BYTES],
  ] as const) {
    test(`${name} has the fields, offsets and size of the code`, () => {
      const { fields, end } = documented(name)
      assert.deepEqual(fields, { ...layout })
      assert.equal(end, size)
    })
  }

  test('magics and sizes in the text', () => {
    for (const text of [
      BLOB_INDEX_MAGIC,
      MAP_MAGIC,
      RUN_MAGIC,
      `1 to ${MAX_CHUNK_BYTES}`,
      `each ${RECORDS_PER_BLOCK} records of ${RUN_RECORD_BYTES} bytes`,
    ]) {
      assert.ok(page.includes(text), text)
    }
  })
})
