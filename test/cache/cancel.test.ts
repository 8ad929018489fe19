/**
 * Reads that are given up: neither the store nor those behind them in line work for readers that are gone,
 * whatever the keeper had done for the read when it heard of it.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'

import fc from 'fast-check'

import {
  createCacheMemory,
  createImageAccounting,
  PageReader,
  pinnedBytes,
} from '../../src/cache/index.ts'
import { FRAME, recordOf } from '../../src/cache/frame-table.ts'
import { openCacheMemory } from '../../src/cache/memory.ts'
import { GRANTED, type ReaderAnswer, type ReaderRequest } from '../../src/cache/messages.ts'
import { pin } from '../../src/cache/pin-protocol.ts'
import { context, patternBytes, runs, TestCache } from './harness.ts'
import { FRAME_SIZE, KeeperBench } from './keeper-bench.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
/** Demand that a fill thread is given at a time. */
const DEPTH = 32

/** A keeper whose fill thread has all that it takes, so that further fills stay in the queue. */
function busyBench(frames = 128) {
  const bench = new KeeperBench(frames)
  const blob = bench.open(1000)
  const busy = bench.read(
    blob,
    Array.from({ length: DEPTH }, (_, i) => 900 + i),
  )
  assert.equal(bench.orders.length, DEPTH)
  return { bench, blob, busy }
}

function filledPages(bench: KeeperBench): number[] {
  const pages: number[] = []
  while (bench.orders.length > 0) {
    pages.push(...bench.orders.map(({ pageNo }) => pageNo))
    bench.fill()
  }
  return pages
}

describe('a read that is given up', () => {
  test('ends the fills that no thread has begun, and is answered', () => {
    const { bench, blob } = busyBench()
    const read = bench.read(blob, [1, 2, 3])
    assert.equal(bench.stats.fillsInFlight, DEPTH + 3)
    bench.cancel(read)
    assert.equal(bench.code(read), 'ERR_ABORTED')
    assert.equal(bench.stats.fillsInFlight, DEPTH)
    assert.ok(filledPages(bench).every((pageNo) => pageNo >= 900))
    const again = bench.read(blob, [1, 2, 3])
    assert.deepEqual(filledPages(bench), [1, 2, 3])
    assert.deepEqual(bench.grant(again).how, [GRANTED.FILLED, GRANTED.FILLED, GRANTED.FILLED])
  })

  test('keeps no pin, and leaves pages that are there or on their way where they are', () => {
    const { bench, blob } = busyBench()
    const first = bench.read(blob, [1])
    bench.fill(DEPTH)
    bench.fill()
    bench.release(first)
    const pinned = bench.pinned
    const read = bench.read(blob, [1, 2])
    assert.equal(bench.pinned, pinned + 1)
    bench.cancel(read)
    assert.equal(bench.pinned, pinned)
    bench.fill()
    const after = bench.read(blob, [1, 2])
    assert.deepEqual(bench.grant(after).how, [GRANTED.RESIDENT, GRANTED.RESIDENT])
  })

  test('leaves its place in line to the next', () => {
    const bench = new KeeperBench(8)
    const blob = bench.open()
    const held = bench.read(blob, [0, 1, 2, 3, 4])
    bench.fill()
    const large = bench.read(blob, [10, 11, 12, 13])
    const small = bench.read(blob, [20, 21])
    assert.equal(bench.stats.grantsWaiting, 2)
    bench.cancel(large)
    assert.equal(bench.code(large), 'ERR_ABORTED')
    assert.equal(bench.stats.grantsWaiting, 0)
    bench.fill()
    bench.release(small)
    bench.release(held)
    assert.equal(bench.pinned, 0)
  })

  test('gives its frames to who waits for some, in the same batch', () => {
    const { bench, blob, busy } = busyBench(40)
    const read = bench.read(blob, [0, 1, 2, 3, 4, 5, 6, 7])
    const waits = bench.read(blob, [10, 11])
    assert.equal(bench.stats.grantsWaiting, 1)
    bench.cancel(read)
    assert.equal(bench.stats.grantsWaiting, 0)
    assert.deepEqual(filledPages(bench).slice(DEPTH), [10, 11])
    bench.release(busy)
    bench.release(waits)
  })

  test('leaves its fills to whoever waits as well, whose misses and image they become', () => {
    const { bench, blob } = busyBench()
    bench.keeper.registerImage(1, createImageAccounting(1000))
    bench.keeper.registerImage(2, createImageAccounting(1000))
    const first = bench.read(blob, [5, 6], 1)
    const second = bench.read(blob, [6, 5], 2)
    const third = bench.read(blob, [5], 2)
    bench.cancel(first)
    assert.equal(bench.stats.fillsInFlight, DEPTH + 2)
    assert.deepEqual(filledPages(bench).slice(DEPTH), [5, 6])
    assert.deepEqual(bench.grant(second).how, [GRANTED.FILLED, GRANTED.FILLED])
    assert.deepEqual(bench.grant(third).how, [GRANTED.COALESCED])
    const { table } = openCacheMemory(bench.memory)
    for (const frame of bench.grant(second).frames) {
      assert.equal(table[recordOf(frame) + FRAME.FILLER], 2)
    }
    const { addedBytes, unattributedBytes, broughtBytes } = bench.keeper.accounting()
    assert.equal(addedBytes, 2 * FRAME_SIZE)
    assert.equal(addedBytes + unattributedBytes, broughtBytes)
  })

  test('that joined a fill leaves it to the one that it was begun for', () => {
    const { bench, blob } = busyBench()
    const first = bench.read(blob, [5])
    const second = bench.read(blob, [5])
    bench.cancel(second)
    assert.deepEqual(filledPages(bench).slice(DEPTH), [5])
    assert.deepEqual(bench.grant(first).how, [GRANTED.FILLED])
    assert.equal(bench.pinned, DEPTH + 1)
  })

  test('adds a page that its fill thread has nevertheless to no image, until one reads it', () => {
    const bench = new KeeperBench()
    bench.keeper.registerImage(1, createImageAccounting(1000))
    const blob = bench.open()
    const read = bench.read(blob, [5], 1)
    bench.cancel(read)
    assert.deepEqual(filledPages(bench), [5])
    const { addedBytes, unattributedBytes } = bench.keeper.accounting()
    assert.deepEqual([addedBytes, unattributedBytes], [0, FRAME_SIZE])
    assert.equal(bench.pinned, 0)
  })

  test('puts a page that was to be read ahead back where it was', () => {
    const { bench, blob } = busyBench(512)
    bench.fetch('readahead', blob, [5])
    const read = bench.read(blob, [5])
    bench.cancel(read)
    assert.equal(bench.stats.fillsInFlight, DEPTH + 1)
    assert.deepEqual(filledPages(bench).slice(DEPTH), [5])
    assert.equal(bench.stats.fills.readahead, 1)
    assert.equal(bench.stats.readaheadUsed, 0)
  })

  test('is not answered twice when its grant is on the way', () => {
    const bench = new KeeperBench()
    const blob = bench.open()
    const read = bench.read(blob, [0])
    bench.fill()
    bench.cancel(read, 77)
    assert.deepEqual(bench.answered, [read])
    assert.equal(bench.pinned, 1, 'the reader gives it back')
  })

  test('like one that is late, leaves its fills', () => {
    const { bench, blob } = busyBench()
    const read = bench.read(blob, [1])
    bench.now = 60_000
    bench.keeper.poll()
    assert.equal(bench.code(read), 'ERR_CACHE_FILL_TIMEOUT')
    assert.equal(bench.stats.fillsInFlight, DEPTH)
    assert.equal(filledPages(bench).length, DEPTH)
  })

  // With 48 all frames may be on their way, with 96 two thirds.
  for (const FRAMES of [48, 96]) inAnyOrder(FRAMES)
})

