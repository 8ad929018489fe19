/** Opening images from main's registry to a worker's data plane: holders, budgets, epochs, moved tags. */
import assert from 'node:assert/strict'
import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { MessageChannel } from 'node:worker_threads'

import type { Digest } from '../../src/core/index.ts'
import type { ImageView } from '../../src/images/index.ts'
import { LocalPageSource } from '../../src/store/index.ts'
import { Catalogue } from '../../src/server/catalogue.ts'
import { WorkerDataPlane } from '../../src/server/data-plane.ts'
import type { MetadataBudgets } from '../../src/server/image-registry.ts'
import {
  ImageRegistry,
  KNOWN_IMAGE_BYTES,
  MAX_IDLE_IMAGES,
} from '../../src/server/image-registry.ts'
import { RpcPeer } from '../../src/server/rpc.ts'
import { MAIN_CALLS } from '../../src/server/threads/setup.ts'
import { TestCache } from '../cache/harness.ts'
import { DOMAIN, importBytes, mapsOf, readHandle } from '../images/harness.ts'
import type { TestStore } from '../store/data-folder.ts'
import { seeded, testStore } from '../store/data-folder.ts'

const PLENTY: MetadataBudgets = { mapBytes: 1 << 24, accountingBytes: 1 << 24 }

interface Rig extends AsyncDisposable {
  readonly test: TestStore
  readonly cache: TestCache
  readonly registry: ImageRegistry
  readonly catalogue: Catalogue
  readonly plane: WorkerDataPlane
  readonly epoch: Int32Array
  readonly calls: readonly string[]
  /** What the worker has told main is heard. */
  settled(): Promise<void>
}

async function rig(budgets = PLENTY): Promise<Rig> {
  const at = await testStore()
  const source = new LocalPageSource({ dataDir: at.dataDir })
  const cache = new TestCache({ source })
  const calls: string[] = []
  const epoch = new Int32Array(new SharedArrayBuffer(4))
  const registry = new ImageRegistry({
    store: at.store,
    keeper: cache.client,
    frameSize: cache.memory.frameSize,
    workers: 1,
    budgets,
    releaseIdle: () => main.call('releaseIdle'),
  })
  const catalogue = new Catalogue(at.store, { warn: () => undefined })
  const { port1, port2 } = new MessageChannel()
  const main = new RpcPeer(port1, {
    [MAIN_CALLS.RESOLVE]: async (ref: never) => {
      calls.push('resolve')
      return (await catalogue.resolve(ref)).digest
    },
    [MAIN_CALLS.OPEN_IMAGE]: (domain: string, digest: Digest) => {
      calls.push('open')
      return registry.open(domain, digest, 0)
    },
    [MAIN_CALLS.CLOSE_IMAGE]: (domain: string, digest: Digest) => {
      calls.push('close')
      registry.close(domain, digest, 0)
    },
    ping: () => undefined,
  })
  const rpc = new RpcPeer(port2, { releaseIdle: () => plane.releaseIdle() })
  const plane = new WorkerDataPlane({ rpc, reader: cache.reader, epoch, workerNo: 0 })
  return {
    test: at,
    cache,
    registry,
    catalogue,
    plane,
    epoch,
    calls,
    settled: () => rpc.call('ping'),
    async [Symbol.asyncDispose]() {
      port1.close()
      await cache[Symbol.asyncDispose]()
      await source[Symbol.asyncDispose]()
      await at[Symbol.asyncDispose]()
    },
  }
}

/** An image of its own bytes, in as many stretches as make its map `extents` long. */
async function image(
  at: Rig,
  seed: number,
  extents = 4,
): Promise<{ digest: Digest; bytes: Buffer }> {
  const next = seeded(seed)
  const block = 4096
  const bytes = Buffer.alloc(extents * 2 * block)
  for (let i = 0; i < extents; i++) {
    for (let b = 0; b < block; b++) bytes[i * 2 * block + b] = 1 + Math.floor(next() * 255)
  }
  const { digest } = await importBytes(at.test, [bytes])
  return { digest, bytes }
}

function open(at: Rig, digest: Digest): Promise<ImageView> {
  return at.plane.openImage({ domain: DOMAIN, name: 'x', digest })
}

async function mapBytes(at: Rig, digest: Digest): Promise<number> {
  const { registry } = at
  const view = await open(at, digest)
  view[Symbol.dispose]()
  return registry.mapBytes
}

