/** What a fill thread asks of its source, and what it makes of the answers. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import { MessageChannel } from 'node:worker_threads'

import type { BlobKey, PageSource } from '../../src/cache/index.ts'
import { createCacheMemory, runFiller } from '../../src/cache/index.ts'
import type { FillerMessage, FillReport } from '../../src/cache/messages.ts'
import { context, joined, MemorySource, patternBytes, runs, TestCache } from './harness.ts'

const PAGE = 16_384

/** Reads several pages at once, and notes it. */
class RangeSource extends MemorySource implements PageSource {
  readonly ranges: [offset: number, targets: number, length: number][] = []
  readonly opened: string[] = []
  readonly closed: string[] = []
  readonly suspected: string[] = []
  failRange = false
  failOpen = 0

  openBlob(blob: BlobKey): void {
    if (this.failOpen-- > 0) throw new Error('not now')
    this.opened.push(blob.digest)
  }

  closeBlob(blob: BlobKey): void {
    this.closed.push(blob.digest)
  }

  suspectBlob(blob: BlobKey): void {
    this.suspected.push(blob.digest)
  }

  async readPages(blob: BlobKey, offset: number, targets: readonly Buffer[], length: number) {
    this.ranges.push([offset, targets.length, length])
    if (this.failRange) throw new Error('bad sector somewhere')
    let at = 0
    for (const target of targets) {
      const part = Math.min(target.length, length - at)
      await this.readPage(blob, offset + at, target, part)
      at += part
    }
  }
}

async function setup(pages: number, tail = 0) {
  const source = new RangeSource()
  const cache = new TestCache({ source, frames: 64, fillConcurrency: 1 })
  const bytes = patternBytes(pages * PAGE + tail, 5)
  const key = source.add('a', bytes)
  const blob = await cache.open(key)
  return { source, cache, bytes, blob }
}

describe('fill thread', () => {
  test('reads pages that follow each other together, the short last one included', async () => {
    const { source, cache, bytes, blob } = await setup(3, 77)
    await using _ = cache
    using lease = await cache.reader.read(runs([blob, 0, bytes.length]), context())
    assert.deepEqual(joined(lease.parts), bytes)
    assert.deepEqual(source.ranges, [[0, 4, bytes.length]])
  })

  test('when a range fails, each page is read alone and only the bad one is lost', async () => {
    const { source, cache, blob } = await setup(4)
    await using _ = cache
    source.failRange = true
    source.gate = (_digest, offset) => {
      if (offset === 2 * PAGE) throw new Error('bad sector')
    }
    const read = cache.reader.read(runs([blob, 0, 4 * PAGE]), context())
    await assert.rejects(read, { code: 'ERR_CACHE_FILL_FAILED' })
    assert.equal(cache.stats.fillErrors.ERR_CACHE_FILL_FAILED, 1)
    for (const pageNo of [0, 1, 3]) {
      const lease = cache.reader.tryRead(runs([blob, pageNo * PAGE, PAGE]), context())
      assert.ok(lease, `page ${pageNo} is in memory`)
      lease.release()
    }
  })

  test('a page without its digest makes the source look anew, and is read once more', async () => {
    const { source, cache, bytes, blob } = await setup(4)
    await using _ = cache
    source.damage = (target, offset) => {
      // The file is replaced before the second look.
      if (offset === PAGE && source.suspected.length === 0) target[5] = ~(target[5] ?? 0)
    }
    using lease = await cache.reader.read(runs([blob, 0, 4 * PAGE]), context())
    assert.deepEqual(joined(lease.parts), bytes)
    assert.deepEqual(source.suspected, ['a'])
    assert.equal(cache.stats.fillErrors.ERR_CACHE_PAGE_CORRUPT, 0)
  })

  test('a page that has not its digest twice fails, and is read again when it is asked for', async () => {
    const { source, cache, bytes, blob } = await setup(2)
    await using _ = cache
    const read = () => cache.reader.read(runs([blob, 0, 2 * PAGE]), context())
    source.damage = (target, offset) => {
      if (offset === PAGE) target[5] = ~(target[5] ?? 0)
    }
    await assert.rejects(read(), { code: 'ERR_CACHE_PAGE_CORRUPT' })
    assert.deepEqual(source.suspected, ['a', 'a'])
    assert.equal(cache.stats.fillErrors.ERR_CACHE_PAGE_CORRUPT, 1)
    source.damage = undefined
    using lease = await read()
    assert.deepEqual(joined(lease.parts), bytes)
    assert.equal(source.suspected.length, 2)
  })

  test('zeroes what lies behind the end of the blob', async () => {
    const { cache, blob, bytes } = await setup(0, 100)
    await using _ = cache
    using lease = await cache.reader.read(runs([blob, 0, PAGE]), context())
    assert.deepEqual(joined(lease.parts), Buffer.concat([bytes, Buffer.alloc(PAGE - 100)]))
  })

  test('opens a blob once, tries a failed open again, closes it when it is dropped', async () => {
    const { source, cache, blob } = await setup(3)
    await using _ = cache
    source.failOpen = 1
    await assert.rejects(cache.reader.read(runs([blob, 0, 1]), context()), {
      code: 'ERR_CACHE_FILL_FAILED',
    })
    for (const pageNo of [0, 1, 2]) {
      ;(await cache.reader.read(runs([blob, pageNo * PAGE, 1]), context())).release()
    }
    assert.deepEqual(source.opened, ['a'])
    await cache.client.dropBlob(blob)
    while (source.closed.length === 0) await cache.client.accounting()
    assert.deepEqual(source.closed, ['a'])
  })

  test('fills are timed and in flight while they are', async () => {
    const { source, cache, blob } = await setup(1)
    await using _ = cache
    let inFlight = 0
    source.gate = () => {
      inFlight = cache.stats.fillsInFlight
    }
    ;(await cache.reader.read(runs([blob, 0, 1]), context())).release()
    assert.equal(inFlight, 1)
    const { fillDurations, fillSecondsSum, fillBytes } = cache.stats
    assert.equal(
      fillDurations.reduce((sum, n) => sum + n, 0),
      1,
    )
    assert.ok(fillSecondsSum > 0 && fillSecondsSum < 10)
    assert.equal(fillBytes, PAGE)
  })
})

