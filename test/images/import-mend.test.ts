/**
 * Importing an image again when what is stored of it was damaged behind the server's back: the stored files are
 * put right by rename, the report says so, and what cannot be put right is done without.
 */
import assert from 'node:assert/strict'
import { open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { Digest } from '../../src/core/index.ts'
import { blobIndexKey, blobKey, manifestKey } from '../../src/store/layout.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { loadFixture, randomNumbers } from '../erofs/fixtures.ts'
import { tinyBlob, tinyImage } from '../erofs/tiny-image.ts'
import type { TestStore } from '../store/data-folder.ts'
import { filesBelow, testStore } from '../store/data-folder.ts'
import { DOMAIN, ImageCache, importBytes, mapsOf, readBack, readHandle } from './harness.ts'

const FIXTURE = 'plain-noinline'

function bytes(size: number, seed: number): Buffer {
  const random = randomNumbers(seed)
  return Buffer.from(Array.from({ length: size }, () => random(256)))
}

function fixture(): Buffer[] {
  return loadFixture(FIXTURE).devices.map((device) => Buffer.from(device))
}

async function blobsOf(store: TestStore, image: Digest): Promise<Digest[]> {
  const maps = await mapsOf(store, image)
  return [...new Set(maps.flatMap((map) => map.blobs.map(({ digest }) => digest)))]
}

function blobFile(store: TestStore, digest: Digest): string {
  return join(store.dataDir, blobKey(DOMAIN, digest))
}

async function flipByte(file: string, position: number): Promise<void> {
  const handle = await open(file, 'r+')
  const byte = Buffer.alloc(1)
  await handle.read(byte, 0, 1, position)
  byte[0] = (byte[0] ?? 0) ^ 0xff
  await handle.write(byte, 0, 1, position)
  await handle.close()
}

/** Every file of the domain's objects with its bytes. */
async function objects(store: TestStore): Promise<Map<string, Buffer>> {
  const files = (await filesBelow(store.dataDir)).filter((file) =>
    /\/(?:blobs|maps|manifests|uploads)\//.test(file),
  )
  const found = new Map<string, Buffer>()
  for (const file of files) found.set(file, await readFile(join(store.dataDir, file)))
  return found
}

interface Damage {
  readonly name: string
  readonly apply: (blob: string, index: string) => Promise<void>
  /** Whether the chunk table can be known afterwards. */
  readonly keepsIndex: boolean
}

const DAMAGES: readonly Damage[] = [
  { name: 'a flipped byte', apply: (blob) => flipByte(blob, 20_000), keepsIndex: true },
  { name: 'a blob cut short', apply: (blob) => truncate(blob, 30_000), keepsIndex: true },
  { name: 'an emptied blob', apply: (blob) => truncate(blob, 0), keepsIndex: true },
  { name: 'a lost blob', apply: (blob) => rm(blob), keepsIndex: true },
  {
    name: 'a damaged page digest',
    apply: (_, index) => flipByte(index, 128 + 33),
    keepsIndex: false,
  },
  { name: 'a lost index', apply: (_, index) => rm(index), keepsIndex: false },
  {
    name: 'a lost blob and index',
    apply: async (blob, index) => {
      await rm(blob)
      await rm(index)
    },
    keepsIndex: false,
  },
]

describe('an image is imported again and its stored blob has', () => {
  for (const { name, apply, keepsIndex } of DAMAGES) {
    test(`${name}: it is whole again, and the report says so`, async () => {
      await using store = await testStore()
      const devices = fixture()
      const first = await importBytes(store, devices)
      const [blob, ...others] = await blobsOf(store, first.digest)
      assert.ok(blob !== undefined)
      assert.deepEqual(others, [])
      const before = await objects(store)
      const indexKey = blobIndexKey(DOMAIN, blob)
      await apply(blobFile(store, blob), join(store.dataDir, indexKey))

      const again = await importBytes(store, devices)
      assert.equal(again.digest, first.digest)
      assert.equal(again.newBytes, 0)
      assert.equal(again.notes.filter((note) => note.includes('damaged')).length, 1)
      const after = await objects(store)
      if (!keepsIndex) {
        const index = await store.store.domain(DOMAIN).blobs.openIndex(blob)
        await index.verify()
        before.delete(indexKey)
        after.delete(indexKey)
      }
      assert.deepEqual(after, before)
      await using images = new ImageCache(store, { frames: 16 })
      using view = await images.openView(store, first.digest)
      assert.ok((await readHandle(view.openDevice(0))).equals(devices[0] ?? Buffer.alloc(0)))
      const third = await importBytes(store, devices)
      assert.deepEqual(
        third.notes.filter((note) => note.includes('damaged')),
        [],
      )
    })
  }

  test('nothing wrong: no file changes', async () => {
    await using store = await testStore()
    const devices = fixture()
    const first = await importBytes(store, devices)
    const [blob = first.digest] = await blobsOf(store, first.digest)
    const { ino } = await stat(blobFile(store, blob))
    const before = await objects(store)
    const again = await importBytes(store, devices)
    assert.equal(again.notes.length, 1)
    assert.deepEqual(await objects(store), before)
    assert.equal((await stat(blobFile(store, blob))).ino, ino)
  })

  test('readers: who has the damaged file open keeps it, the name gets a new one', async () => {
    await using store = await testStore()
    const devices = fixture()
    const { digest } = await importBytes(store, devices)
    const [blob = digest] = await blobsOf(store, digest)
    const path = blobFile(store, blob)
    await flipByte(path, 5000)
    const damaged = await readFile(path)
    const reader = await open(path)
    await importBytes(store, devices)
    assert.deepEqual(await reader.readFile(), damaged)
    await reader.close()
    assert.notDeepEqual(await readFile(path), damaged)
  })

  test('damage on an extra device', async () => {
    await using store = await testStore()
    const devices = [Buffer.from(tinyImage()), Buffer.from(tinyBlob())]
    const { digest } = await importBytes(store, devices)
    for (const blob of await blobsOf(store, digest)) await flipByte(blobFile(store, blob), 10)
    const again = await importBytes(store, devices)
    assert.ok(again.notes.some((note) => note.includes('damaged')))
    assert.deepEqual(await readBack(store, digest), devices)
  })

  test('a damaged image record is put right too', async () => {
    await using store = await testStore()
    const devices = fixture()
    const { digest } = await importBytes(store, devices)
    const file = join(store.dataDir, manifestKey(DOMAIN, digest))
    const good = await readFile(file)
    await writeFile(`${file}.bad`, good.subarray(1))
    await rename(`${file}.bad`, file)
    await assert.rejects(
      store.store.domain(DOMAIN).manifests.get(digest),
      hasCode('ERR_STORE_CORRUPT'),
    )
    await importBytes(store, devices)
    assert.deepEqual(await readFile(file), good)
  })
})

describe('an image shares a damaged blob with another one', () => {
  /** Two images of fixed pieces: the second has the middle of the first, and bytes of its own. */
  const shared = bytes(3 * 65_536, 11)
  const first = Buffer.concat([bytes(65_536, 12), shared, bytes(65_536, 13)])
  const second = Buffer.concat([shared, bytes(65_536, 14)])

  test('where the damage is in the bytes that it has: the blob is put right for both', async () => {
    await using store = await testStore()
    const one = await importBytes(store, [first])
    const [blob = one.digest] = await blobsOf(store, one.digest)
    const good = await readFile(blobFile(store, blob))
    await flipByte(blobFile(store, blob), 2 * 65_536 + 5)
    const two = await importBytes(store, [second])
    assert.equal(two.newBytes, 65_536)
    assert.equal(two.notes.filter((note) => note.includes('damaged')).length, 1)
    assert.deepEqual(await readFile(blobFile(store, blob)), good)
    assert.deepEqual(await readBack(store, two.digest), [second])
    assert.deepEqual(await readBack(store, one.digest), [first])
  })

  test('where bytes are lost that it does not have: it is stored without that blob, its owner heals it', async () => {
    await using store = await testStore()
    const one = await importBytes(store, [first])
    const two = await importBytes(store, [second])
    const [blob = one.digest] = await blobsOf(store, one.digest)
    const file = blobFile(store, blob)
    const good = await readFile(file)
    await flipByte(file, 65_536 + 5)
    await flipByte(file, 5)
    const damaged = await readFile(file)

    const again = await importBytes(store, [second])
    assert.equal(again.digest, two.digest)
    assert.equal(again.newBytes, shared.length)
    assert.ok(again.notes.some((note) => note.includes('does not have all of its bytes')))
    assert.deepEqual(await readFile(file), damaged)
    assert.ok(!(await blobsOf(store, two.digest)).includes(blob))
    assert.deepEqual(await readBack(store, two.digest), [second])

    const owner = await importBytes(store, [first])
    assert.equal(owner.newBytes, 0)
    assert.deepEqual(await readFile(file), good)
    assert.deepEqual(await readBack(store, one.digest), [first])
  })
})

describe('a blob is stored whose damaged twin is there', () => {
  test('an upload of the same bytes replaces it', async () => {
    await using store = await testStore()
    const { blobs } = store.store.domain(DOMAIN)
    const content = bytes(50_000, 21)
    async function* upload() {
      yield await Promise.resolve(content)
    }
    const { digest } = await blobs.putStream(upload())
    const file = blobFile(store, digest)
    assert.equal((await blobs.putStream(upload())).created, false)
    for (const damage of [() => flipByte(file, 49_999), () => truncate(file, 7)]) {
      await damage()
      assert.equal((await blobs.putStream(upload())).created, true)
      assert.deepEqual(await readFile(file), content)
    }
  })

  test('bytes that no longer give the digest are not published as it', async () => {
    await using store = await testStore()
    const { blobs } = store.store.domain(DOMAIN)
    const content = bytes(50_000, 22)
    async function* upload() {
      yield await Promise.resolve(content)
    }
    const { digest, size } = await blobs.putStream(upload())
    await flipByte(blobFile(store, digest), 100)
    const before = await objects(store)
    assert.equal(await blobs.restore({ digest, size }, () => Promise.resolve()), false)
    assert.deepEqual(await objects(store), before)
  })
})