describe('opening', () => {
  test('one open for many users at once, one close when the last idle view goes', async () => {
    await using at = await rig()
    const { digest, bytes } = await image(at, 1)
    const views = await Promise.all(Array.from({ length: 20 }, () => open(at, digest)))
    assert.deepEqual(at.calls, ['open'])
    assert.ok(views.every((view) => view === views[0]))
    assert.ok((await readHandle(views[0]?.openFlattened() ?? assert.fail())).equals(bytes))
    for (const view of views) view[Symbol.dispose]()
    const again = await open(at, digest)
    again[Symbol.dispose]()
    at.plane.releaseIdle()
    at.plane.releaseIdle()
    await at.settled()
    assert.deepEqual(at.calls, ['open', 'close'])
  })

  test('an image that is not there fails each time, and can be opened once it is', async () => {
    await using at = await rig()
    const missing: Digest = `sha256:${'0'.repeat(64)}`
    await assert.rejects(open(at, missing), { code: 'ERR_IMAGE_NOT_FOUND' })
    await assert.rejects(open(at, missing), { code: 'ERR_IMAGE_NOT_FOUND' })
    assert.equal(at.registry.mapBytes, 0)
  })

  test('a tag is asked for once an epoch, and a moved tag is seen by the next open', async () => {
    await using at = await rig()
    const [first, second] = [await image(at, 1), await image(at, 2)]
    const { refs } = at.test.store.domain(DOMAIN)
    const ref = { domain: DOMAIN, name: 'app', tag: '1' }
    const { generation } = await refs.compareAndSwap('app', '1', 0, { image: first.digest })
    const old = await at.plane.openImage(ref)
    assert.equal((await at.plane.openImage(ref)).digest, first.digest)
    assert.equal(at.calls.filter((call) => call === 'resolve').length, 1)
    await refs.compareAndSwap('app', '1', generation, { image: second.digest })
    Atomics.add(at.epoch, 0, 1)
    assert.equal((await at.plane.openImage(ref)).digest, second.digest)
    assert.equal(old.digest, first.digest)
    assert.ok((await readHandle(old.openFlattened())).equals(first.bytes))
  })
})

describe('memory of maps', () => {
  test('maps that only idle views hold make room; those in use do not', async () => {
    const probe = await rig()
    const size = await mapBytes(probe, (await image(probe, 1, 64)).digest)
    await probe[Symbol.asyncDispose]()

    await using at = await rig({ ...PLENTY, mapBytes: Math.floor(size * 1.5) })
    const a = await image(at, 1, 64)
    const b = await image(at, 2, 64)
    const idle = await open(at, a.digest)
    idle[Symbol.dispose]()
    const used = await open(at, b.digest)
    assert.deepEqual(at.calls, ['open', 'open', 'close'])
    await assert.rejects(open(at, a.digest), { code: 'ERR_MAPS_EXHAUSTED' })
    assert.equal(at.registry.mapBytes, size)
    assert.ok((await readHandle(used.openFlattened())).equals(b.bytes))
    used[Symbol.dispose]()
    const back = await open(at, a.digest)
    assert.ok((await readHandle(back.openFlattened())).equals(a.bytes))
  })

  test('a map that can never fit is refused, and gives back what it took', async () => {
    await using at = await rig({ ...PLENTY, mapBytes: 100 })
    const { digest } = await image(at, 1)
    await assert.rejects(open(at, digest), { code: 'ERR_MAPS_EXHAUSTED' })
    assert.equal(at.registry.mapBytes, 0)
  })

  test('opening many at once never takes more than the budget', async () => {
    const probe = await rig()
    const size = await mapBytes(probe, (await image(probe, 1, 32)).digest)
    await probe[Symbol.asyncDispose]()

    const limit = size * 3
    await using at = await rig({ ...PLENTY, mapBytes: limit })
    const images = await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => image(at, seed, 32)))
    const results = await Promise.allSettled(images.map(({ digest }) => open(at, digest)))
    const opened = results.filter(({ status }) => status === 'fulfilled').length
    assert.ok(opened >= 1 && opened <= 3, `${opened} are open`)
    assert.ok(at.registry.mapBytes <= limit)
    assert.equal(at.registry.mapBytes, opened * size)
  })
})

test('of the images that nobody has open, the maps of a few are kept', async () => {
  await using at = await rig()
  const digests: Digest[] = []
  for (let seed = 0; seed < MAX_IDLE_IMAGES + 3; seed++) {
    digests.push((await image(at, seed, 1)).digest)
  }
  const held = await open(at, digests[0] ?? assert.fail())
  const size = at.registry.mapBytes
  for (const digest of digests.slice(1)) {
    const view = await open(at, digest)
    view[Symbol.dispose]()
  }
  at.plane.releaseIdle()
  await at.settled()
  assert.equal(at.registry.mapBytes, (MAX_IDLE_IMAGES + 1) * size)
  assert.equal(Array.from(at.registry.known()).length, digests.length, 'their figures stay')
  assert.equal((await readHandle(held.openFlattened())).length, 8192)
  const again = await open(at, digests[1] ?? assert.fail())
  assert.equal((await readHandle(again.openFlattened())).length, 8192)
  again[Symbol.dispose]()
  held[Symbol.dispose]()
})

