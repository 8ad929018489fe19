/** What NBD clients may keep pinned, for caches of every size. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { GIB, MIB } from '../../src/core/index.ts'
import type { ServerConfig } from '../../src/server/config.ts'
import { nbdLimits } from '../../src/server/nbd-limits.ts'

test('all workers together get a quarter of the cache, one connection far less', () => {
  for (const cacheSize of [64 * MIB, 128 * MIB, GIB, 64 * GIB]) {
    for (const workers of [1, 2, 15]) {
      const config = { cacheSize, workers, maxConnections: 7 } as ServerConfig
      const { maxConnections, maxInFlightBytes = 0, maxTotalInFlightBytes = 0 } = nbdLimits(config)
      assert.equal(maxConnections, 7)
      assert.ok(maxTotalInFlightBytes * workers <= cacheSize / 4)
      assert.ok(maxTotalInFlightBytes >= MIB)
      assert.ok(maxInFlightBytes >= MIB && maxInFlightBytes <= Math.max(MIB, cacheSize / 64))
      assert.ok(maxInFlightBytes <= 32 * MIB)
    }
  }
})