function inAnyOrder(FRAMES: number): void {
  test(`in any order of events, ${FRAMES} frames: each is answered once, and no pin, frame or fill is lost`, () => {
    const PAGES = 2 * FRAMES
    const pages = fc.uniqueArray(fc.integer({ min: 0, max: PAGES - 1 }), {
      minLength: 1,
      maxLength: 16,
    })
    const pick = fc.nat(1000)
    const event = fc.oneof(
      { weight: 6, arbitrary: fc.record({ type: fc.constant('read' as const), pages }) },
      { weight: 4, arbitrary: fc.record({ type: fc.constant('cancel' as const), pick }) },
      { weight: 3, arbitrary: fc.record({ type: fc.constant('release' as const), pick }) },
      { weight: 3, arbitrary: fc.record({ type: fc.constant('fill' as const), pick }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('fail' as const), pick }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('readahead' as const), pages }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('late' as const) }) },
    )
    fc.assert(
      fc.property(fc.array(event, { minLength: 30, maxLength: 120 }), (events) => {
        const bench = new KeeperBench(FRAMES, { fillTimeoutMs: 1000 })
        for (const imageId of [1, 2]) {
          bench.keeper.registerImage(imageId, createImageAccounting(PAGES))
        }
        const blob = bench.open(PAGES)
        const asked: number[] = []
        const released = new Set<number>()
        const held = () => asked.filter((id) => bench.isGranted(id) && !released.has(id))
        const release = (id: number) => {
          bench.release(id)
          released.add(id)
        }
        const chosen = (from: readonly number[], at: number) => from[at % from.length] ?? 0
        for (const next of events) {
          bench.now += 10
          if (next.type === 'read') {
            asked.push(bench.read(blob, next.pages, 1 + (asked.length % 2)))
          } else if (next.type === 'cancel') {
            bench.cancel(chosen(asked, next.pick))
          } else if (next.type === 'release') {
            const granted = held()
            if (granted.length > 0) release(chosen(granted, next.pick))
            bench.keeper.poll()
          } else if (next.type === 'fill') {
            bench.fill(next.pick % 8)
          } else if (next.type === 'fail') {
            const [order] = bench.orders.splice(next.pick % (bench.orders.length + 1), 1)
            const error = { code: 'ERR_CACHE_FILL_FAILED', message: 'no' }
            if (order !== undefined) bench.keeper.fromFiller([{ frame: order.frame, error }])
          } else if (next.type === 'readahead') {
            bench.fetch('readahead', blob, next.pages)
          } else {
            bench.now += 1000
            bench.keeper.poll()
          }
        }
        bench.cancel(...asked)
        while (bench.orders.length > 0) bench.fill()
        assert.deepEqual(bench.answered.toSorted(byNumber), asked, 'each once')
        for (const id of held()) release(id)
        assert.equal(bench.pinned, 0)
        const { fillsInFlight, grantsWaiting, readaheadUsed, fills } = bench.stats
        assert.deepEqual([fillsInFlight, grantsWaiting], [0, 0])
        assert.ok(readaheadUsed <= fills.readahead)
        const { addedBytes, unattributedBytes, broughtBytes } = bench.keeper.accounting()
        assert.equal(addedBytes + unattributedBytes, broughtBytes)
        bench.keeper.evict('admin', Infinity)
        assert.equal(bench.stats.residentFrames, 0)
        const all = bench.read(
          blob,
          Array.from({ length: FRAMES }, (_, i) => i),
        )
        while (bench.orders.length > 0) bench.fill()
        assert.equal(new Set(bench.grant(all).frames).size, FRAMES, 'no frame is lost')
      }),
      { numRuns: FULL ? 3000 : 150, seed: 20_261_123 },
    )
  })
}