describe('accounting', () => {
  test('a new epoch forgets images that are gone from memory, and the open ones count from 0', async () => {
    const probe = await rig()
    const size = await mapBytes(probe, (await image(probe, 1)).digest)
    await probe[Symbol.asyncDispose]()

    await using at = await rig({ ...PLENTY, mapBytes: size })
    const [a, b] = [await image(at, 1), await image(at, 2)]
    const gone = await open(at, a.digest)
    await readHandle(gone.openFlattened())
    gone[Symbol.dispose]()
    const view = await open(at, b.digest)
    await readHandle(view.openFlattened())
    const digests = () => Array.from(at.registry.known(), (known) => known.digest)
    assert.deepEqual(digests(), [a.digest, b.digest])
    await at.cache.client.resetEpoch()
    await at.registry.startEpoch()
    assert.deepEqual(digests(), [b.digest])
    const [known] = at.registry.known()
    const { epoch } = await at.cache.client.accounting()
    assert.equal(known?.accounting.touchedBytes(epoch), 0)
    await readHandle(view.openFlattened())
    assert.ok((known?.accounting.touchedBytes(epoch) ?? 0) > 0)
  })

  test('when bitmaps fill their budget, the image that is closed longest is forgotten; sums stay right', async () => {
    const probe = await rig()
    await mapBytes(probe, (await image(probe, 1)).digest)
    const [one] = probe.registry.known()
    const bitmap = one?.accounting.memory.buffer.byteLength ?? 0
    const map = probe.registry.mapBytes
    await probe[Symbol.asyncDispose]()

    const accountingBytes = bitmap + KNOWN_IMAGE_BYTES
    await using tight = await rig({ mapBytes: map, accountingBytes })
    const [a, b] = [await image(tight, 1), await image(tight, 2)]
    const first = await open(tight, a.digest)
    await readHandle(first.openFlattened())
    first[Symbol.dispose]()
    const second = await open(tight, b.digest)
    await readHandle(second.openFlattened())
    assert.deepEqual(
      Array.from(tight.registry.known(), (known) => known.digest),
      [b.digest],
    )
    const totals = await tight.cache.client.accounting()
    assert.equal(totals.addedBytes + totals.unattributedBytes, totals.broughtBytes)
    assert.ok(totals.addedBytes > 0)
  })
})

describe('lists', () => {
  test('pages over domains hold no more than asked for, miss none and repeat none', async () => {
    await using at = await rig()
    const bytes = Buffer.alloc(4096, 7)
    const expected: string[] = []
    for (const [domain, tags] of Object.entries({ a: 3, b: 1, c: 1, d: 1, e: 4 })) {
      const { digest } = await importBytes(at.test, [bytes], { domain })
      for (let tag = 0; tag < tags; tag++) {
        await at.test.store.domain(domain).refs.compareAndSwap('x', `${tag}`, 0, { image: digest })
        expected.push(`${domain}/x:${tag}`)
      }
    }
    for (const limit of [1, 2, 3, 4, 100]) {
      const seen: string[] = []
      let cursor: string | undefined
      do {
        const page = await at.catalogue.list({ limit, ...(cursor === undefined ? {} : { cursor }) })
        assert.ok(page.images.length <= limit, `${page.images.length} of ${limit}`)
        seen.push(...page.images.map(({ ref }) => ref))
        cursor = page.nextCursor
      } while (cursor !== undefined)
      assert.deepEqual(seen, expected, `limit ${limit}`)
    }
    await assert.rejects(at.catalogue.list({ cursor: '!' }), { code: 'ERR_INVALID_ARGUMENT' })
  })

  test('an image whose map is damaged hides no other', async () => {
    await using at = await rig()
    const [a, b] = [await image(at, 1), await image(at, 2)]
    const { refs } = at.test.store.domain(DOMAIN)
    await refs.compareAndSwap('a', '1', 0, { image: a.digest })
    await refs.compareAndSwap('b', '1', 0, { image: b.digest })
    const [map] = await mapsOf(at.test, a.digest)
    assert.ok(map)
    const folder = join(at.test.dataDir, 'domains', DOMAIN, 'maps')
    const record = await at.catalogue.describe({ domain: DOMAIN, name: 'a', tag: '1' })
    const hex = record.devices[0]?.digest.slice(7) ?? ''
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name)
      if (!entry.isFile() || !path.includes(hex)) continue
      await rm(path)
      await writeFile(path, 'damaged')
    }
    const fresh = new Catalogue(at.test.store, { warn: () => undefined })
    assert.deepEqual(
      (await fresh.list({})).images.map(({ ref }) => ref),
      [`${DOMAIN}/b:1`],
    )
    await assert.rejects(fresh.describe({ domain: DOMAIN, name: 'a', tag: '1' }), {
      code: 'ERR_STORE_CORRUPT',
    })
  })
})
