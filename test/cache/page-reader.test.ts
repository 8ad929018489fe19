/** Reading through the whole cache: bytes, results, leases, streams, aborts, errors. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as fc from 'fast-check'

import type { Lease } from '../../src/cache/index.ts'
import { pinnedBytes, RunList } from '../../src/cache/index.ts'
import { AppError } from '../../src/core/index.ts'
import { context, joined, patternBytes, type Run, runs, TestCache } from './harness.ts'

const PAGE = 16_384
const FULL = process.env['COMMONPAGE_FULL'] === '1'

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
    const { hit, miss, coalesced, shared_hit } = cache.domain()
    assert.deepEqual([hit, miss, coalesced, shared_hit], [8, 4, 0, 0])
    assert.equal(cache.domain().storeBytes, 2 * PAGE + 100)
    assert.equal(cache.domain().memoryBytes, 2 * expected.length + 5000)
  })

  test('pages of 16, 32 and 64 KiB are checked by the same 16 KiB digests', async () => {
    for (const frameSize of [16_384, 32_768, 65_536] as const) {
      await using cache = new TestCache({ frameSize })
      const bytes = patternBytes(3 * frameSize - 20_000, 2)
      const blob = await cache.open(cache.source.add('a', bytes))
      using lease = await cache.reader.read(runs([blob, 0, bytes.length]), context())
      assert.deepEqual(joined(lease.parts), bytes)
      assert.equal(lease.parts.length, 1, 'frames that lie behind each other are one part')
    }
  })

  test('64 readers of one page read the store once', async () => {
    await using cache = new TestCache()
    const blob = await cache.open(cache.source.add('a', patternBytes(PAGE, 1)))
    const list = runs([blob, 10, 100])
    const reads = Array.from({ length: 64 }, (_, i) =>
      (cache.readers[i % 4] ?? cache.reader).read(list, context()),
    )
    for (const lease of await Promise.all(reads)) lease.release()
    assert.equal(cache.source.reads.length, 1)
    const { miss, coalesced } = cache.domain()
    assert.deepEqual([miss, coalesced], [1, 63])
  })

  test('a damaged page is an error, counted, never served, and tried again', async () => {
    for (const at of [0, PAGE, 3 * PAGE + 5, 4 * PAGE - 1]) {
      await using cache = new TestCache({ frameSize: 65_536 })
      const blob = await cache.open(cache.source.add('a', patternBytes(3 * 65_536, 1)))
      cache.source.damage = (target, offset) => {
        if (offset === 65_536) target[at] = (target[at] ?? 0) ^ 1
      }
      const list = runs([blob, 60_000, 10_000])
      await assert.rejects(cache.reader.read(list, context()), { code: 'ERR_CACHE_PAGE_CORRUPT' })
      assert.equal(cache.reader.tryRead(list, context()), undefined)
      assert.equal(cache.stats.fillErrors.ERR_CACHE_PAGE_CORRUPT, 1)
      using other = await cache.reader.read(runs([blob, 0, 10]), context())
      assert.equal(other.byteLength, 10)
      cache.source.damage = undefined
      using again = await cache.reader.read(list, context())
      assert.equal(again.byteLength, 10_000)
    }
  })

  test("the source's errors reach the reader with their code, other failures get one", async () => {
    await using cache = new TestCache()
    const blob = await cache.open(cache.source.add('a', patternBytes(PAGE, 1)))
    const list = runs([blob, 0, 1])
    cache.source.gate = () => {
      throw new AppError('ERR_STORE_GONE', 'gone')
    }
    await assert.rejects(cache.reader.read(list, context()), { code: 'ERR_STORE_GONE' })
    cache.source.gate = () => Promise.reject(new Error('EIO'))
    await assert.rejects(cache.reader.read(list, context()), { code: 'ERR_CACHE_FILL_FAILED' })
    cache.source.gate = undefined
    ;(await cache.reader.read(list, context())).release()
    assert.equal(cache.stats.fillErrors.ERR_CACHE_FILL_FAILED, 2)
  })

  test('a read given up returns its pins when the grant arrives', async () => {
    await using cache = new TestCache()
    const blob = await cache.open(cache.source.add('a', patternBytes(2 * PAGE, 1)))
    const { promise, resolve } = Promise.withResolvers<void>()
    cache.source.gate = () => promise
    const abort = new AbortController()
    const read = cache.reader.read(runs([blob, 0, 2 * PAGE]), context(), { signal: abort.signal })
    abort.abort()
    await assert.rejects(read, { code: 'ERR_ABORTED' })
    resolve()
    await assert.rejects(
      cache.reader.read(runs([blob, 0, 1]), context(), { signal: abort.signal }),
      { code: 'ERR_ABORTED' },
    )
    using lease = await cache.reader.read(runs([blob, 0, 1]), context())
    assert.equal(pinnedBytes(cache.memory), lease.pinnedBytes)
  })

  test('disposal ends reads under way and waits for their pins', async () => {
    await using cache = new TestCache()
    const blob = await cache.open(cache.source.add('a', patternBytes(2 * PAGE, 1)))
    const read = cache.reader.read(runs([blob, 0, 1]), context())
    const closing = cache.reader[Symbol.asyncDispose]()
    await assert.rejects(read, { code: 'ERR_CACHE_CLOSED' })
    await closing
    assert.equal(pinnedBytes(cache.memory), 0)
    await assert.rejects(cache.reader.read(runs([blob, 0, 1]), context()), {
      code: 'ERR_CACHE_CLOSED',
    })
  })

  test('a reply of more pages than the pin budget is copied, a longer one refused', async () => {
    await using cache = new TestCache({ frames: 16 })
    const bytes = patternBytes(16 * PAGE, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const scattered = Array.from({ length: 12 }, (_, i): Run => [blob, i * PAGE + 7 * i, 300 + i])
    const list = runs(...scattered)
    assert.equal(cache.reader.tryRead(list, context()), undefined)
    using lease = await cache.reader.read(list, context())
    const expected = scattered.map(([, offset, length]) => bytes.subarray(offset, offset + length))
    assert.deepEqual(joined(lease.parts), Buffer.concat(expected))
    assert.equal(lease.pinnedBytes, 0)
    const long = runs([blob, 5, cache.reader.pinBudgetBytes + PAGE])
    await assert.rejects(cache.reader.read(long, context()), { code: 'ERR_CACHE_RANGE' })
    using most = await cache.reader.read(runs([blob, 5, cache.reader.pinBudgetBytes]), context())
    assert.equal(most.pinnedBytes, 4 * PAGE)
  })

  test('a reply holds no more frames than twice those that its bytes would fill, and two', async () => {
    const frames = 1024
    await using cache = new TestCache({ frames, threads: 1 })
    const bytes = patternBytes(frames * PAGE, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const { reader } = cache
    /** Pieces of as many pages, in no order. */
    const scattered = (pages: number, length: number) => {
      const pieces = Array.from({ length: pages }, (_, i): Run => [
        blob,
        ((i * 37) % frames) * PAGE + 3,
        length,
      ])
      const expected = pieces.map(([, offset]) => bytes.subarray(offset, offset + length))
      return { list: runs(...pieces), expected: Buffer.concat(expected) }
    }
    for (const [pages, length, pinned] of [
      [4, 10, 4],
      [5, 10, 0],
      [16, 260, 0],
      [6, 3277, 6],
      [12, 6554, 12],
    ] as const) {
      const { list, expected } = scattered(pages, length)
      const before = cache.domain()
      for (const again of [false, true]) {
        const lease = again ? reader.tryRead(list, context()) : await reader.read(list, context())
        assert.ok(lease)
        assert.deepEqual(joined(lease.parts), expected)
        assert.equal(lease.pinnedBytes, pinned * PAGE, `${pages} pages of ${length} bytes`)
        assert.equal(pinnedBytes(cache.memory), lease.pinnedBytes)
        lease.release()
      }
      const { hit, miss } = cache.domain()
      assert.equal(hit + miss - before.hit - before.miss, 2 * pages)
    }
    for await (const lease of reader.stream(scattered(200, 200).list, context())) {
      assert.equal(lease.pinnedBytes, 0)
      lease.release()
    }
    const kept: Lease[] = []
    const easy = reader.pinBudgetBytes
    const end = frames * PAGE
    for (let at = end / 2; at < end; at += easy) {
      kept.push(await reader.read(runs([blob, at, Math.min(easy, end - at)]), context()))
    }
    assert.equal(pinnedBytes(cache.memory), end / 2)
    const pinned = pinnedBytes(cache.memory)
    for (const [pages, held] of [
      [4, 4],
      [6, 0],
    ] as const) {
      using lease = await reader.read(scattered(pages, PAGE / 2).list, context())
      assert.equal(lease.pinnedBytes, held * PAGE, 'frames are scarce')
      assert.equal(pinnedBytes(cache.memory), pinned + lease.pinnedBytes)
    }
    for (const lease of kept) lease.release()
  })

  test('pieces of pages that repeat are pinned and counted once', async () => {
    await using cache = new TestCache()
    const bytes = patternBytes(2 * PAGE, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const pieces = Array.from({ length: 64 }, (_, i): Run => [
      blob,
      (i * 509) % (2 * PAGE - 64),
      64,
    ])
    const list = runs(...pieces)
    ;(await cache.reader.read(list, context())).release()
    const target = Buffer.alloc(4096)
    assert.ok(cache.reader.copyInto(list, context(), target, 0))
    const expected = pieces.map(([, offset, length]) => bytes.subarray(offset, offset + length))
    assert.deepEqual(target, Buffer.concat(expected))
    assert.deepEqual([cache.domain().miss, cache.domain().hit], [2, 2])
  })

  test('a stream larger than the cache comes in order, in pieces within the budget', async () => {
    await using cache = new TestCache({ frames: 8 })
    const bytes = patternBytes(20 * PAGE + 9, 1)
    const blob = await cache.open(cache.source.add('a', bytes))
    const list = runs([blob, 100, 6 * PAGE], [0, 0, 5 * PAGE], [blob, 6 * PAGE, 14 * PAGE + 9])
    const expected = Buffer.concat([
      bytes.subarray(100, 100 + 6 * PAGE),
      Buffer.alloc(5 * PAGE),
      bytes.subarray(6 * PAGE),
    ])
    const got: Buffer[] = []
    const stream = cache.reader.stream(list, context())
    list.clear()
    for await (const lease of stream) {
      assert.ok(lease.byteLength <= cache.reader.pinBudgetBytes)
      assert.equal(pinnedBytes(cache.memory), lease.pinnedBytes)
      got.push(joined(lease.parts))
      lease.release()
    }
    assert.deepEqual(Buffer.concat(got), expected)
    const { hit, miss, coalesced, shared_hit } = cache.domain()
    assert.ok(hit + miss + coalesced + shared_hit <= 24, 'the second pass is not counted')
  })

  test('leases that are kept make further ones small, and their release makes them large again', async () => {
    const frames = 1024
    await using cache = new TestCache({ frames })
    const blob = await cache.open(cache.source.add('a', patternBytes(frames * PAGE, 1)))
    const { reader } = cache
    const easy = reader.pinBudgetBytes
    const kept: Lease[] = []
    for (let at = 0; reader.pinBudgetBytes === easy; at += easy) {
      assert.ok(at < frames * PAGE, 'clients that take nothing got all frames')
      kept.push(await reader.read(runs([blob, at, easy]), context()))
    }
    assert.ok(pinnedBytes(cache.memory) <= (frames * PAGE) / 4 + easy)
    assert.ok(reader.pinBudgetBytes < easy / 2)
    const pieces: number[] = []
    for await (const lease of reader.stream(runs([blob, 0, easy]), context())) {
      pieces.push(lease.byteLength)
      lease.release()
    }
    assert.ok(Math.max(...pieces) <= reader.pinBudgetBytes)
    // Who asked for the whole of it before gets it whole, in frames up to half of all.
    {
      using lease = await reader.read(runs([blob, 0, easy]), context())
      assert.equal(lease.byteLength, easy)
      assert.ok(lease.pinnedBytes >= easy)
    }
    for (const lease of kept) {
      lease.release()
      lease.release()
    }
    assert.equal(reader.pinBudgetBytes, easy)
    assert.equal(pinnedBytes(cache.memory), 0)
  })

  test('a stream with a bad page at its end fails before its first piece', async () => {
    await using cache = new TestCache({ frames: 8 })
    const blob = await cache.open(cache.source.add('a', patternBytes(20 * PAGE, 1)))
    cache.source.damage = (target, offset) => {
      if (offset === 19 * PAGE) target[0] = (target[0] ?? 0) ^ 1
    }
    const stream = cache.reader.stream(runs([blob, 0, 20 * PAGE]), context())
    const first = stream[Symbol.asyncIterator]().next()
    await assert.rejects(first, { code: 'ERR_CACHE_PAGE_CORRUPT' })
  })

  test('reads wait while all frames are pinned, and go on when some are released', async () => {
    await using cache = new TestCache({ frames: 8 })
    const blob = await cache.open(cache.source.add('a', patternBytes(20 * PAGE, 1)))
    const first = await cache.reader.read(runs([blob, 0, 4 * PAGE]), context())
    const second = await cache.reader.read(runs([blob, 4 * PAGE, 4 * PAGE]), context())
    const third = cache.reader.read(runs([blob, 8 * PAGE, 4 * PAGE]), context())
    while (cache.stats.grantsWaiting === 0) await cache.client.accounting()
    first.release()
    ;(await third).release()
    second.release()
  })

  test('prefetch brings pages in for later, and counts nothing', async () => {
    await using cache = new TestCache({ frames: 64 })
    const blob = await cache.open(cache.source.add('a', patternBytes(6 * PAGE, 1)))
    const list = runs([blob, 0, 6 * PAGE])
    cache.reader.prefetch(list, context())
    while (cache.stats.fills.prefetch < 6) await cache.client.accounting()
    for (let pageNo = 0; pageNo < 6; pageNo++) {
      const lease = cache.reader.tryRead(runs([blob, pageNo * PAGE, PAGE]), context())
      assert.ok(lease)
      lease.release()
    }
    assert.deepEqual([cache.domain().miss, cache.domain().hit], [0, 6])
  })

  test('random runs over random blobs through a tiny cache equal the bytes of the blobs', async () => {
    const cacheOptions = { frames: 8, fillers: 2, segmentBytes: 4 * PAGE }
    await using cache = new TestCache(cacheOptions)
    assert.equal(cache.memory.segments.length, 2)
    const blobs: { bytes: Buffer; blobNo: number }[] = []
    for (const [i, size] of [1, 500, PAGE, 3 * PAGE + 1, 12 * PAGE - 3].entries()) {
      const bytes = patternBytes(size, i + 1)
      blobs.push({ bytes, blobNo: await cache.open(cache.source.add(`b${i}`, bytes, `d${i % 2}`)) })
    }
    const run = fc.record({
      blob: fc.integer({ min: -1, max: blobs.length - 1 }),
      from: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      length: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 3 * PAGE })),
    })
    const request = fc.record({
      runs: fc.array(run, { minLength: 1, maxLength: 12 }),
      how: fc.constantFrom('read', 'stream', 'copy'),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 8 }), async (requests) => {
        await Promise.all(
          requests.map(async ({ runs: wanted, how }, i) => {
            const list = new RunList()
            const expected: Buffer[] = []
            for (const { blob, from, length } of wanted) {
              const source = blobs[blob]
              if (source === undefined) {
                list.pushZeros(length)
                expected.push(Buffer.alloc(length))
                continue
              }
              const offset = Math.floor(from * source.bytes.length)
              const piece = source.bytes.subarray(offset, offset + length)
              list.push(source.blobNo, offset, piece.length, 0)
              expected.push(piece)
            }
            const reader = cache.readers[i % 4] ?? cache.reader
            const ctx = context((i % 3) + 1)
            const got: Buffer[] = []
            const target = Buffer.alloc(list.byteLength)
            if (how === 'copy' && reader.copyInto(list, ctx, target, 0)) {
              got.push(target)
            } else if (how === 'read' && list.byteLength <= reader.pinBudgetBytes) {
              using lease = reader.tryRead(list, ctx) ?? (await reader.read(list, ctx))
              got.push(joined(lease.parts))
            } else {
              for await (const lease of reader.stream(list, ctx)) {
                got.push(joined(lease.parts))
                lease.release()
              }
            }
            assert.ok(Buffer.concat(got).equals(Buffer.concat(expected)))
          }),
        )
        assert.equal(pinnedBytes(cache.memory), 0)
      }),
      { numRuns: FULL ? 3000 : 100, seed: 20_261_123 },
    )
    assert.ok(cache.stats.evictions.capacity > 100)
  })
})
