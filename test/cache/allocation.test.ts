/**
 * What a read of pages in memory allocates: nothing for its pages, however many they are and wherever their frames
 * lie, and a stated little for the reply. Once for the page reader alone, and once for the whole way of an NBD
 * request: session, export, address map, page cache, output.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { pinnedBytes } from '../../src/cache/index.ts'
import type { NbdExport } from '../../src/nbd/export.ts'
import { NBD_CMD } from '../../src/nbd/index.ts'
import { evidence } from '../evidence.ts'
import { EagerSession } from '../nbd/eager-session.ts'
import { PageCacheServer } from '../nbd/page-cache-server.ts'
import { request } from '../nbd/wire.ts'
import { allocatedBytes } from './allocation-measure.ts'
import { context, patternBytes, runs, TestCache } from './harness.ts'

const FRAME = 16_384
const PAGES = 64
const MIB = PAGES * FRAME
/** A pin budget of 1/64 of the frames has to hold more than 1 MiB. */
const FRAMES = 8192
/** One of these visits each of 64 pages in an order in which none follows its neighbour. */
const STRIDE = 37
/** Above what the measure itself allocates, below the smallest object. */
const NOTHING = 2
/** The lease itself and, unless it is a whole frame, one view. */
const MAX_LEASE_BYTES = 256
/** Of one receive with its requests: views of what came and of what goes, and the lists of a batch. */
const MAX_RECEIVE_BYTES = 1536
/** Of a request of 1 MiB: the reply that waits for its release, the lease, and batches of 768 KiB. */
const MAX_LARGE_BYTES = 2048
/** Of a part of a reply, which above the cache is a scattered page: not even an object. The rest is the measure's. */
const MAX_PART_BYTES = 16

/** A reader over a blob whose first MiB lies in frames behind each other, and whose second lies scattered. */
async function filledReader() {
  const cache = new TestCache({ frames: FRAMES, frameSize: FRAME, threads: 1 })
  const blobNo = await cache.open(cache.source.add('a', patternBytes(2 * MIB, 1)))
  const { reader } = cache
  const whose = context()
  ;(await reader.read(runs([blobNo, 0, MIB]), whose)).release()
  for (let i = 0; i < PAGES; i++) {
    const page = PAGES + ((i * STRIDE) % PAGES)
    ;(await reader.read(runs([blobNo, page * FRAME, FRAME]), whose)).release()
  }
  const dispose = () => cache[Symbol.asyncDispose]()
  return { cache, reader, whose, blobNo, [Symbol.asyncDispose]: dispose }
}

describe('what a hit allocates', { concurrency: false }, () => {
  test('the measure sees a view', () => {
    const memory = Buffer.from(new SharedArrayBuffer(MIB))
    let last = memory
    const bytes = allocatedBytes(() => {
      for (let i = 0; i < PAGES; i++) last = memory.subarray(i, i + FRAME)
    })
    assert.equal(last.length, FRAME)
    assert.ok(bytes > PAGES * 64, `${bytes} bytes for ${PAGES} views`)
  })

  test('a copy: nothing at all', async () => {
    await using filled = await filledReader()
    const { cache, reader, whose, blobNo } = filled
    const target = Buffer.alloc(MIB)
    const small = runs([blobNo, FRAME - 100, 4096])
    const large = runs([blobNo, MIB, MIB])
    const before = askedPages(cache)
    const copySmall = allocatedBytes(() => assertTrue(reader.copyInto(small, whose, target, 0)))
    const copyLarge = allocatedBytes(() => assertTrue(reader.copyInto(large, whose, target, 0)))
    assert.equal(askedPages(cache), before)
    evidence('allocation.copy', { '4KiB_bytes': copySmall, '1MiB_bytes': copyLarge })
    assert.ok(copySmall < NOTHING, `${copySmall} bytes for 4 KiB`)
    assert.ok(copyLarge < NOTHING, `${copyLarge} bytes for 1 MiB`)
  })

  test('a lease: a little for the reply, nothing for its pages', async () => {
    await using filled = await filledReader()
    const { cache, reader, whose, blobNo } = filled
    const before = askedPages(cache)
    const measure = (offset: number, length: number, parts: number): number => {
      const list = runs([blobNo, offset, length])
      const lease = reader.tryRead(list, whose)
      assert.equal(lease?.parts.length, parts)
      lease.release()
      return allocatedBytes(() => reader.tryRead(list, whose)?.release())
    }
    const small = measure(4096, 4096, 1)
    const adjacent = measure(0, MIB, 1)
    const onePage = measure(MIB, FRAME, 1)
    const scattered = measure(MIB, MIB, PAGES)
    assert.equal(askedPages(cache), before)
    const perPage = (scattered - onePage) / (PAGES - 1)
    evidence('allocation.lease', {
      '4KiB_bytes': small,
      '1MiB_adjacent_bytes': adjacent,
      '1MiB_scattered_bytes': scattered,
      scattered_bytes_per_page: perPage,
    })
    for (const bytes of [small, adjacent, onePage, scattered]) {
      assert.ok(bytes < MAX_LEASE_BYTES, `${bytes} bytes a lease`)
    }
    assert.ok(perPage < NOTHING / 4, `${perPage} bytes a page`)
    assert.equal(pinnedBytes(cache.memory), 0)
  })
})

