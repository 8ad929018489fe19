import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { RunList } from '../../src/cache/index.ts'
import { AddressMap, FlattenedMap } from '../../src/images/index.ts'
import type { RangeMap, ViewBlob } from '../../src/images/index.ts'
import { FileMap } from '../../src/images/file-map.ts'
import { decodeMap, MapBuilder } from '../../src/store/index.ts'
import { count } from '../store/data-folder.ts'

const BLOBS: readonly ViewBlob[] = [1, 2, 3].map((n) => ({
  digest: `sha256:${String(n).repeat(64)}`,
  size: 2 ** 50,
  blobNo: n * 7,
  ordinalBase: n * 1000,
}))
const FACTS = { parsedAsErofs: false, logicalBytes: 0, inodeCount: 0 }

/** 0: zeros; k: blob k. */
interface Piece {
  readonly source: number
  readonly offset: number
  readonly length: number
}

const pieces = (minLength: number): fc.Arbitrary<Piece[]> =>
  fc.array(
    fc.record({
      source: fc.nat({ max: 3 }),
      offset: fc.oneof(fc.nat({ max: 50 }), fc.nat({ max: 2 ** 40 })),
      length: fc.integer({ min: 1, max: 40 }),
    }),
    { minLength, maxLength: 30 },
  )

function mapOf(list: readonly Piece[]): AddressMap {
  const builder = new MapBuilder()
  for (const _ of BLOBS) builder.addSource()
  for (const { source, offset, length } of list) {
    if (source === 0) builder.addZeros(length)
    else builder.addPiece(length, source, offset)
  }
  const map = decodeMap(
    builder.encode(
      BLOBS.map((blob) => ({ blob, base: 0 })),
      FACTS,
    ),
  )
  return new AddressMap(
    map,
    map.blobs.map(({ digest }) => BLOBS.find((blob) => blob.digest === digest) ?? assert.fail()),
  )
}

/** One entry for each byte: the naive model. */
function bytesOf(list: readonly Piece[]): string[] {
  return list.flatMap(({ source, offset, length }) =>
    Array.from({ length }, (_, at) => (source === 0 ? 'zero' : `${source * 7}:${offset + at}`)),
  )
}

function mapped(map: RangeMap, offset: number, length: number): string[] {
  const runs = new RunList()
  map.mapRange(offset, length, runs)
  assert.equal(runs.byteLength, length)
  return Array.from({ length: runs.count }, (_, run) =>
    Array.from({ length: runs.length(run) }, (_byte, at) => {
      if (runs.blobNo(run) === 0) return 'zero'
      assert.equal(runs.ordinalBase(run), (runs.blobNo(run) / 7) * 1000)
      return `${runs.blobNo(run)}:${runs.offset(run) + at}`
    }),
  ).flat()
}

function visited(map: RangeMap, offset: number, length: number): string[] {
  const bytes: string[] = []
  map.visitRange(offset, length, {
    piece: (blob, from, size) => {
      for (let at = 0; at < size; at++) bytes.push(`${blob.blobNo}:${from + at}`)
    },
    zeros: (size) => {
      for (let at = 0; at < size; at++) bytes.push('zero')
    },
  })
  return bytes
}

const runs = { numRuns: count(5000, 300), seed: 20261123 }

describe('address maps', () => {
  test('any range of any map equals the naive model', () => {
    fc.assert(
      fc.property(pieces(1), fc.nat(), fc.nat(), (list, a, b) => {
        const map = mapOf(list)
        const model = bytesOf(list)
        const offset = a % (model.length + 1)
        const length = b % (model.length - offset + 1)
        assert.deepEqual(mapped(map, offset, length), model.slice(offset, offset + length))
        assert.deepEqual(visited(map, offset, length), model.slice(offset, offset + length))
      }),
      runs,
    )
  })

  test('a flattened view is its devices at their addresses and zeros between them', () => {
    const device = fc.record({ list: pieces(1), gap: fc.nat({ max: 20 }) })
    fc.assert(
      fc.property(
        fc.array(device, { minLength: 1, maxLength: 4 }),
        fc.nat(),
        fc.nat(),
        (devices, a, b) => {
          const model: string[] = []
          const placed = devices.map(({ list, gap }) => {
            for (let at = 0; at < gap; at++) model.push('zero')
            const offset = model.length
            model.push(...bytesOf(list))
            return { offset, map: mapOf(list) }
          })
          const map = new FlattenedMap(placed.toReversed())
          assert.equal(map.size, model.length)
          const offset = a % (model.length + 1)
          const length = b % (model.length - offset + 1)
          assert.deepEqual(mapped(map, offset, length), model.slice(offset, offset + length))
          assert.deepEqual(visited(map, offset, length), model.slice(offset, offset + length))
        },
      ),
      runs,
    )
  })

  test('a file map is its extents', () => {
    const extents = fc.array(
      fc.record({
        from: fc.nat({ max: 200 }),
        length: fc.integer({ min: 1, max: 30 }),
        hole: fc.boolean(),
      }),
      { minLength: 1, maxLength: 20 },
    )
    fc.assert(
      fc.property(extents, fc.nat(), fc.nat(), (list, a, b) => {
        const device = [
          { source: 1, offset: 5, length: 100 },
          { source: 2, offset: 0, length: 200 },
        ]
        const bytes = bytesOf(device)
        const map = new FileMap(
          list.map(({ from, length, hole }) =>
            hole
              ? ({ kind: 'hole', length } as const)
              : ({ kind: 'data', device: 0, deviceOffset: from, length } as const),
          ),
          [mapOf(device)],
        )
        const model = list.flatMap(({ from, length, hole }) =>
          hole ? Array.from({ length }, () => 'zero') : bytes.slice(from, from + length),
        )
        const offset = a % (model.length + 1)
        const length = b % (model.length - offset + 1)
        assert.deepEqual(mapped(map, offset, length), model.slice(offset, offset + length))
        assert.deepEqual(visited(map, offset, length), model.slice(offset, offset + length))
      }),
      runs,
    )
  })

  test('offsets up to 2^53 survive', () => {
    const size = 2 ** 52
    const map = mapOf([
      { source: 0, offset: 0, length: size },
      { source: 1, offset: 2 ** 49, length: 3 },
    ])
    assert.deepEqual(mapped(map, size - 1, 3), ['zero', `7:${2 ** 49}`, `7:${2 ** 49 + 1}`])
  })

  test('a range outside of the map is refused', () => {
    const map = mapOf([{ source: 1, offset: 0, length: 10 }])
    const out = new RunList()
    for (const [offset, length] of [
      [-1, 1],
      [0, 11],
      [11, 0],
      [NaN, 1],
      [5, -1],
    ] as const) {
      assert.throws(() => map.mapRange(offset, length, out), RangeError)
      assert.throws(
        () => new FlattenedMap([{ offset: 0, map }]).mapRange(offset, length, out),
        RangeError,
      )
    }
  })
})
