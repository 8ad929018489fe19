/** What is remembered of images for reports is bounded in bytes, however many pieces they have. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { createCacheMemory } from '../../src/cache/index.ts'
import type { Digest } from '../../src/core/index.ts'
import { MIB } from '../../src/core/index.ts'
import type { ImageRegistry } from '../../src/server/image-registry.ts'
import { UsageIndex } from '../../src/server/usage-index.ts'
import type { Store } from '../../src/store/index.ts'
import { DOMAIN, importBytes } from '../images/harness.ts'
import { testStore } from '../store/data-folder.ts'

test('page sets are kept within their bytes, made once for all who ask, and again when they were let go', async () => {
  await using at = await testStore()
  const digests: Digest[] = []
  for (const text of ['a', 'b']) {
    digests.push((await importBytes(at, [Buffer.alloc(50_000, text)])).digest)
  }
  const cacheBytes = 4 * MIB
  const memory = createCacheMemory({ cacheBytes, frameSize: 16_384, threads: 1, allowTiny: true })
  /** How often an image's maps were read for so many rounds of reports. */
  const reads = async (maxPageSetBytes: number, rounds: number): Promise<number> => {
    let count = 0
    const domain = (name: string) => {
      count++
      return at.store.domain(name)
    }
    const usage = new UsageIndex({
      store: { domain } as unknown as Store,
      registry: { blobNo: () => undefined } as unknown as ImageRegistry,
      memory,
      epoch: new Int32Array(new SharedArrayBuffer(4)),
      maxPageSetBytes,
    })
    const resident = usage.residentPages()
    for (let round = 0; round < rounds; round++) {
      for (const digest of digests) {
        const asked = [1, 2].map(() => usage.residentBytes(DOMAIN, digest, resident))
        assert.deepEqual(await Promise.all(asked), [0, 0])
      }
    }
    return count
  }
  assert.equal(await reads(MIB, 3), 2, 'both fit')
  // One set: 64 ranges at first, and what goes with it.
  assert.equal(await reads(2000, 3), 6, 'one at a time fits, and each displaces the other')
  assert.equal(await reads(100, 3), 6, 'none fits')
})