describe('a reader that gives up', () => {
  test('gives back the pins of a grant that its cancelling met on the way', async () => {
    const memory = createCacheMemory({
      cacheBytes: 8 * FRAME_SIZE,
      frameSize: FRAME_SIZE,
      threads: 1,
      allowTiny: true,
    })
    const { port1, port2 } = new MessageChannel()
    const reader = new PageReader({ memory, port: port1, counterRow: 0, readahead: false })
    const received = (): ReaderRequest[] =>
      (receiveMessageOnPort(port2)?.message as ReaderRequest[] | undefined) ?? []
    const abort = new AbortController()
    const read = reader.read(runs([1, 0, 1]), context(), { signal: abort.signal })
    await Promise.resolve()
    const [asked] = received()
    assert.equal(asked?.type, 'read')
    const { table } = openCacheMemory(memory)
    pin(table, recordOf(3))
    const answers: ReaderAnswer[] = [{ id: asked.id, frames: [3], how: [GRANTED.FILLED] }]
    port2.postMessage(answers)
    abort.abort()
    await assert.rejects(read, { code: 'ERR_ABORTED' })
    assert.deepEqual(received(), [{ type: 'cancel', id: asked.id }])
    const closing = reader[Symbol.asyncDispose]()
    assert.equal(pinnedBytes(memory), FRAME_SIZE)
    await closing
    assert.equal(pinnedBytes(memory), 0)
    assert.deepEqual(received(), [], 'cancelled once')
    port2.close()
  })

  test('leaves no work behind for the store', async () => {
    const READS = 500
    await using cache = new TestCache({ frames: 4 * READS + 4, fillConcurrency: 4 })
    const blob = await cache.open(cache.source.add('a', patternBytes((READS + 1) * FRAME_SIZE, 1)))
    const open = Promise.withResolvers<void>()
    cache.source.gate = () => open.promise
    const abort = new AbortController()
    const { signal } = abort
    const reads = Array.from({ length: READS }, (_, i) =>
      cache.reader.read(runs([blob, i * FRAME_SIZE, 1]), context(), { signal }),
    )
    while (cache.stats.fillsInFlight < READS) await cache.client.accounting()
    abort.abort()
    for (const read of await Promise.allSettled(reads)) assert.equal(read.status, 'rejected')
    const good = cache.reader.read(runs([blob, READS * FRAME_SIZE, 1]), context())
    while (cache.stats.fillsInFlight === READS) await cache.client.accounting()
    open.resolve()
    ;(await good).release()
    assert.ok(cache.source.reads.length <= DEPTH + 1, `${cache.source.reads.length} reads`)
  })
})

function byNumber(a: number, b: number): number {
  return a - b
}
