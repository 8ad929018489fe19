/** The index against a Map, under the insertions and removals of a cache at its limit. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as fc from 'fast-check'

import { FRAME, FRAME_WORDS, recordOf } from '../../src/cache/frame-table.ts'
import { indexSlots, MAX_PROBE, PageIndex } from '../../src/cache/page-index.ts'

function setup(frames: number, slots = indexSlots(frames)) {
  const table = new Int32Array(frames * FRAME_WORDS)
  const words = new Int32Array(slots)
  const index = new PageIndex(words, table, 12_345)
  const put = (frame: number, blobNo: number, pageNo: number) => {
    table[recordOf(frame) + FRAME.BLOB] = blobNo
    table[recordOf(frame) + FRAME.PAGE] = pageNo
    return index.insert(frame)
  }
  return { table, words, index, put }
}

describe('PageIndex', () => {
  test('equals a Map through random insertions and removals', () => {
    const FRAMES = 16
    const step = fc.record({
      frame: fc.integer({ min: 0, max: FRAMES - 1 }),
      blobNo: fc.integer({ min: 1, max: 3 }),
      pageNo: fc.oneof(fc.integer({ min: 0, max: 30 }), fc.constant(2 ** 32 - 1)),
    })
    const numRuns = process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 500
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150 }), (steps) => {
        const { index, put, words } = setup(FRAMES)
        const byFrame = new Map<number, string>()
        for (const { frame, blobNo, pageNo } of steps) {
          const key = `${blobNo}/${pageNo}`
          if (byFrame.has(frame)) {
            index.remove(frame)
            byFrame.delete(frame)
          } else if (![...byFrame.values()].includes(key)) {
            assert.ok(put(frame, blobNo, pageNo))
            byFrame.set(frame, key)
          }
          for (const [at, known] of byFrame) {
            const [blob, page] = known.split('/').map(Number)
            assert.equal(index.find(blob ?? 0, page ?? 0), at)
          }
          if (!byFrame.values().some((known) => known === key)) {
            assert.equal(index.find(blobNo, pageNo), -1)
          }
        }
        assert.equal(words.filter((entry) => entry !== 0).length, byFrame.size)
      }),
      { numRuns, seed: 20_261_123 },
    )
  })

  test('at half load no probe comes near the bound', () => {
    const frames = 1 << 16
    const { index, put, words } = setup(frames, frames * 2)
    for (let frame = 0; frame < frames; frame++) assert.ok(put(frame, 1 + (frame & 7), frame >> 3))
    let longest = 0
    for (let slot = 0, length = 0; slot < words.length; slot++) {
      length = words[slot] === 0 ? 0 : length + 1
      longest = Math.max(longest, length)
    }
    assert.ok(longest < MAX_PROBE, `a run of ${longest}`)
    for (let frame = 0; frame < frames; frame++) {
      assert.equal(index.find(1 + (frame & 7), frame >> 3), frame)
    }
  })

  test('an insertion beyond the probe bound is refused, not lost', () => {
    const { index, put } = setup(256, 256)
    let inserted = 0
    let refused = 0
    for (let frame = 0; frame < 256; frame++) {
      if (put(frame, 1, frame)) inserted++
      else refused++
      if (refused === 0) assert.equal(index.find(1, frame), frame)
    }
    assert.ok(inserted > 128 && refused > 0)
  })
})
