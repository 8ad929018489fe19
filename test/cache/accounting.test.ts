/** Touched, added, unattributed: for whom pages count, through evictions, claims and epochs. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as fc from 'fast-check'

import { createImageAccounting, ImageAccounting, type ReadContext } from '../../src/cache/index.ts'
import { context, patternBytes, runs, TestCache } from './harness.ts'

const PAGE = 16_384
const TAIL = 100

class Images {
  readonly cache: TestCache
  readonly contexts = new Map<number, ReadContext>()
  blob = 0

  constructor(cache: TestCache) {
    this.cache = cache
  }

  async open(pages: number, images: number): Promise<void> {
    const bytes = patternBytes((pages - 1) * PAGE + TAIL, 3)
    this.blob = await this.cache.open(this.cache.source.add('a', bytes))
    for (let imageId = 1; imageId <= images; imageId++) {
      const memory = createImageAccounting(pages)
      await this.cache.client.registerImage(imageId, memory)
      this.contexts.set(imageId, context(imageId, { touched: new ImageAccounting(memory) }))
    }
  }

  async read(imageId: number, pageNo: number, bytes = 1): Promise<void> {
    const list = runs([this.blob, pageNo * PAGE, bytes])
    const ctx = this.contexts.get(imageId) ?? context(0)
    const lease = this.cache.reader.tryRead(list, ctx) ?? (await this.cache.reader.read(list, ctx))
    lease.release()
  }

  async figures(imageId: number): Promise<[touched: number, added: number]> {
    const { epoch } = await this.cache.client.accounting()
    const accounting = this.contexts.get(imageId)?.touched
    return [accounting?.touchedBytes(epoch) ?? -1, accounting?.addedBytes(epoch) ?? -1]
  }

  async evictAll(): Promise<void> {
    await this.cache.client.evict('admin', Infinity)
  }
}

describe('accounting', () => {
  test('the first image is charged, the second shares, partial pages count their bytes', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(3, 2)
    for (const pageNo of [0, 0, 2]) await images.read(1, pageNo)
    await images.read(2, 2)
    await images.read(2, 1)
    await images.read(0, 0)
    assert.deepEqual(await images.figures(1), [PAGE + TAIL, PAGE + TAIL])
    assert.deepEqual(await images.figures(2), [PAGE + TAIL, PAGE])
    const { hit, shared_hit, miss, coalesced } = cache.domain()
    assert.deepEqual(
      { hit, shared_hit, miss, coalesced },
      { hit: 2, shared_hit: 1, miss: 3, coalesced: 0 },
    )
    assert.equal(cache.domain().residentBytes, 3 * PAGE)
  })

  test('a page read again after eviction is a miss and nobody is charged', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(2, 2)
    await images.read(1, 0)
    await images.evictAll()
    await images.read(2, 0)
    assert.deepEqual(await images.figures(1), [PAGE, PAGE])
    assert.deepEqual(await images.figures(2), [PAGE, 0])
    assert.equal(cache.stats.refills, 1)
    assert.equal(cache.stats.evictions.admin, 1)
    await images.read(1, 0)
    assert.equal(cache.domain().shared_hit, 1, 'this time it was brought in for image 2')
  })

  test('a page brought in for nobody is charged to the first image that reads it', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(3, 2)
    await images.read(0, 0)
    assert.equal((await cache.client.accounting()).unattributedBytes, PAGE)
    await images.read(2, 0)
    await images.read(1, 0)
    assert.deepEqual(await images.figures(2), [PAGE, PAGE])
    assert.deepEqual(await images.figures(1), [PAGE, 0])
    assert.equal((await cache.client.accounting()).unattributedBytes, 0)
    assert.equal(cache.domain().shared_hit, 1)
    await images.evictAll()
    await images.read(0, 0)
    await images.read(1, 0)
    assert.deepEqual(await images.figures(1), [PAGE, 0], 'it was charged once')
  })

  test('also when the page was evicted in between', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(3, 1)
    await images.read(0, 2)
    await images.evictAll()
    assert.equal((await cache.client.accounting()).unattributedBytes, TAIL)
    await images.read(1, 2)
    assert.deepEqual(await images.figures(1), [TAIL, TAIL])
  })

  test('each domain has its own sums, and they are those of all', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(3, 1)
    const other = await cache.open(cache.source.add('b', patternBytes(3 * PAGE, 8), 'e'))
    const read = async (pageNo: number) =>
      (await cache.reader.read(runs([other, pageNo * PAGE, 1]), context())).release()
    await images.read(1, 0)
    await images.read(0, 2)
    for (const pageNo of [0, 1, 2]) await read(pageNo)
    await images.evictAll()
    await read(1)
    const totals = await cache.client.accounting()
    assert.deepEqual(totals.domains, [
      { domainNo: 1, unattributedBytes: TAIL, broughtBytes: PAGE + TAIL },
      { domainNo: 2, unattributedBytes: 3 * PAGE, broughtBytes: 3 * PAGE },
    ])
    assert.deepEqual(
      [totals.addedBytes, totals.unattributedBytes, totals.broughtBytes],
      [PAGE, TAIL + 3 * PAGE, 4 * PAGE + TAIL],
    )
  })

  test('an image that joins the fill of a prefetch is charged', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(3, 1)
    const { promise, resolve } = Promise.withResolvers<void>()
    cache.source.gate = () => promise
    const first = images.read(0, 0)
    const second = images.read(1, 0)
    resolve()
    await Promise.all([first, second])
    assert.deepEqual(await images.figures(1), [PAGE, PAGE])
    assert.equal(cache.domain().coalesced, 1)
  })

  test('an epoch starts at zero, with what is in memory charged to nobody', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(4, 2)
    await images.read(1, 0)
    await images.read(0, 1)
    const totals = await cache.client.resetEpoch()
    const none = { addedBytes: 0, unattributedBytes: 0, broughtBytes: 0, domains: [] }
    assert.deepEqual(totals, { epoch: 1, ...none })
    assert.deepEqual(await images.figures(1), [0, 0])
    for (const pageNo of [0, 1, 2]) await images.read(2, pageNo)
    assert.deepEqual(await images.figures(2), [3 * PAGE, PAGE])
    assert.equal(
      cache.domain().shared_hit,
      1,
      'page 0 was brought in for image 1, page 1 for nobody',
    )
    await images.evictAll()
    await images.read(1, 0)
    assert.deepEqual(await images.figures(1), [PAGE, PAGE], 'its first fill in this epoch')
  })

  test('what an unregistered image added stays in the sum', async () => {
    await using cache = new TestCache()
    const images = new Images(cache)
    await images.open(4, 2)
    await images.read(1, 0)
    await cache.client.unregisterImage(1)
    const { addedBytes, broughtBytes } = await cache.client.accounting()
    assert.deepEqual([addedBytes, broughtBytes], [PAGE, PAGE])
  })

  test('whatever happens: Σ added + unattributed = brought in, and results partition look-ups', async () => {
    const PAGES = 20
    const page = fc.integer({ min: 0, max: PAGES - 1 })
    const action = fc.oneof(
      {
        weight: 20,
        arbitrary: fc.tuple(fc.constant('read' as const), fc.integer({ min: 0, max: 3 }), page),
      },
      { weight: 4, arbitrary: fc.tuple(fc.constant('prefetch' as const), fc.constant(0), page) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('evict' as const), fc.constant(0), page) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('reset' as const), fc.constant(0), page) },
    )
    const numRuns = process.env['COMMONPAGE_FULL'] === '1' ? 400 : 25
    await fc.assert(
      fc.asyncProperty(fc.array(action, { minLength: 40, maxLength: 120 }), async (actions) => {
        await using cache = new TestCache({ frames: 8 })
        const images = new Images(cache)
        await images.open(PAGES, 3)
        const touched = new Map([1, 2, 3].map((imageId) => [imageId, new Set<number>()]))
        let lookups = 0
        for (const [name, imageId, pageNo] of actions) {
          if (name === 'read') {
            await images.read(imageId, pageNo)
            touched.get(imageId)?.add(pageNo)
            lookups++
          } else if (name === 'prefetch') {
            cache.reader.prefetch(runs([images.blob, pageNo * PAGE, 1]), context())
          } else if (name === 'evict') {
            await images.evictAll()
          } else {
            await cache.client.resetEpoch()
            for (const pages of touched.values()) pages.clear()
          }
          const totals = await cache.client.accounting()
          assert.equal(totals.addedBytes + totals.unattributedBytes, totals.broughtBytes)
        }
        for (const [imageId, pages] of touched) {
          const bytes = [...pages].reduce(
            (sum, pageNo) => sum + (pageNo === PAGES - 1 ? TAIL : PAGE),
            0,
          )
          assert.equal((await images.figures(imageId))[0], bytes)
        }
        const { hit, shared_hit, coalesced, miss } = cache.domain()
        assert.equal(hit + shared_hit + coalesced + miss, lookups)
        // Prefetches may be under way; the last word is the disposal's, after the queue is empty.
        while (cache.stats.fillsInFlight > 0) await cache.client.accounting()
      }),
      { numRuns, seed: 20_261_123 },
    )
  })
})
