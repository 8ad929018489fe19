import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import type { RangeOutcome } from '../../src/server/http/ranges.ts'
import { parseRange } from '../../src/server/http/ranges.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 200_000 : 2_000

const ranges = (...pairs: [number, number][]): RangeOutcome => ({
  kind: 'ranges',
  ranges: pairs.map(([offset, length]) => ({ offset, length })),
})

describe('parseRange', () => {
  const table: [string, number, RangeOutcome][] = [
    ['bytes=0-0', 10, ranges([0, 1])],
    ['bytes=0-9', 10, ranges([0, 10])],
    ['bytes=3-', 10, ranges([3, 7])],
    ['bytes=-3', 10, ranges([7, 3])],
    ['bytes=-10', 10, ranges([0, 10])],
    ['bytes=-2000000', 10, ranges([0, 10])],
    ['bytes=5-100', 10, ranges([5, 5])],
    ['BYTES=1-2', 10, ranges([1, 2])],
    ['bytes=0-99999999999999999999999', 10, ranges([0, 10])],
    ['bytes=-99999999999999999999999', 10, ranges([0, 10])],
    ['bytes=99999999999999999999999-', 10, { kind: 'unsatisfiable' }],
    ['bytes=10-', 10, { kind: 'unsatisfiable' }],
    ['bytes=10-20', 10, { kind: 'unsatisfiable' }],
    ['bytes=-0', 10, { kind: 'unsatisfiable' }],
    ['bytes=10-20,30-40', 10, { kind: 'unsatisfiable' }],
    ['bytes=0-1,8-9', 10, ranges([0, 2], [8, 2])],
    ['bytes=8-9,0-1', 10, ranges([8, 2], [0, 2])],
    ['bytes=0-1,2-3', 10, ranges([0, 2], [2, 2])],
    ['bytes=0-1, \t2-3 ,', 10, ranges([0, 2], [2, 2])],
    ['bytes=,,0-1,,', 10, ranges([0, 2])],
    ['bytes=0-1,50-60', 10, ranges([0, 2])],
    ['bytes=0-5,3-9', 10, { kind: 'whole' }],
    ['bytes=0-,0-,0-', 10, { kind: 'whole' }],
    ['bytes=0-4,3-4', 10, ranges([0, 5], [3, 2])],
    ['items=0-5', 10, { kind: 'whole' }],
    ['bytes', 10, { kind: 'whole' }],
    ['bytes =0-1', 10, { kind: 'whole' }],
    ['', 10, { kind: 'whole' }],
    ['bytes=0-', 0, { kind: 'whole' }],
    ['bytes=nonsense', 0, { kind: 'whole' }],
    ['bytes=', 10, { kind: 'malformed' }],
    ['bytes=,', 10, { kind: 'malformed' }],
    ['bytes=-', 10, { kind: 'malformed' }],
    ['bytes=5-3', 10, { kind: 'malformed' }],
    ['bytes=500-0', 1000, { kind: 'malformed' }],
    ['bytes=a-b', 10, { kind: 'malformed' }],
    ['bytes=1', 10, { kind: 'malformed' }],
    ['bytes=1-2-3', 10, { kind: 'malformed' }],
    ['bytes=0 - 1', 10, { kind: 'malformed' }],
    ['bytes=--1', 10, { kind: 'malformed' }],
    ['bytes=+1-2', 10, { kind: 'malformed' }],
    ['bytes=0-1;2-3', 10, { kind: 'malformed' }],
    ['bytes=0-1,x', 10, { kind: 'malformed' }],
  ]
  for (const [header, size, expected] of table) {
    test(`'${header}' of ${size}`, () => {
      assert.deepEqual(parseRange(header, size), expected)
    })
  }

  test('1,024 ranges are taken, one more is not', () => {
    const spec = (count: number) =>
      `bytes=${Array.from({ length: count }, (_, i) => `${i * 2}-${i * 2}`).join(',')}`
    const taken = parseRange(spec(1024), 1 << 20)
    assert.equal(taken.kind === 'ranges' && taken.ranges.length, 1024)
    assert.equal(parseRange(spec(1025), 1 << 20).kind, 'too-many')
  })

  test('equals a model written from the grammar', () => {
    const position = fc.oneof(fc.nat(60), fc.constant(2 ** 53), fc.constant(10 ** 20))
    const digits = position.map((value) => BigInt(value).toString())
    const spec = fc.oneof(
      fc.tuple(digits, digits).map(([a, b]) => `${a}-${b}`),
      digits.map((a) => `${a}-`),
      digits.map((a) => `-${a}`),
      fc.constantFrom('', ' ', '-', 'x', '1', '1-2-3', ' 1-2', '3-4\t'),
    )
    fc.assert(
      fc.property(fc.array(spec, { maxLength: 6 }), fc.nat(50), (specs, size) => {
        const header = `bytes=${specs.join(',')}`
        assert.deepEqual(parseRange(header, size), model(header, size))
      }),
      { numRuns: RUNS, seed: 20_260_101 },
    )
  })

  test('never throws and never leaves the representation', () => {
    const piece = fc.constantFrom('bytes=', ',', '-', '0', '7', '12', ' ', '\t', 'x', '=', '\u00ff')
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), fc.nat(20), (pieces, size) => {
        const outcome = parseRange(pieces.join(''), size)
        if (outcome.kind !== 'ranges') return
        for (const { offset, length } of outcome.ranges) {
          assert.ok(offset >= 0 && length >= 1 && offset + length <= size)
        }
      }),
      { numRuns: RUNS, seed: 7 },
    )
  })
})

/** RFC 9110 §14.1.2 by regular expressions and big integers, without any of the parser's shortcuts. */
function model(header: string, size: number): RangeOutcome {
  const specs = header
    .slice('bytes='.length)
    .split(',')
    .map((spec) => spec.replace(/^[ \t]+|[ \t]+$/g, ''))
    .filter((spec) => spec !== '')
  if (size === 0) return { kind: 'whole' }
  const found: { offset: number; length: number }[] = []
  for (const spec of specs) {
    const match = /^(\d*)-(\d*)$/.exec(spec)
    const [, first = '', last = ''] = match ?? []
    if (match === null || (first === '' && last === '')) return { kind: 'malformed' }
    const total = BigInt(size)
    if (first === '') {
      const suffix = BigInt(last) < total ? BigInt(last) : total
      if (suffix > 0n) found.push({ offset: Number(total - suffix), length: Number(suffix) })
      continue
    }
    const from = saturate(BigInt(first))
    const to = last === '' ? total - 1n : saturate(BigInt(last))
    if (last !== '' && to < from) return { kind: 'malformed' }
    if (from >= total) continue
    const end = to < total - 1n ? to : total - 1n
    found.push({ offset: Number(from), length: Number(end - from) + 1 })
  }
  if (specs.length === 0) return { kind: 'malformed' }
  if (found.length === 0) return { kind: 'unsatisfiable' }
  const sum = found.reduce((total, range) => total + range.length, 0)
  return sum > size ? { kind: 'whole' } : { kind: 'ranges', ranges: found }
}

/** Positions beyond 2^53 − 1 are all the same place: behind any representation. */
function saturate(value: bigint): bigint {
  const limit = BigInt(Number.MAX_SAFE_INTEGER)
  return value < limit ? value : limit
}
