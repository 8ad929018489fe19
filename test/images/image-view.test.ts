/** Opened images: devices, flattened view, paths, listings, tags, errors, and what readahead may bring in. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { residentPagesByBlob } from '../../src/cache/index.ts'
import { imagePages, planBlobs, residentBytes } from '../../src/images/index.ts'
import { MAX_WINDOW_CHUNKS } from '../../src/images/image-files.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { bytesOf, latin1, loadFixture, readTree, sha256 } from '../erofs/fixtures.ts'
import { FILE, ImageBuilder, u32le } from '../erofs/image-builder.ts'
import { TINY_BIG_SIZE, tinyBig, tinyBlob, tinyImage } from '../erofs/tiny-image.ts'
import { testStore } from '../store/data-folder.ts'
import { ImageCache, importBytes, mapsOf, readHandle } from './harness.ts'

const BLOCK = 4096

describe('views', () => {
  test('devices and the flattened view of an image in two devices', async () => {
    await using store = await testStore()
    const primary = tinyImage()
    const blob = tinyBlob()
    const { digest } = await importBytes(store, [primary, blob])
    await using images = new ImageCache(store)
    using view = await images.openView(store, digest)
    assert.equal(view.deviceCount, 2)
    assert.equal(view.deviceDigest(1), `sha256:${sha256(blob)}`)
    assert.throws(() => view.deviceDigest(2), hasCode('ERR_DEVICE_NOT_FOUND'))
    assert.throws(() => view.openDevice(2), hasCode('ERR_DEVICE_NOT_FOUND'))
    // Its table says that the blob starts at block 1.
    assert.equal(view.size, BLOCK + blob.length)
    const flattened = Buffer.concat([primary, blob])
    assert.ok((await readHandle(view.openFlattened())).equals(flattened))
    assert.ok(
      (await readHandle(view.openFlattened(), BLOCK - 7, 50)).equals(
        flattened.subarray(BLOCK - 7, BLOCK + 43),
      ),
    )
    const { handle, info } = await view.openFile(bytesOf('big'))
    assert.equal(info.size, TINY_BIG_SIZE)
    assert.ok((await readHandle(handle)).equals(tinyBig()))

    // The same bytes as one device: the same flattened view, found through another map.
    const one = await importBytes(store, [flattened])
    using flat = await images.openView(store, one.digest)
    assert.equal(flat.size, view.size)
    assert.equal(flat.rawEtag, `"${flat.deviceDigest(0)}"`)
    assert.notEqual(flat.rawEtag, view.rawEtag)
    assert.ok((await readHandle((await flat.openFile(bytesOf('big'))).handle)).equals(tinyBig()))
    assert.equal(
      (await flat.openFile(bytesOf('big'))).etag,
      (await view.openFile(bytesOf('big'))).etag,
    )
  })

  test('every entry of the tree has its status', async () => {
    await using store = await testStore()
    const { digest } = await importBytes(store, loadFixture('plain').devices)
    await using images = new ImageCache(store)
    using view = await images.openView(store, digest)
    for (const entry of readTree()) {
      const status = await view.stat(bytesOf(entry.path), { followLast: false })
      assert.equal(
        status.mode.toString(8).padStart(6, '0').slice(-4),
        entry.mode.slice(-4),
        entry.path,
      )
      assert.equal(status.uid, entry.uid)
      assert.equal(status.gid, entry.gid)
      const nanoseconds =
        BigInt(status.mtimeSeconds) * 1_000_000_000n + BigInt(status.mtimeNanoseconds)
      assert.equal(String(nanoseconds), entry.mtime_ns)
      assert.equal(status.target === undefined ? undefined : latin1(status.target), entry.target)
      if (entry.size !== undefined && status.type === 'file') assert.equal(status.size, entry.size)
      assert.equal(status.etag !== undefined, status.type === 'file')
      if (entry.target !== undefined) {
        assert.equal(latin1(await view.readLink(bytesOf(entry.path))), entry.target)
      }
    }
  })

  test('listings of any page size give every name once, in order', async () => {
    await using store = await testStore()
    const { digest } = await importBytes(store, loadFixture('plain').devices)
    await using images = new ImageCache(store)
    using view = await images.openView(store, digest)
    const top = new Set(
      readTree()
        .map(({ path }) => path.split('/')[0] ?? '')
        .filter((name) => name !== ''),
    )
    for (const limit of [1, 3, 1000]) {
      const names: string[] = []
      let after: Uint8Array | undefined
      do {
        const page = await view.readDirectory(new Uint8Array(0), {
          limit,
          ...(after === undefined ? {} : { after }),
        })
        assert.ok(page.entries.length <= limit)
        names.push(...page.entries.map((entry) => latin1(entry.name)))
        after = page.next
      } while (after !== undefined)
      const sorted = names.toSorted((a, b) => Buffer.compare(bytesOf(a), bytesOf(b)))
      assert.deepEqual(names, sorted)
      assert.equal(new Set(names).size, names.length)
      for (const name of top) assert.ok(names.includes(name), name)
    }
  })

  test('each kind of wrong path has its own answer', async () => {
    await using store = await testStore()
    const { digest } = await importBytes(store, loadFixture('plain').devices)
    await using images = new ImageCache(store)
    using view = await images.openView(store, digest)
    const tree = readTree()
    const special = bytesOf(tree.find(({ rdev }) => rdev !== undefined)?.path ?? assert.fail())
    const file = bytesOf(tree.find(({ sha256: digest_ }) => digest_ !== undefined)?.path ?? '')
    const directory = new Uint8Array(0)
    await assert.rejects(view.openFile(bytesOf('no/such')), hasCode('ERR_FILE_NOT_FOUND'))
    await assert.rejects(
      view.openFile(Buffer.concat([file, bytesOf('/below')])),
      hasCode('ERR_FILE_NOT_FOUND'),
    )
    await assert.rejects(view.openFile(directory), hasCode('ERR_FILE_IS_DIRECTORY'))
    await assert.rejects(view.readDirectory(file), hasCode('ERR_FILE_NOT_DIRECTORY'))
    await assert.rejects(view.readLink(file), hasCode('ERR_FILE_NOT_SYMLINK'))
    await assert.rejects(view.openFile(special), hasCode('ERR_FILE_SPECIAL'))
    await assert.rejects(view.stat(Buffer.alloc(40_000, 'a')), hasCode('ERR_EROFS_PATH_TOO_LONG'))
  })

  test('compressed files say so, bytes that are no image have no files', async () => {
    await using store = await testStore()
    const { digest } = await importBytes(store, loadFixture('lz4').devices)
    const garbage = await importBytes(store, [Buffer.alloc(10_000, 'x')])
    await using images = new ImageCache(store)
    using view = await images.openView(store, digest)
    const codes = new Set<string>()
    for (const { path, sha256: expected } of readTree()) {
      if (expected === undefined) continue
      try {
        const { handle } = await view.openFile(bytesOf(path))
        assert.equal(sha256(await readHandle(handle)), expected)
      } catch (error) {
        assert.ok(error instanceof Error && 'code' in error, String(error))
        codes.add(String(error.code))
      }
    }
    assert.deepEqual([...codes], ['ERR_FILE_COMPRESSED'])
    using unknown = await images.openView(store, garbage.digest)
    assert.equal(unknown.filesystem, 'unknown')
    await assert.rejects(unknown.stat(bytesOf('x')), hasCode('ERR_IMAGE_NOT_PARSED'))
    assert.equal((await readHandle(unknown.openFlattened())).toString(), 'x'.repeat(10_000))
  })

  test('equal files have equal tags in every image, other files have others', async () => {
    await using store = await testStore()
    await using images = new ImageCache(store)
    const tags = new Map<string, string>()
    // A hole is not the zeros of a stored chunk, so layouts with holes are left out.
    for (const name of ['plain', 'plain-512', 'plain-noinline', 'fingerprint']) {
      const { digest } = await importBytes(store, loadFixture(name).devices)
      using view = await images.openView(store, digest)
      for (const { path, sha256: content } of readTree()) {
        if (content === undefined) continue
        const { etag } = await view.openFile(bytesOf(path))
        assert.match(etag, /^"[0-9a-f]{64}"$/)
        assert.equal(tags.get(content) ?? etag, etag, `${name}: ${path}`)
        tags.set(content, etag)
      }
    }
    assert.equal(new Set(tags.values()).size, tags.size)
  })
})

describe('files whose map does not fit', () => {
  /** A sparse file of two and a half windows: mostly holes, a block of data here and there. */
  function sparseImage() {
    const chunks = MAX_WINDOW_CHUNKS * 2 + MAX_WINDOW_CHUNKS / 2
    const tableBlocks = Math.ceil((chunks * 4) / BLOCK)
    const builder = new ImageBuilder({ blocks: 16 + tableBlocks })
    builder.root([{ name: 'sparse', nid: 128, type: 1 }])
    const table = new Uint8Array(chunks * 4).fill(0xff)
    const data = new Map<number, number>()
    for (const [index, chunk] of [
      0,
      5,
      MAX_WINDOW_CHUNKS - 1,
      MAX_WINDOW_CHUNKS,
      chunks - 1,
    ].entries()) {
      const block = 8 + tableBlocks + index
      table.set(u32le(block), chunk * 4)
      builder.put(block * BLOCK, new Uint8Array(BLOCK).fill(index + 1))
      data.set(chunk, index + 1)
    }
    builder.inode(128, { layout: 4, mode: FILE, size: chunks * BLOCK, u: 0, body: table })
    return { bytes: builder.bytes, data, chunks }
  }

  test('are read in windows, across their borders too', async () => {
    await using store = await testStore()
    const { bytes, data, chunks } = sparseImage()
    const summary = await importBytes(store, [bytes])
    assert.equal(summary.filesystem, 'erofs')
    await using images = new ImageCache(store)
    using view = await images.openView(store, summary.digest)
    const { handle, info, etag } = await view.openFile(bytesOf('sparse'))
    assert.equal(info.size, chunks * BLOCK)
    assert.match(etag, /^"[0-9a-f]{64}"$/)
    const expected = (from: number, blocks: number): Buffer =>
      Buffer.concat(
        Array.from({ length: blocks }, (_, at) => Buffer.alloc(BLOCK, data.get(from + at) ?? 0)),
      )
    const target = Buffer.alloc(2 * BLOCK)
    const border = MAX_WINDOW_CHUNKS - 1
    assert.equal(handle.readInto(target, 0, border * BLOCK, 2 * BLOCK), false)
    for (const [from, blocks] of [
      [0, 7],
      [border, 2],
      [chunks - 3, 3],
      [border - 3, 6],
    ] as const) {
      using lease = await handle.read(from * BLOCK, blocks * BLOCK)
      assert.ok(Buffer.concat(lease.parts).equals(expected(from, blocks)), `block ${from}`)
    }
    // Now both windows and their pages are in memory.
    assert.equal(handle.readInto(target, 0, border * BLOCK, 2 * BLOCK), true)
    assert.ok(target.equals(expected(border, 2)))
    using hit = handle.tryRead(border * BLOCK, 2 * BLOCK)
    assert.ok(hit !== undefined && Buffer.concat(hit.parts).equals(expected(border, 2)))
    let at = (border - 100) * BLOCK
    for await (const lease of handle.stream(at, 300 * BLOCK)) {
      for (const part of lease.parts) {
        for (let offset = 0; offset < part.length; offset += BLOCK) {
          assert.equal(part[offset], data.get(Math.floor((at + offset) / BLOCK)) ?? 0)
        }
        at += part.length
      }
      lease.release()
    }
    assert.equal(at, (border + 200) * BLOCK)
    assert.throws(() => handle.readInto(target, 0, info.size, 1), RangeError)
    await assert.rejects(handle.read(info.size, 1), RangeError)
  })
})

