import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { diskUsage, DiskUsageCache } from '../../src/images/index.ts'
import { RangeSet } from '../../src/images/range-set.ts'
import { UsageOwners } from '../../src/images/usage-owners.ts'
import { loadFixture } from '../erofs/fixtures.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, testStore } from '../store/data-folder.ts'
import { DOMAIN, importBytes } from './harness.ts'

const SPACE = 100
const runs = { numRuns: count(5000, 300), seed: 20261123 }
const rangeLists = fc.array(fc.tuple(fc.nat({ max: SPACE }), fc.nat({ max: 15 })), {
  maxLength: 12,
})

type Ranges = readonly (readonly [start: number, length: number])[]

function setOf(list: Ranges): RangeSet {
  const set = new RangeSet()
  for (const [start, length] of list) set.add(start, start + length)
  return set
}

function bytesOf(list: Ranges): Set<number> {
  return new Set(list.flatMap(([start, length]) => Array.from({ length }, (_, at) => start + at)))
}

async function tag(store: TestStore, name: string, bytes: Uint8Array): Promise<void> {
  const { digest } = await importBytes(store, [bytes])
  await store.store.domain(DOMAIN).refs.compareAndSwap(name, 'latest', 0, { image: digest })
}

describe('ranges', () => {
  test('are sets of bytes, in whatever order they come', () => {
    fc.assert(
      fc.property(rangeLists, rangeLists, (a, b) => {
        const set = setOf(a)
        const model = bytesOf(a)
        assert.equal(set.bytes, model.size)
        for (let index = 1; index < set.count; index++) {
          assert.ok(set.start(index) > set.end(index - 1))
        }
        assert.equal(set.overlap(setOf(b)), model.intersection(bytesOf(b)).size)
      }),
      runs,
    )
  })

  test('owners: bytes of one image alone are its own', () => {
    fc.assert(
      fc.property(fc.array(rangeLists, { maxLength: 5 }), (images) => {
        const owners = new UsageOwners()
        for (const [image, list] of images.entries()) owners.add(setOf(list), image)
        const unique = images.map(() => 0)
        owners.visitUnique((image, bytes) => {
          unique[image] = (unique[image] ?? 0) + bytes
        })
        const sets = images.map(bytesOf)
        const model = sets.map((own, image) => {
          const others = new Set(sets.flatMap((set, other) => (other === image ? [] : [...set])))
          return own.difference(others).size
        })
        assert.deepEqual(unique, model)
      }),
      runs,
    )
  })
})

describe('disk usage', () => {
  test('unique and shared bytes of images that share', async () => {
    await using store = await testStore()
    const [plain] = loadFixture('plain').devices
    const [prefixes] = loadFixture('prefixes').devices
    assert.ok(plain && prefixes)
    await tag(store, 'plain', plain)
    const alone = await diskUsage(store.store, DOMAIN)
    assert.equal(alone.images[0]?.uniqueBytes, alone.images[0]?.storedBytes)
    assert.equal(alone.images[0]?.sharedBytes, 0)
    assert.equal(alone.images[0]?.storedBytes, alone.totals.storedBytes)

    await tag(store, 'prefixes', prefixes)
    await tag(store, 'again', plain)
    await tag(store, 'garbage', Buffer.alloc(5000, 'g'))
    const report = await diskUsage(store.store)
    const row = (name: string) =>
      report.images.find(({ ref }) => ref === `${DOMAIN}/${name}:latest`) ?? assert.fail(name)
    assert.deepEqual(
      { ...row('again'), ref: '' },
      { ...row('plain'), ref: '' },
      'two tags of one image',
    )
    for (const image of report.images) {
      assert.equal(image.uniqueBytes + image.sharedBytes, image.storedBytes)
    }
    // The second adds a few hundred bytes of its own and shares the rest.
    assert.ok(row('prefixes').uniqueBytes < 1000)
    assert.equal(row('prefixes').sharedBytes, row('plain').sharedBytes)
    assert.equal(row('garbage').uniqueBytes, 5000)
    assert.equal(row('garbage').logicalBytes, 5000)
    assert.equal(report.totals.images, 3)
    assert.equal(report.totals.blobs, 3)
    const everything =
      row('plain').uniqueBytes + row('prefixes').storedBytes + row('garbage').storedBytes
    assert.equal(report.totals.storedBytes, everything)
  })

  test('a damaged image is named and does not hide the others', async () => {
    await using store = await testStore()
    await tag(store, 'fine', Buffer.alloc(5000, 'f'))
    const { refs, manifests } = store.store.domain(DOMAIN)
    const image = await manifests.put(Buffer.from('{"mediaType":"something/else"}'))
    await refs.compareAndSwap('odd', 'latest', 0, { image })
    const report = await diskUsage(store.store)
    assert.equal(report.images.length, 1)
    assert.equal(report.damaged.length, 1)
    assert.match(report.damaged[0] ?? '', /acme\/odd:latest/)
  })

  test('is computed once for each epoch', async () => {
    await using store = await testStore()
    await tag(store, 'one', Buffer.alloc(5000, '1'))
    const cache = new DiskUsageCache(store.store)
    const first = await cache.get(1)
    await tag(store, 'two', Buffer.alloc(5000, '2'))
    assert.equal(await cache.get(1), first)
    assert.equal((await cache.get(2)).images.length, 2)
  })

  test('changes while it is computed cost one more computation, and nobody gets what was before them', async () => {
    await using store = await testStore()
    const empty = await diskUsage(store.store)
    const turns = Array.from({ length: 3 }, () => Promise.withResolvers<void>())
    const running = Promise.withResolvers<void>()
    let begun = 0
    const cache = new DiskUsageCache(store.store, async () => {
      const turn = begun++
      running.resolve()
      await turns[turn]?.promise
      return { ...empty, damaged: [`computation ${turn}`] }
    })
    const asked = [cache.get(1)]
    await running.promise
    asked.push(cache.get(2), cache.get(3), cache.get(3))
    turns[0]?.resolve()
    turns[1]?.resolve()
    const damaged = (await Promise.all(asked)).map((report) => report.damaged[0])
    assert.deepEqual(
      damaged,
      [0, 1, 1, 1].map((turn) => `computation ${turn}`),
    )
    assert.equal(await cache.get(3), await asked[3])
    assert.equal(begun, 2)
  })
})
