/** Reading through the whole cache: bytes, results, leases, streams, aborts, errors. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { pinnedBytes } from '../../src/cache/index.ts'
import { context, joined, patternBytes, runs, TestCache } from './harness.ts'

const PAGE = 16_384

describe('PageReader', () => {
  test('a first read misses, a second hits without the keeper', async () => {
    await using cache = new TestCache()
    const bytes = patternBytes(5 * PAGE + 100, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const list = runs([blob, 1000, 2 * PAGE], [0, 0, 5000], [blob, 5 * PAGE, 100])
    const expected = Buffer.concat([
      bytes.subarray(1000, 1000 + 2 * PAGE),
      Buffer.alloc(5000),
      bytes.subarray(5 * PAGE),
    ])
    assert.equal(cache.reader.tryRead(list, context()), undefined)
    assert.equal(cache.reader.copyInto(list, context(), Buffer.alloc(list.byteLength), 0), false)
    assert.equal(cache.domain().miss, 0)
    {
      using lease = await cache.reader.read(list, context())
      assert.deepEqual(joined(lease.parts), expected)
      assert.equal(lease.byteLength, expected.length)
      assert.equal(lease.pinnedBytes, 4 * PAGE)
      assert.equal(pinnedBytes(cache.memory), 4 * PAGE)
    }
    const lease = cache.reader.tryRead(list, context())
    assert.ok(lease)
    assert.deepEqual(joined(lease.parts), expected)
    lease.release()
    lease.release()
    assert.equal(pinnedBytes(cache.memory), 0)
    const target = Buffer.alloc(list.byteLength + 7, 0xff)
    assert.equal(cache.reader.copyInto(list, context(), target, 7), true)
    assert.deepEqual(target.subarray(7), expected)
    const { hit, miss, coalesced, shared_hit, memoryBytes, storeBytes } = cache.domain()
    assert.deepEqual(
      { hit, miss, coalesced, shared_hit },
      { hit: 8, miss: 4, coalesced: 0, shared_hit: 0 },
    )
    assert.equal(storeBytes, 2 * PAGE + 100)
    assert.equal(memoryBytes, 2 * expected.length + 5000)
  })
})
