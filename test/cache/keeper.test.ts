/** The keeper's decisions, without threads. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { CachePolicy } from '../../src/cache/index.ts'
import { FRAME, recordOf } from '../../src/cache/frame-table.ts'
import { openCacheMemory } from '../../src/cache/memory.ts'
import { GRANTED } from '../../src/cache/messages.ts'
import { SampleWriter } from '../../src/cache/sample-ring.ts'
import { FRAME_SIZE, KeeperBench } from './keeper-bench.ts'

describe('Keeper', () => {
  test('one fill per page, however many ask', () => {
    const bench = new KeeperBench()
    const blob = bench.open()
    const ids = Array.from({ length: 64 }, () => bench.read(blob, [3]))
    assert.equal(bench.orders.length, 1)
    assert.equal(bench.answered.length, 0)
    bench.fill()
    assert.deepEqual(bench.answered, ids)
    const how = ids.map((id) => bench.grant(id).how[0])
    assert.deepEqual(how, [GRANTED.FILLED, ...ids.slice(1).map(() => GRANTED.COALESCED)])
    const late = bench.read(blob, [3])
    assert.deepEqual(bench.grant(late).how, [GRANTED.RESIDENT])
    for (const id of [...ids, late]) bench.release(id)
    assert.equal(bench.pinned, 0)
    assert.equal(bench.stats.fills.demand, 1)
  })

  test('a grant has every page or none, and pages come with the valid length of their blob', () => {
    const bench = new KeeperBench()
    const [blob] = bench.keeper.openBlobs([{ domain: 'd', digest: 'x', size: 2 * FRAME_SIZE + 5 }])
    const id = bench.read(blob?.blobNo ?? 0, [0, 1, 2])
    assert.deepEqual(
      bench.orders.map(({ validBytes }) => validBytes),
      [FRAME_SIZE, FRAME_SIZE, 5],
    )
    bench.fill(2)
    assert.equal(bench.answers.has(id), false)
    bench.fill()
    assert.equal(bench.grant(id).frames.length, 3)
    assert.equal(bench.pinned, 3)
  })

  test('a failed page fails the read, returns its pins, and is not remembered', () => {
    const bench = new KeeperBench()
    const blob = bench.open()
    const first = bench.read(blob, [0, 1])
    const joined = bench.read(blob, [1])
    const [ok, bad] = bench.orders.splice(0)
    assert.ok(ok && bad)
    bench.keeper.fromFiller([
      { frame: ok.frame },
      { frame: bad.frame, error: { code: 'ERR_CACHE_PAGE_CORRUPT', message: 'no' } },
    ])
    assert.equal(bench.code(first), 'ERR_CACHE_PAGE_CORRUPT')
    assert.equal(bench.code(joined), 'ERR_CACHE_PAGE_CORRUPT')
    assert.equal(bench.pinned, 0)
    assert.equal(bench.stats.fillErrors.ERR_CACHE_PAGE_CORRUPT, 1)
    const again = bench.read(blob, [0, 1])
    assert.equal(bench.orders.length, 1, 'page 0 stayed, page 1 is read again')
    bench.fill()
    assert.deepEqual(bench.grant(again).how, [GRANTED.RESIDENT, GRANTED.FILLED])
  })

  test('reads that lack frames wait in order, hold nothing, and are not overtaken', () => {
    const bench = new KeeperBench(8)
    const blob = bench.open()
    const holders = [bench.read(blob, [0, 1, 2, 3]), bench.read(blob, [4, 5, 6])]
    bench.fill()
    assert.equal(bench.pinned, 7)
    const large = bench.read(blob, [0, 10, 11])
    const small = bench.read(blob, [12])
    bench.keeper.poll()
    assert.equal(bench.orders.length, 0, 'one frame is free, but it is not for the second in line')
    assert.equal(bench.pinned, 7, 'the waiting read holds not even the page that is in memory')
    assert.equal(bench.stats.grantsWaiting, 2)
    const resident = bench.read(blob, [5])
    assert.deepEqual(
      bench.grant(resident).how,
      [GRANTED.RESIDENT],
      'needs no frame: waits for nobody',
    )
    bench.release(resident)
    assert.equal(bench.keeper.pollInMs, 1)
    bench.release(holders[1] ?? 0)
    bench.keeper.poll()
    bench.fill()
    assert.deepEqual(bench.answered.slice(-2), [large, small])
    assert.equal(bench.stats.grantsWaiting, 0)
    for (const id of [holders[0] ?? 0, large, small]) bench.release(id)
    assert.equal(bench.pinned, 0)
  })

  test('a flood of misses takes a quarter of the frames at a time, and is served in order', () => {
    const bench = new KeeperBench(512)
    const blob = bench.open(2000)
    for (let page = 0; page < 512; page++) {
      const id = bench.read(blob, [page])
      bench.fill()
      bench.release(id)
    }
    const flood = Array.from({ length: 100 }, (_, read) =>
      bench.read(
        blob,
        Array.from({ length: 8 }, (_page, page) => 600 + 8 * read + page),
      ),
    )
    assert.equal(bench.stats.fillsInFlight, 128)
    assert.equal(bench.stats.evictions.capacity, 128)
    assert.equal(bench.stats.grantsWaiting, 84)
    for (const [served, id] of flood.entries()) {
      while (!bench.answers.has(id)) {
        bench.fill(1)
        assert.ok(bench.stats.fillsInFlight <= 128)
      }
      assert.deepEqual(bench.answered.slice(512), flood.slice(0, served + 1))
      bench.release(id)
    }
    assert.equal(bench.stats.grantsWaiting, 0)
    assert.equal(bench.pinned, 0)
  })

  test('who stands in line for a page that another brings in joins it there and then', () => {
    const bench = new KeeperBench(256)
    const blob = bench.open(2000)
    const pages = (first: number, count: number) =>
      Array.from({ length: count }, (_, i) => first + i)
    const busy = bench.read(blob, pages(0, 64))
    const first = bench.read(blob, pages(100, 32))
    const others = [20, 30, 40].map((read) => bench.read(blob, pages(10 * read, 8)))
    const joins = [bench.read(blob, [110]), bench.read(blob, [131, 101, 50])]
    const lacks = bench.read(blob, [100, 500])
    const gone = bench.read(blob, [105])
    assert.equal(bench.stats.grantsWaiting, 8)
    bench.cancel(gone)
    bench.fill(32)
    assert.equal(bench.stats.fillsInFlight, 64, 'the first of the line was let in')
    assert.equal(bench.stats.grantsWaiting, 4, 'with those who lack nothing else')
    bench.fill(32)
    assert.deepEqual(bench.answered, [gone, busy])
    while (bench.orders.length > 0) bench.fill(8)
    assert.deepEqual(
      [first, ...joins].map((id) => bench.isGranted(id)),
      [true, true, true],
    )
    assert.ok([...others, lacks].every((id) => bench.isGranted(id)))
    assert.deepEqual(bench.grant(joins[0] ?? 0).how, [GRANTED.COALESCED])
    assert.equal(bench.stats.fills.demand, 64 + 32 + 24 + 1)
    assert.equal(bench.stats.grantsWaiting, 0)
  })

  test('pages are read ahead beside a line that waits for the store, not beside one that waits for frames', () => {
    const bench = new KeeperBench(256)
    const blob = bench.open(2000)
    for (let read = 0; read < 20; read++) {
      bench.read(
        blob,
        Array.from({ length: 8 }, (_, page) => 8 * read + page),
      )
    }
    assert.equal(bench.stats.grantsWaiting, 12)
    bench.fetch('readahead', blob, [1000, 1001])
    assert.equal(bench.stats.backgroundDropped, 0)
    const small = new KeeperBench(8)
    const other = small.open()
    small.read(other, [0, 1, 2, 3, 4, 5, 6])
    small.read(other, [10, 11])
    small.fetch('readahead', other, [20])
    assert.equal(small.stats.backgroundDropped, 1)
  })

  test('a read above that quarter is served when no other is under way', () => {
    const bench = new KeeperBench(256)
    const blob = bench.open(1000)
    const small = bench.read(blob, [0])
    const large = bench.read(
      blob,
      Array.from({ length: 100 }, (_, page) => 1 + page),
    )
    assert.equal(bench.stats.fillsInFlight, 1)
    bench.fill()
    assert.ok(bench.isGranted(small))
    assert.equal(bench.stats.fillsInFlight, 100)
    while (bench.orders.length > 0) bench.fill()
    assert.ok(bench.isGranted(large))
  })

  test('the queue of waiting reads is bounded', () => {
    const bench = new KeeperBench(8, { maxWaiting: 2 })
    const blob = bench.open()
    bench.read(blob, [0, 1, 2, 3])
    bench.read(blob, [4, 5, 6, 7])
    bench.fill()
    const waiting = [bench.read(blob, [8]), bench.read(blob, [9])]
    const refused = bench.read(blob, [10])
    assert.equal(bench.code(refused), 'ERR_CACHE_OVERLOADED')
    assert.ok(waiting.every((id) => !bench.answers.has(id)))
    assert.equal(bench.stats.overloads, 1)
  })

  test('a deadline ends waiting and filling reads alike; a late page is still published', () => {
    const bench = new KeeperBench(8, { fillTimeoutMs: 500 })
    const blob = bench.open()
    bench.read(blob, [0, 1, 2, 3])
    bench.read(blob, [4, 5, 6])
    bench.fill()
    const filling = bench.read(blob, [0, 7])
    const waiting = bench.read(blob, [8, 9])
    assert.ok((bench.keeper.pollInMs ?? Infinity) < 500)
    bench.now = 501
    bench.keeper.poll()
    assert.equal(bench.code(filling), 'ERR_CACHE_FILL_TIMEOUT')
    assert.equal(bench.code(waiting), 'ERR_CACHE_FILL_TIMEOUT')
    assert.equal(bench.pinned, 7)
    assert.equal(bench.stats.fillErrors.ERR_CACHE_FILL_TIMEOUT, 2)
    bench.fill()
    const after = bench.read(blob, [7])
    assert.deepEqual(bench.grant(after).how, [GRANTED.RESIDENT])
    assert.equal(bench.keeper.pollInMs, undefined)
  })

  test('pages outside of a blob and unknown blobs are refused', () => {
    const bench = new KeeperBench()
    const blob = bench.open(2)
    assert.equal(bench.code(bench.read(blob, [0, 2])), 'ERR_CACHE_RANGE')
    assert.equal(bench.code(bench.read(99, [0])), 'ERR_CACHE_BLOB_UNKNOWN')
    assert.equal(bench.orders.length, 0)
    assert.equal(bench.pinned, 0)
    assert.throws(() => bench.open(3), { code: 'ERR_CACHE_RANGE' })
  })

  test('background pages wait behind demand, join it when somebody asks, and never take the last frames', () => {
    const bench = new KeeperBench(320)
    const blob = bench.open()
    const ahead = Array.from({ length: 34 }, (_, i) => 10 + i)
    bench.fetch('readahead', blob, ahead)
    assert.equal(bench.orders.length, 32, 'a thread gets two reads of 256 KiB')
    const read = bench.read(blob, [43])
    const asked = bench.orders.at(-1)
    assert.deepEqual([asked?.pageNo, asked?.lane], [43, 'demand'], 'not background any more')
    bench.fill()
    assert.deepEqual(bench.grant(read).how, [GRANTED.COALESCED])
    bench.fill()
    assert.equal(bench.stats.fills.readahead, 34)
    assert.equal(bench.stats.readaheadUsed, 1)
    bench.fetch(
      'prefetch',
      blob,
      Array.from({ length: 50 }, (_, i) => 50 + i),
    )
    assert.equal(bench.stats.backgroundDropped, 10, 'an eighth of the frames at a time')
  })

  test('pages that somebody came to wait for count as demand until they are done, and no longer', () => {
    const bench = new KeeperBench(1024)
    const blob = bench.open(1000)
    const pages = Array.from({ length: 33 }, (_, i) => i)
    for (let round = 0; round < 40; round++) {
      const first = round * pages.length
      bench.fetch(
        'readahead',
        blob,
        pages.map((page) => ((first + page) * 7) % 1000),
      )
      const read = bench.read(blob, [((first + 32) * 7) % 1000])
      if (round === 0) {
        assert.equal(bench.orders.at(-1)?.lane, 'demand')
        bench.fetch('readahead', blob, [999])
        bench.fill(1)
        assert.equal(
          bench.orders.filter(({ lane }) => lane === 'background').length,
          31,
          'no more of the background while somebody waits',
        )
      }
      while (bench.orders.length > 0) bench.fill()
      bench.release(read)
      bench.keeper.evict('admin', Infinity)
    }
    const wanted = Array.from({ length: 40 }, (_, i) => 2 * i)
    bench.read(blob, wanted)
    assert.equal(bench.orders.length, 32, 'what a thread is given at a time')
    while (bench.orders.length > 0) bench.fill()
    bench.fetch(
      'readahead',
      blob,
      wanted.map((page) => page + 1),
    )
    assert.equal(bench.orders.length, 32, 'two reads of 256 KiB')
  })

  test('consecutive pages go to one thread, other work to another', () => {
    const bench = new KeeperBench(64)
    const other: number[] = []
    bench.keeper.addFiller(({ demand }) => {
      for (let i = 2; i < demand.length; i += 4) other.push(demand[i] ?? -1)
    })
    const blob = bench.open()
    const pages = Array.from({ length: 32 }, (_, i) => i)
    bench.read(blob, pages)
    const mine = bench.orders.map(({ pageNo }) => pageNo)
    assert.deepEqual([mine, other], [pages.slice(0, 16), pages.slice(16)])
  })

  test('dropBlob evicts everything, waits for pins, and kills the number', async () => {
    const bench = new KeeperBench()
    const blob = bench.open()
    const held = bench.read(blob, [0])
    bench.fill()
    bench.release(bench.read(blob, [0]))
    const filling = bench.read(blob, [1])
    let dropped = false
    const drop = bench.keeper.dropBlob(blob).then(() => (dropped = true))
    bench.fill()
    assert.equal(bench.code(filling), 'ERR_CACHE_BLOB_UNKNOWN')
    assert.equal(bench.code(bench.read(blob, [0])), 'ERR_CACHE_BLOB_UNKNOWN')
    bench.keeper.poll()
    await Promise.resolve()
    assert.equal(dropped, false)
    bench.release(held)
    bench.now += 1000
    bench.keeper.poll()
    await drop
    assert.deepEqual(bench.forgotten, [blob])
    assert.equal(bench.stats.residentFrames, 0)
    assert.equal(bench.stats.evictions.removed, 1)
    assert.notEqual(bench.open(), blob)
  })

  test('domains share neither numbers nor pages', () => {
    const bench = new KeeperBench()
    const one = bench.open(10, 'same', 'one')
    const two = bench.open(10, 'same', 'two')
    assert.notEqual(one, two)
    bench.read(one, [0])
    bench.read(two, [0])
    assert.equal(bench.orders.length, 2)
    assert.deepEqual(bench.keeper.domains(), [
      ['one', 1],
      ['two', 2],
    ])
  })

  test('second chance keeps what is used, and gives up when all is pinned', () => {
    const bench = new KeeperBench(8)
    const blob = bench.open()
    const { table, index } = openCacheMemory(bench.memory)
    const ids = [bench.read(blob, [0, 1, 2, 3]), bench.read(blob, [4, 5, 6, 7])]
    bench.fill()
    for (const id of ids) bench.release(id)
    for (const pageNo of [0, 2, 4, 6]) {
      table[recordOf(index.find(blob, pageNo)) + FRAME.USE] = 1
    }
    bench.read(blob, [8, 9, 10, 11])
    bench.fill()
    const left = [0, 1, 2, 3, 4, 5, 6, 7].filter((pageNo) => index.find(blob, pageNo) >= 0)
    assert.deepEqual(left, [0, 2, 4, 6])
    const rest = bench.read(blob, left)
    const waits = bench.read(blob, [12])
    assert.equal(bench.grant(rest).frames.length, 4)
    assert.equal(bench.answers.has(waits), false)
    assert.equal(bench.stats.evictions.capacity, 4)
  })

  test('a policy gets the samples it asks for, and its victims', () => {
    const sampled: [number, number][] = []
    let offered = 0
    const policy = (): CachePolicy => ({
      sampleEvery: 2,
      onSample: (blobNo, pageNo) => void sampled.push([blobNo, pageNo]),
      onFill: () => undefined,
      nextVictim(canEvict) {
        for (offered = 7; offered >= 0; offered--) if (canEvict(offered)) return offered
        return -1
      },
    })
    const bench = new KeeperBench(8, { policy })
    const blob = bench.open()
    assert.equal(openCacheMemory(bench.memory).control[1], 2)
    const held = bench.read(blob, [0, 1, 2, 3])
    const rest = bench.read(blob, [4, 5, 6, 7])
    bench.fill()
    bench.release(rest)
    const writer = new SampleWriter(bench.memory.samples, 0)
    for (let pageNo = 0; pageNo < 5; pageNo++) writer.hit(2, blob, pageNo)
    assert.deepEqual(sampled, [])
    bench.read(blob, [8])
    assert.deepEqual(sampled, [
      [blob, 0],
      [blob, 2],
      [blob, 4],
    ])
    bench.fill()
    assert.equal(offered, 7)
    assert.equal(bench.stats.evictions.capacity, 1)
    assert.equal(bench.grant(held).frames.length, 4)
  })
})