describe('what a read brings into memory', () => {
  test('reading a file in order never brings in the file behind it', async () => {
    await using store = await testStore()
    const builder = new ImageBuilder({ blocks: 600 })
    builder.root([
      { name: 'first', nid: 128, type: 1 },
      { name: 'second', nid: 136, type: 1 },
    ])
    const blocks = 256
    for (const [index, nid] of [128, 136].entries()) {
      const start = 16 + index * blocks
      builder.inode(nid, { mode: FILE, size: blocks * BLOCK, u: start })
      for (let block = 0; block < blocks; block++) {
        builder.view.setUint32((start + block) * BLOCK, start + block)
      }
    }
    const { digest } = await importBytes(store, [builder.bytes])
    const maps = await mapsOf(store, digest)
    await using images = new ImageCache(store, { frames: 200, reader: { readahead: true } })
    using view = await images.openView(store, digest)
    const { handle } = await view.openFile(bytesOf('first'))
    for (let at = 0; at < handle.size; at += 32_768) await readHandle(handle, at, 32_768)
    const { frameSize } = images.cache.memory
    // Fills that were asked for have ended when a page asked for after them is there.
    const { handle: second } = await view.openFile(bytesOf('second'))
    const lastByte = await readHandle(second, second.size - 1, 1)
    assert.equal(lastByte.length, 1)
    const [blob] = planBlobs(maps, frameSize).blobs
    const blobNo = await images.cache.open({
      domain: 'acme',
      digest: blob?.digest ?? '',
      size: blob?.size ?? 0,
    })
    const resident = residentPagesByBlob(images.cache.memory).get(blobNo)?.length ?? 0
    const firstFile = (blocks * BLOCK) / frameSize
    // The metadata page, and the page of the second file that was asked for.
    assert.ok(
      resident >= firstFile && resident <= firstFile + 2,
      `${resident} frames, the file has ${firstFile}`,
    )
  })

  test('resident bytes are those of the image, not of the blob', async () => {
    await using store = await testStore()
    const { digest } = await importBytes(store, loadFixture('plain').devices)
    const maps = await mapsOf(store, digest)
    const frameSize = 16_384
    const pages = imagePages(maps, frameSize)
    const [blob] = pages.keys()
    const all = Array.from({ length: 100 }, (_, page) => page)
    const size = maps[0]?.blobs[0]?.size ?? 0
    assert.equal(
      residentBytes(pages, () => all, frameSize),
      Math.ceil(size / frameSize) * frameSize,
    )
    assert.equal(
      residentBytes(pages, () => [], frameSize),
      0,
    )
    assert.equal(
      residentBytes(pages, (one) => (one === blob ? [0, 3, 99] : all), frameSize),
      2 * frameSize,
    )
  })
})
