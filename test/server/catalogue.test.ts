/** What the catalogue says of images: their sizes by name, of one device and of several. */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'

import { Catalogue } from '../../src/server/catalogue.ts'
import { blobKey, manifestKey } from '../../src/store/layout.ts'
import { loadFixture, readTree } from '../erofs/fixtures.ts'
import { DOMAIN, importBytes, mapsOf } from '../images/harness.ts'
import { testStore } from '../store/data-folder.ts'

test('logical bytes are those of the files, and of all devices where there are none', async () => {
  await using at = await testStore()
  const catalogue = new Catalogue(at.store, { warn: () => undefined })
  const sizesOf = async (devices: readonly Uint8Array[]) => {
    const { digest } = await importBytes(at, devices)
    const image = await catalogue.describe({ domain: DOMAIN, name: 'a', digest })
    const total = image.devices.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    return { logical: image.logicalBytes, total }
  }
  // Several names of one inode are one file.
  const inodes = new Map(
    readTree().map(({ path, sha256, nlink = 1, size = 0 }) => [nlink > 1 ? sha256 : path, size]),
  )
  const files = [...inodes.values()].reduce((sum, size) => sum + size, 0)
  const { devices } = loadFixture('chunk-64k-blob')
  const bytes = devices.reduce((sum, { length }) => sum + length, 0)
  assert.deepEqual(await sizesOf(devices), { logical: files, total: bytes })
  assert.deepEqual(await sizesOf([Buffer.alloc(70_000, 'raw')]), { logical: 70_000, total: 70_000 })
})

test('an image that lost its tag keeps its name', async () => {
  await using at = await testStore()
  const catalogue = new Catalogue(at.store, { warn: () => undefined })
  const { digest } = await importBytes(at, [Buffer.alloc(5000, 'old')])
  const other = await importBytes(at, [Buffer.alloc(5000, 'new')])
  const { refs } = at.store.domain(DOMAIN)
  await refs.compareAndSwap('app', '1', 0, { image: digest })
  assert.equal(catalogue.untaggedRef(DOMAIN, digest), `${DOMAIN}@${digest}`)
  await catalogue.resolve({ domain: DOMAIN, name: 'app', tag: '1' })
  await refs.compareAndSwap('app', '1', 1, { image: other.digest })
  assert.equal(catalogue.untaggedRef(DOMAIN, digest), `${DOMAIN}/app@${digest}`)
})

test('an image whose blobs are lost is described without its superblock', async () => {
  await using at = await testStore()
  const warnings: unknown[] = []
  const catalogue = new Catalogue(at.store, { warn: ({ event }) => void warnings.push(event) })
  const { digest } = await importBytes(at, loadFixture('chunk-64k-blob').devices)
  await at.store.domain(DOMAIN).refs.compareAndSwap('fs', '1', 0, { image: digest })
  const ref = { domain: DOMAIN, name: 'fs', tag: '1' }
  assert.equal((await catalogue.describe(ref)).blockSizeBytes, 4096)
  for (const blob of (await mapsOf(at, digest)).flatMap((map) => map.blobs)) {
    await rm(join(at.dataDir, blobKey(DOMAIN, blob.digest)), { force: true })
  }
  const image = await catalogue.describe(ref)
  assert.deepEqual([image.blockSizeBytes, image.filesystem], [undefined, 'erofs'])
  assert.deepEqual(warnings, ['image.damaged'])
})

test('a name whose record is lost is told from a name that is not there', async () => {
  await using at = await testStore()
  const catalogue = new Catalogue(at.store, { warn: () => undefined })
  const { digest } = await importBytes(at, [Buffer.alloc(5000, 'x')])
  await at.store.domain(DOMAIN).refs.compareAndSwap('app', '1', 0, { image: digest })
  await rm(join(at.dataDir, manifestKey(DOMAIN, digest)))
  const named = (name: string) => catalogue.describe({ domain: DOMAIN, name, tag: '1' })
  await assert.rejects(named('app'), { code: 'ERR_STORE_MANIFEST_MISSING' })
  await assert.rejects(named('other'), { code: 'ERR_IMAGE_NOT_FOUND' })
  const byDigest = catalogue.describe({ domain: DOMAIN, name: 'app', digest })
  await assert.rejects(byDigest, { code: 'ERR_IMAGE_NOT_FOUND' })
  assert.deepEqual((await catalogue.list({})).images, [])
})