describe('what an NBD request allocates', { concurrency: false }, () => {
  test('requests of 4 KiB and 1 MiB, answered from memory', async () => {
    const server = new PageCacheServer({
      size: 2 * MIB,
      cache: { frames: FRAMES, frameSize: FRAME, threads: 1 },
    })
    await using cache = server.cache
    const target = await server.exports.open(server.name, {
      id: 1,
      signal: new AbortController().signal,
    })
    await read(target, 0, MIB)
    for (let i = 0; i < PAGES; i++) await read(target, MIB + ((i * STRIDE) % PAGES) * FRAME, FRAME)
    const eager = new EagerSession(target)
    const before = askedPages(cache)
    const figures = {
      '4KiB_depth1': measureRequest(eager, { offset: 8192, length: 4096 }, 1),
      '4KiB_depth32': measureRequest(eager, { offset: 8192, length: 4096 }, 32),
      '1MiB_adjacent': measureRequest(eager, { offset: 0, length: MIB }, 1),
      '1MiB_scattered': measureRequest(eager, { offset: MIB, length: MIB }, 1),
    }
    assert.equal(askedPages(cache), before)
    assert.equal(eager.spent, 0)
    eager.session.close()
    const perPart = (figures['1MiB_scattered'] - figures['1MiB_adjacent']) / (PAGES - 1)
    evidence('allocation.nbd-request', { ...figures, per_scattered_part: perPart })
    assert.ok(figures['4KiB_depth1'] < MAX_RECEIVE_BYTES)
    assert.ok(figures['4KiB_depth32'] < MAX_RECEIVE_BYTES / 16)
    assert.ok(figures['1MiB_adjacent'] < MAX_LARGE_BYTES)
    assert.ok(perPart < MAX_PART_BYTES, `${perPart} bytes a part`)
    assert.equal(server.pinned, 0)
  })
})

/** Bytes allocated for one request, when `depth` of them arrive together. */
function measureRequest(
  eager: EagerSession,
  fields: { readonly offset: number; readonly length: number },
  depth: number,
): number {
  const one = request({ ...fields, type: NBD_CMD.READ })
  const chunk = Buffer.concat(Array.from({ length: depth }, () => one))
  const bytes = allocatedBytes(() => {
    const before = eager.answered
    eager.session.receive(chunk, 0)
    assertTrue(eager.answered === before + depth)
  })
  return bytes / depth
}

async function read(target: NbdExport, offset: number, length: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  target.read(offset, length, {
    send: (_parts, release) => {
      release()
      resolve()
    },
    stream: () => reject(new Error('above the pin budget')),
    fail: (errno, message) => reject(new Error(`${errno}: ${message}`)),
    aborted: new AbortController().signal,
  })
  await promise
}

/** `assert.ok` makes objects. */
function assertTrue(value: boolean): void {
  if (!value) throw new assert.AssertionError({ message: 'expected true' })
}

/** Pages that were asked of the keeper, which is another thread in a server. */
function askedPages(cache: TestCache): number {
  const { miss, coalesced } = cache.domain()
  return miss + coalesced
}
