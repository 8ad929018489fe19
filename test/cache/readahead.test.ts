/** Sequential readahead: when it starts, how its window grows, what it costs when it is wrong. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { createImageAccounting, ImageAccounting, SequentialState } from '../../src/cache/index.ts'
import { KIB, MIB } from '../../src/core/index.ts'
import { context, patternBytes, runs, TestCache } from './harness.ts'

const PAGE = 16_384

describe('SequentialState', () => {
  test('asks for nothing at first, then for windows that double from 128 KiB to 1 MiB', () => {
    const state = new SequentialState()
    const windows: number[] = []
    let ahead = 0
    for (let offset = 0; offset < 8 * MIB; offset += 64 * KIB) {
      const range = state.advance(runs([1, offset, 64 * KIB]))
      if (offset === 0) assert.equal(range, undefined)
      if (range === undefined) continue
      const next = offset + 64 * KIB
      assert.equal(range.blobNo, 1)
      assert.equal(range.offset, Math.max(ahead, next), 'nothing twice, nothing left out')
      ahead = range.offset + range.length
      windows.push(ahead - next)
    }
    assert.deepEqual(windows.slice(0, 4), [128 * KIB, 256 * KIB, 512 * KIB, MIB])
    assert.ok(windows.every((window) => window <= MIB))
  })

  test('stays quiet for random, repeated, backward and zero requests', () => {
    const state = new SequentialState()
    const offsets = [0, 10 * MIB, MIB, 20 * MIB, 20 * MIB, 20 * MIB - 4096, 5 * MIB, 5 * MIB]
    for (const offset of offsets) assert.equal(state.advance(runs([1, offset, 4096])), undefined)
    assert.equal(state.advance(runs([0, 0, 4096])), undefined)
    assert.equal(state.advance(runs([2, 5 * MIB + 4096, 4096])), undefined)
  })

  test('follows over small gaps, zeros, and pieces of other blobs inside a request', () => {
    const state = new SequentialState()
    assert.equal(state.advance(runs([1, 0, 4096])), undefined)
    const list = runs([0, 0, 512], [1, 8192, 1024], [2, 77, 100], [1, 9216, 4096], [0, 0, 1])
    assert.deepEqual(state.advance(list), { blobNo: 1, offset: 13_312, length: 128 * KIB })
  })
})

describe('readahead through the cache', () => {
  test('brings pages in before they are read, for the image, and counts those used and wasted', async () => {
    await using cache = new TestCache({ frames: 256, reader: { readahead: true } })
    const bytes = patternBytes(20 * PAGE, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const accounting = createImageAccounting(20)
    await cache.client.registerImage(1, accounting)
    const ctx = context(1, { touched: new ImageAccounting(accounting) })
    for (const pageNo of [0, 1]) {
      ;(await cache.reader.read(runs([blob, pageNo * PAGE, PAGE]), ctx)).release()
    }
    while (cache.stats.fills.readahead < 8) await cache.client.accounting()
    const lease = cache.reader.tryRead(runs([blob, 2 * PAGE, PAGE]), context(1))
    assert.ok(lease)
    lease.release()
    const { stats } = cache
    assert.deepEqual([stats.fills.demand, stats.readaheadUsed], [2, 1])
    assert.equal(ctx.touched?.addedBytes(0), 10 * PAGE)
    assert.equal(ctx.touched?.touchedBytes(0), 2 * PAGE)
    await cache.client.evict('pressure', Infinity)
    assert.equal(cache.stats.readaheadWasted, 7)
    assert.equal(cache.stats.evictions.pressure, 10)
    assert.equal(cache.stats.evictedBytes.pressure, 10 * PAGE)
  })

  test('does not ask behind the end of a blob, and can be switched off', async () => {
    await using cache = new TestCache({ frames: 256, reader: { readahead: true } })
    const blob = await cache.open(cache.source.add('a', patternBytes(4 * PAGE + 1, 1)))
    const ctx = context(1)
    for (const pageNo of [0, 1]) {
      ;(await cache.reader.read(runs([blob, pageNo * PAGE, PAGE]), ctx)).release()
    }
    while (cache.stats.fills.readahead < 3) await cache.client.accounting()
    assert.equal(cache.source.reads.length, 5)
    assert.equal(cache.stats.backgroundDropped, 0)
    await using off = new TestCache({ frames: 256, reader: { readahead: false } })
    const same = await off.open(off.source.add('a', patternBytes(4 * PAGE, 1)))
    for (const pageNo of [0, 1]) {
      ;(await off.reader.read(runs([same, pageNo * PAGE, PAGE]), ctx)).release()
    }
    assert.equal(off.source.reads.length, 2)
  })
})
