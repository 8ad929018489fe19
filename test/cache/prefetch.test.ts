/**
 * Hints cost a client nothing: 28 bytes of NBD ask for 4 GiB. What they cost the server is bounded, in time and
 * in messages, however many come together.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'

import { createCacheMemory, PageReader, type RunList } from '../../src/cache/index.ts'
import type { PrefetchRequest, ReaderAnswer } from '../../src/cache/messages.ts'
import { GIB, MIB } from '../../src/core/index.ts'
import { BlobMap, MappedHandle } from '../../src/images/index.ts'
import { context, patternBytes, runs, TestCache } from './harness.ts'

const PAGE = 16_384
const FRAMES = 4096
const BLOB = { digest: 'sha256:00', size: 8 * GIB, blobNo: 1, ordinalBase: 0 } as const

/** A reader whose keeper is the test. */
function lonelyReader(frames = FRAMES) {
  const memory = createCacheMemory({
    cacheBytes: frames * PAGE,
    frameSize: PAGE,
    threads: 1,
    allowTiny: true,
  })
  const { port1, port2 } = new MessageChannel()
  const reader = new PageReader({ memory, port: port1, counterRow: 0 })
  /** What the reader has sent up to now. */
  const received = (): PrefetchRequest[] => {
    const requests: PrefetchRequest[] = []
    for (let next = receiveMessageOnPort(port2); next; next = receiveMessageOnPort(port2)) {
      requests.push(...(next.message as PrefetchRequest[]))
    }
    return requests
  }
  const answer = (requests: readonly PrefetchRequest[]): void => {
    const answers: ReaderAnswer[] = requests.map(({ id }) => ({ id, frames: [], how: [] }))
    port2.postMessage(answers)
  }
  return { reader, received, answer, close: () => port2.close() }
}

function pagesOf(requests: readonly PrefetchRequest[]): number {
  return requests.reduce((sum, { pages }) => sum + pages.length / 2, 0)
}

describe('prefetch', () => {
  test('hints of any size that come together are worth one lot, until the keeper has taken it', async () => {
    const { reader, received, answer, close } = lonelyReader()
    const hint = () => reader.prefetch(runs([1, 0, 4 * GIB]), context())
    assert.equal(reader.prefetchBudgetBytes, (FRAMES * PAGE) / 8)
    for (let i = 0; i < 20; i++) hint()
    assert.equal(reader.prefetchBudgetBytes, 0)
    await Promise.resolve()
    const lot = received()
    assert.equal(pagesOf(lot), FRAMES / 8)
    for (let i = 0; i < 20; i++) hint()
    await Promise.resolve()
    assert.deepEqual(received(), [], 'the keeper has not answered')
    const [first, ...rest] = lot
    assert.ok(first)
    answer([first])
    while (reader.prefetchBudgetBytes === 0) await turn()
    hint()
    await Promise.resolve()
    const next = received()
    assert.equal(pagesOf(next), pagesOf([first]), 'as many as were taken')
    answer([...rest, ...next])
    while (reader.prefetchBudgetBytes < (FRAMES * PAGE) / 8) await turn()
    close()
  })

  test('a large cache does not make lots larger without end', () => {
    const { reader, close } = lonelyReader((GIB / PAGE) * 2)
    assert.equal(reader.prefetchBudgetBytes, 32 * MIB)
    close()
  })

  test('small hints that come together are all taken', async () => {
    await using cache = new TestCache({ frames: 512 })
    const blob = await cache.open(cache.source.add('a', patternBytes(32 * PAGE, 1)))
    for (let page = 0; page < 32; page++) {
      cache.reader.prefetch(runs([blob, page * PAGE, PAGE]), context())
    }
    while (cache.stats.fills.prefetch < 32) await turn()
    assert.equal(cache.stats.backgroundDropped, 0)
  })

  test('hints for pages in memory count until the end of the tick and cost no message', async () => {
    await using cache = new TestCache({ frames: 512 })
    const blob = await cache.open(cache.source.add('a', patternBytes(16 * PAGE, 1)))
    const list = runs([blob, 0, 8 * PAGE])
    ;(await cache.reader.read(list, context())).release()
    const whole = cache.reader.prefetchBudgetBytes
    cache.reader.prefetch(list, context())
    assert.equal(cache.reader.prefetchBudgetBytes, whole - 8 * PAGE)
    await turn()
    assert.equal(cache.reader.prefetchBudgetBytes, whole)
    assert.equal(cache.source.reads.length, 8)
  })

  test('pieces of one page, and zeros, count by their bytes: working them out has cost as much', () => {
    const { reader, close } = lonelyReader()
    const whole = reader.prefetchBudgetBytes
    const pieces = Array.from({ length: 256 }, () => [1, 0, PAGE / 4] as const)
    reader.prefetch(runs(...pieces), context())
    assert.equal(reader.prefetchBudgetBytes, whole - 64 * PAGE)
    reader.prefetch(runs([0, 0, 4 * GIB]), context())
    assert.equal(reader.prefetchBudgetBytes, 0)
    close()
  })

  test('hints under way neither keep a reader open nor fail', async () => {
    await using cache = new TestCache({ frames: 512 })
    const blob = await cache.open(cache.source.add('a', patternBytes(32 * PAGE, 1)))
    const list = runs([blob, 0, 32 * PAGE])
    cache.reader.prefetch(list, context())
    await cache.reader[Symbol.asyncDispose]()
    cache.reader.prefetch(runs([blob, 0, 32 * PAGE]), context())
    while (cache.stats.fillsInFlight > 0) await turn()
  })

  test('a handle works out no more of its map than the reader takes', () => {
    const { reader, close } = lonelyReader()
    const mapped: number[] = []
    class WatchedMap extends BlobMap {
      override mapRange(offset: number, length: number, out: RunList): void {
        mapped.push(length)
        super.mapRange(offset, length, out)
      }
    }
    const handle = new MappedHandle(new WatchedMap(BLOB), reader, { imageId: 0, domainNo: 1 })
    for (let i = 0; i < 3; i++) handle.prefetch(i, 4 * GIB)
    assert.deepEqual(mapped, [(FRAMES * PAGE) / 8])
    assert.throws(() => handle.prefetch(5 * GIB, 4 * GIB), RangeError)
    close()
  })
})

/** Lets messages through. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
