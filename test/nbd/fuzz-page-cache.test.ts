/**
 * Fuzzing of the byte stream against the real page cache: NbdExports, reader, keeper and fill thread over a
 * cache so small that sessions evict each other's pages, and reads above three frames are streamed.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { fuzz } from './fuzzing.ts'
import { PageCacheServer } from './page-cache-server.ts'

const SIZE = 500_001
const FRAMES = 24

test('whatever a client sends: right bytes from the page cache, and no pin left behind', async () => {
  const limits = {
    maxInFlight: 16,
    maxInFlightBytes: SIZE,
    maxTotalInFlightBytes: SIZE,
  }
  await using cached = await PageCacheServer.start({
    size: SIZE,
    limits,
    cache: { frames: FRAMES },
  })
  const { server, bytes, name } = cached
  await fuzz(
    {
      server,
      bytes,
      streams: { size: SIZE, names: [name, 'acme/-/blobs/x', '', 'nope', 'acme/image:1'] },
      world: {
        exports: new Map([
          [name, SIZE],
          ['', SIZE],
        ]),
        listed: 0,
        broken: new Set(),
      },
      settled: () => cached.settled(),
    },
    { name: 'page-cache', seed: 1_123_581_321, sessions: 400, fullMs: 300_000 },
  )
  assert.deepEqual([server.errors, cached.readErrors], [[], []])
  assert.ok(cached.cache.stats.evictions.capacity > 0, 'pages were evicted under the sessions')
})
