/**
 * The pin protocol under real threads, on a cache so small that every page is evicted all the time. Each page's
 * bytes encode its key, so a wrong read shows. `COMMONPAGE_FULL=1` does more than ten million verified reads.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import { MessageChannel, type Transferable, Worker } from 'node:worker_threads'

import {
  cacheStats,
  createCacheMemory,
  domainStats,
  KeeperClient,
  pinnedBytes,
  sumCacheCounters,
} from '../../src/cache/index.ts'
import type { StressData, StressResult } from './stress-thread.ts'
import { evidence } from '../evidence.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const FRAME_SIZE = 16_384
const FRAMES = 16
const PAGES = 24

function start(data: Partial<StressData>, transfer: Transferable[] = []): Worker {
  const module = new URL('./stress-thread.ts', import.meta.url)
  return new Worker(module, { workerData: data, transferList: transfer })
}

async function result(worker: Worker): Promise<StressResult> {
  const [message] = (await once(worker, 'message')) as [StressResult]
  return message
}

/** One thread evicts and refills, another reads. */
async function stress(role: 'hits' | 'careless', reads: number) {
  const cacheBytes = FRAMES * FRAME_SIZE
  const memory = createCacheMemory({
    cacheBytes,
    frameSize: FRAME_SIZE,
    threads: 1,
    allowTiny: true,
  })
  const stop = new Int32Array(new SharedArrayBuffer(4))
  const shared = { memory, stop, blobNo: 1, pages: PAGES, reads, row: 0 }
  const evictor = start({ role: 'evictor', ...shared })
  await once(evictor, 'message')
  const evictorEnd = result(evictor)
  const { port1, port2 } = new MessageChannel()
  const reader = start({ role, ...shared, port: port2 }, [port2])
  const outcome = await result(reader)
  await evictorEnd
  await Promise.all([reader.terminate(), evictor.terminate()])
  port1.close()
  const { evictions, residentFrames } = cacheStats(sumCacheCounters(memory))
  assert.equal(pinnedBytes(memory), 0)
  assert.ok(residentFrames <= FRAMES)
  return { ...outcome, evictions: evictions.capacity }
}

describe('cache under threads', () => {
  test('no reader uses bytes of another page while pages are evicted under it', async () => {
    const { reads, wrong, evictions } = await stress('hits', FULL ? 11_000_000 : 1_000_000)
    evidence('pins.two-threads', { reads, evictions, wrong })
    assert.equal(wrong, 0)
    assert.ok(evictions > reads / 100, `only ${evictions} evictions`)
  })

  test('the same stress finds a reader that ignores the EVICTING bit', async () => {
    const { reads, wrong } = await stress('careless', 300_000)
    evidence('pins.careless-reader', { reads, wrong })
    assert.ok(wrong > 0)
  })

  test('keeper, fill thread and two readers: right bytes, every pin returned', async () => {
    const cacheBytes = FRAMES * FRAME_SIZE
    const memory = createCacheMemory({
      cacheBytes,
      frameSize: FRAME_SIZE,
      threads: 2,
      allowTiny: true,
    })
    const stop = new Int32Array(new SharedArrayBuffer(4))
    const shared = { memory, stop, blobNo: 1, pages: PAGES, reads: FULL ? 50_000 : 4_000 }
    const { port1, port2 } = new MessageChannel()
    const client = new KeeperClient(port1)
    const keeper = start({ role: 'keeper', ...shared, port: port2 }, [port2])
    const fillerPort = client.connectFiller()
    const filler = start({ role: 'filler', ...shared, port: fillerPort }, [fillerPort])
    await client.openBlobs([{ domain: 'd', digest: 'stress', size: PAGES * FRAME_SIZE }])
    const readers = [0, 1].map((row) => {
      const port = client.connectReader()
      return start({ role: 'reads', ...shared, row, port }, [port])
    })
    const results = await Promise.all(readers.map(result))
    const totals = await client.accounting()
    client.close()
    await Promise.all([keeper, filler, ...readers].map((worker) => worker.terminate()))
    for (const { reads, wrong, refused } of results) {
      evidence('cache.keeper-and-two-readers', { reads, refused, wrong })
      assert.equal(wrong, 0)
      assert.ok(refused <= reads / 16)
    }
    assert.equal(pinnedBytes(memory), 0)
    assert.equal(totals.addedBytes + totals.unattributedBytes, totals.broughtBytes)
    const sums = sumCacheCounters(memory)
    const { miss } = domainStats(sums, 1)
    const { fills, evictions } = cacheStats(sums)
    assert.ok(evictions.capacity > 100)
    assert.ok(miss <= fills.demand, 'reads given up miss without being counted')
  })
})
