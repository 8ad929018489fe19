/** Every fixture image, imported and read back byte for byte, from the blobs and through the cache. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import {
  bytesOf,
  fixtureNames,
  loadFixture,
  randomNumbers,
  readTree,
  sha256,
} from '../erofs/fixtures.ts'
import { testStore } from '../store/data-folder.ts'
import { ImageCache, importBytes, readBack, readHandle } from './harness.ts'

const UNCOMPRESSED = [
  'plain',
  'plain-512',
  'plain-noinline',
  'chunk-4k',
  'chunk-64k-blob',
  'chunk-1m-blob',
  'prefixes',
  'fingerprint',
  'metabox',
]
/** Directories of it are compressed: nothing but fixed cuts is possible. */
const NOT_PARSED = ['dirdata']

describe('import of the fixtures', () => {
  for (const name of fixtureNames()) {
    test(`${name}: every device comes back, a second import stores nothing`, async () => {
      await using store = await testStore()
      const { devices } = loadFixture(name)
      const first = await importBytes(store, devices)
      assert.equal(first.filesystem, NOT_PARSED.includes(name) ? 'unknown' : 'erofs')
      assert.equal(first.notes.length === 0, UNCOMPRESSED.includes(name))
      assert.deepEqual(
        await readBack(store, first.digest),
        devices.map((one) => Buffer.from(one)),
      )
      const second = await importBytes(store, devices)
      assert.equal(second.newBytes, 0)
      assert.equal(second.digest, first.digest)
      assert.equal(second.inodes, first.inodes)
    })
  }

  test('one tree in every layout is stored once, but for metadata', async () => {
    await using store = await testStore()
    const results = new Map<string, number>()
    for (const name of UNCOMPRESSED) {
      const { devices } = loadFixture(name)
      const { digest, newBytes } = await importBytes(store, devices)
      results.set(name, newBytes)
      assert.deepEqual(
        await readBack(store, digest),
        devices.map((one) => Buffer.from(one)),
      )
    }
    const metadataBytes = 50_000
    for (const name of UNCOMPRESSED.slice(1)) {
      assert.ok((results.get(name) ?? Infinity) < metadataBytes, `${name}: ${results.get(name)}`)
    }
  })

  for (const name of UNCOMPRESSED) {
    test(`${name}: devices, files and ranges of files through a cache of 16 frames`, async () => {
      await using store = await testStore()
      const { devices } = loadFixture(name)
      const { digest } = await importBytes(store, devices)
      await using images = new ImageCache(store, { frames: 16 })
      using view = await images.openView(store, digest)
      for (const [index, bytes] of devices.entries()) {
        assert.equal(sha256(await readHandle(view.openDevice(index))), sha256(bytes))
      }
      const random = randomNumbers(7)
      for (const entry of readTree()) {
        if (entry.sha256 === undefined) continue
        const { info, handle } = await view.openFile(bytesOf(entry.path))
        assert.equal(info.size, entry.size)
        const whole = await readHandle(handle)
        assert.equal(sha256(whole), entry.sha256, entry.path)
        const offset = random(info.size + 1)
        const length = random(info.size - offset + 1)
        const part = await readHandle(handle, offset, length)
        assert.ok(part.equals(whole.subarray(offset, offset + length)), entry.path)
      }
    })
  }
})
