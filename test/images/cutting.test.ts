/** The tables that cutting stands on, each against a naive model. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { rawDigestOf } from '../../src/core/index.ts'
import { ChunkParts } from '../../src/images/import/chunk-parts.ts'
import { rowsInOrder, upperBound } from '../../src/images/import/columns.ts'
import { DataExtents } from '../../src/images/import/data-extents.ts'
import { DigestTable } from '../../src/images/import/digest-table.ts'
import { MappingTable } from '../../src/images/import/mapping-table.ts'
import {
  CutPoints,
  cutIntoPieces,
  FIXED_PIECE_BYTES,
  METADATA_BLOCK_BYTES,
} from '../../src/images/import/metadata-cuts.ts'
import { isZero } from '../../src/images/import/piece-store.ts'
import { count } from '../store/data-folder.ts'

const runs = { numRuns: count(5000, 300), seed: 20261123 }
const SPACE = 120

const intervals = fc.uniqueArray(fc.nat({ max: SPACE }), { maxLength: 6 }).map((borders) => {
  const sorted = borders.toSorted((a, b) => a - b)
  const pairs = sorted.length >> 1
  return {
    starts: Float64Array.from({ length: pairs }, (_, i) => sorted[2 * i] ?? 0),
    ends: Float64Array.from({ length: pairs }, (_, i) => sorted[2 * i + 1] ?? 0),
  }
})

const files = fc.array(
  fc.array(
    fc.record({ address: fc.nat({ max: SPACE - 20 }), length: fc.integer({ min: 1, max: 20 }) }),
    { maxLength: 5 },
  ),
  { maxLength: 6 },
)

function extentsOf(list: readonly (readonly { address: number; length: number }[])[]): DataExtents {
  const extents = new DataExtents()
  for (const file of list) {
    extents.beginFile(file.reduce((sum, { length }) => sum + length, 0))
    let logical = 0
    for (const { address, length } of file) {
      extents.add(address, length, logical)
      logical += length
    }
  }
  return extents
}

describe('claims', () => {
  test('every byte that any file refers to has one owner or is taken', () => {
    fc.assert(
      fc.property(files, intervals, (list, taken) => {
        const extents = extentsOf(list)
        const covered = extents.claim(taken)
        const owners = new Uint8Array(SPACE + 1)
        for (let row = 0; row < extents.rows; row++) {
          const end = extents.address.at(row) + extents.length.at(row)
          assert.ok(extents.ownedFrom(row) >= extents.address.at(row))
          for (let at = extents.ownedFrom(row); at < end; at++) owners[at] = (owners[at] ?? 0) + 1
        }
        for (let at = 0; at <= SPACE; at++) {
          const isTaken = taken.starts.some((start, i) => start <= at && at < (taken.ends[i] ?? 0))
          const isData = list
            .flat()
            .some((one) => one.address <= at && at < one.address + one.length)
          const isCovered = covered.starts.some(
            (start, i) => start <= at && at < (covered.ends[i] ?? 0),
          )
          assert.equal(isCovered, isTaken || isData, `byte ${at} covered`)
          if (!isTaken) assert.equal(owners[at], isData ? 1 : 0, `owners of byte ${at}`)
        }
        for (let i = 1; i < covered.starts.length; i++) {
          assert.ok((covered.starts[i] ?? 0) > (covered.ends[i - 1] ?? 0))
        }
      }),
      runs,
    )
  })

  test('taken ranges have no other owner when extents lie in them or outside of them', () => {
    const extents = extentsOf([[{ address: 10, length: 20 }], [{ address: 60, length: 5 }]])
    extents.claim({ starts: Float64Array.of(0), ends: Float64Array.of(50) })
    assert.equal(extents.ownedFrom(0), 30)
    assert.equal(extents.ownedFrom(1), 60)
  })

  test('files come in the order of their first byte, empty ones not at all', () => {
    const extents = extentsOf([[{ address: 50, length: 1 }], [], [{ address: 3, length: 9 }]])
    assert.deepEqual([...extents.filesInDeviceOrder()], [2, 0])
  })
})

describe('chunk parts', () => {
  test('gather what the rows say, map what they own', () => {
    const device = Buffer.from(Array.from({ length: SPACE + 1 }, (_, at) => at + 1))
    const rows = fc.array(
      fc.record({
        address: fc.nat({ max: SPACE - 20 }),
        length: fc.integer({ min: 1, max: 20 }),
        hole: fc.nat({ max: 10 }),
      }),
      { minLength: 1, maxLength: 8 },
    )
    fc.assert(
      fc.property(rows, fc.integer({ min: 1, max: 32 }), (list, chunk) => {
        const extents = new DataExtents()
        extents.beginFile(0)
        const model: number[] = []
        for (const { address, length, hole } of list) {
          for (let at = 0; at < hole; at++) model.push(0)
          extents.add(address, length, model.length)
          for (let at = 0; at < length; at++) model.push(address + at + 1)
        }
        extents.claim({ starts: new Float64Array(0), ends: new Float64Array(0) })
        const parts = new ChunkParts(64)
        const mapped = new Map<number, number>()
        let row = 0
        for (let start = 0; start < model.length; start += chunk) {
          const length = Math.min(chunk, model.length - start)
          row = parts.take(extents, row, extents.rows, start, length)
          const bytes = Buffer.alloc(length, 0xff)
          parts.gather(bytes, (address, target) => device.copy(target, 0, address))
          assert.deepEqual([...bytes], model.slice(start, start + length))
          if (parts.onlyAddress >= 0) assert.equal(bytes[0], parts.onlyAddress + 1)
          let owned = 0
          parts.visitOwned(0, length, (address, size, offset) => {
            owned += size
            for (let at = 0; at < size; at++) {
              assert.ok(!mapped.has(address + at), `byte ${address + at} is mapped twice`)
              mapped.set(address + at, start + offset + at)
            }
          })
          assert.equal(owned, parts.ownedBytes)
        }
        for (const [address, at] of mapped) assert.equal(model[at], address + 1)
        const referred = new Set(model.filter((byte) => byte > 0))
        assert.equal(mapped.size, referred.size)
      }),
      runs,
    )
  })
})

describe('metadata cuts', () => {
  test('pieces cover the range, end at every border and cross no block', () => {
    const border = fc.nat({ max: 4 * FIXED_PIECE_BYTES })
    fc.assert(
      fc.property(border, border, fc.array(border, { maxLength: 12 }), (a, b, borders) => {
        const from = Math.min(a, b)
        const to = Math.max(a, b)
        const device = { base: 0, size: 4 * FIXED_PIECE_BYTES + 100 }
        const points = new CutPoints()
        for (const point of borders) points.add(point)
        let at = from
        cutIntoPieces(from, to, device, points, (address, length, kind) => {
          assert.equal(address, at)
          assert.ok(length > 0)
          assert.ok(!borders.some((point) => address < point && point < address + length))
          if (kind === 'packed') {
            const block = Math.floor(address / METADATA_BLOCK_BYTES)
            assert.equal(Math.floor((address + length - 1) / METADATA_BLOCK_BYTES), block)
          } else {
            assert.equal(address % FIXED_PIECE_BYTES, 0)
            assert.ok(length <= FIXED_PIECE_BYTES)
          }
          at += length
        })
        assert.equal(at, Math.max(from, to))
      }),
      runs,
    )
  })

  test('a device without borders is cut in windows, the last one short', () => {
    const pieces: unknown[] = []
    const size = 2 * FIXED_PIECE_BYTES + 5
    cutIntoPieces(0, size, { base: 0, size }, new CutPoints(), (...piece) => pieces.push(piece))
    assert.deepEqual(pieces, [
      [0, FIXED_PIECE_BYTES, 'block'],
      [FIXED_PIECE_BYTES, FIXED_PIECE_BYTES, 'block'],
      [2 * FIXED_PIECE_BYTES, 5, 'block'],
    ])
  })
})

describe('tables', () => {
  test('digests are found again, others are not', () => {
    const table = new DigestTable()
    const digest = (n: number): Buffer => rawDigestOf(Buffer.from(String(n)))
    const rows = 10_000
    for (let n = 0; n < rows; n++) assert.equal(table.add(digest(n)), n)
    for (let n = 0; n < rows; n++) {
      assert.equal(table.find(digest(n)), n)
      assert.deepEqual(Buffer.from(table.digestAt(n)), digest(n))
    }
    for (let n = rows; n < 2 * rows; n++) assert.equal(table.find(digest(n)), -1)
  })

  test('a mapping table gives each byte its place, whatever the order', () => {
    const rows = fc.array(
      fc.record({
        length: fc.integer({ min: 1, max: 9 }),
        source: fc.nat({ max: 3 }),
        offset: fc.nat({ max: 30 }),
      }),
      {
        minLength: 1,
        maxLength: 12,
      },
    )
    fc.assert(
      fc.property(rows, fc.infiniteStream(fc.nat()), (list, order) => {
        const table = new MappingTable()
        const model: string[] = []
        const adds = list.map((row) => {
          const address = model.length
          for (let at = 0; at < row.length; at++) {
            model.push(row.source === 0 ? '-' : `${row.source}:${row.offset + at}`)
          }
          return { ...row, address, key: order.next().value ?? 0 }
        })
        for (const row of adds.toSorted((a, b) => a.key - b.key)) {
          if (row.source > 0) table.add(row.address, row.length, row.source, row.offset)
        }
        const [builder] = table.build([{ base: 0, size: model.length }], 3)
        assert.equal(builder?.size, model.length)
        const extents = new Set(model.map((byte, at) => (continues(model[at - 1], byte) ? '' : at)))
          .size
        assert.ok(builder.extentCount <= extents)
      }),
      runs,
    )
  })

  test('rows in order are stable, and bounds are right', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 20 })), fc.nat({ max: 21 }), (keys, value) => {
        const order = [...rowsInOrder(Float64Array.from(keys))]
        const model = keys
          .map((_, row) => row)
          .toSorted((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0) || a - b)
        assert.deepEqual(order, model)
        const sorted = Float64Array.from(keys.toSorted((a, b) => a - b))
        assert.equal(upperBound(sorted, value), sorted.filter((key) => key <= value).length)
      }),
      runs,
    )
  })

  test('zeros are zeros at every length and nothing else is', () => {
    for (const length of [1, 2, 63, 4096, 65_536, 65_537, 200_000]) {
      const bytes = Buffer.alloc(length)
      assert.ok(isZero(bytes))
      for (const at of [0, length >> 1, length - 1]) {
        bytes[at] = 1
        assert.ok(!isZero(bytes), `${length} bytes, one at ${at}`)
        bytes[at] = 0
      }
    }
  })
})

function continues(previous: string | undefined, byte: string): boolean {
  if (previous === undefined) return false
  if (previous === '-' || byte === '-') return previous === byte
  const [source, offset] = previous.split(':')
  return byte === `${source}:${Number(offset) + 1}`
}