/** Pages are filled into the frames of their numbers. */
function orders(...pages: readonly number[]): number[] {
  return pages.flatMap((page) => [page, 1, page, PAGE])
}

describe('order of a fill thread', () => {
  const blob = { domain: 'd', digest: 'a', size: 64 * PAGE }

  /** Sends `first`, `next` while its first read is under way, and gives the first pages of the reads in order. */
  async function readsOf(first: Partial<FillerMessage>, next: Partial<FillerMessage> = {}) {
    const source = new RangeSource()
    source.add('a', patternBytes(blob.size, 9))
    const { port1, port2 } = new MessageChannel()
    const send = (part: Partial<FillerMessage>): void =>
      port1.postMessage({ blobs: [], demand: [], background: [], forget: [], ...part })
    source.gate = () => {
      source.gate = undefined
      send(next)
    }
    const memory = createCacheMemory({
      cacheBytes: blob.size,
      frameSize: PAGE,
      threads: 1,
      allowTiny: true,
    })
    runFiller({ memory, port: port2, source })
    send({ ...first, blobs: [[1, blob]] })
    const parts = [first, next].flatMap(({ demand = [], background = [] }) => [demand, background])
    let left = parts.flat().length / 4
    while (left > 0) {
      const [reports] = (await once(port1, 'message')) as [FillReport[]]
      for (const { error } of reports) assert.equal(error, undefined)
      left -= reports.length
    }
    port1.close()
    return source.reads.map(({ offset }) => offset / PAGE)
  }

  test('demand that comes during a read overtakes what nobody waits for', async () => {
    const ahead = Array.from({ length: 32 }, (_, page) => page)
    const read = await readsOf({ background: orders(...ahead) }, { demand: orders(40) })
    assert.deepEqual(read, [...ahead.slice(0, 16), 40, ...ahead.slice(16)])
  })

  test('what nobody waited for is not put off for ever', async () => {
    const demand = [10, 20, 30, 40, 50, 60]
    const read = await readsOf({ demand: orders(...demand), background: orders(5) })
    assert.deepEqual(read, [10, 20, 30, 40, 5, 50, 60])
  })
})
