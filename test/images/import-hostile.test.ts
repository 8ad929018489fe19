/** Images that are damaged, made to harm, or no images at all: whatever is imported comes back byte for byte. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { mkdir, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { FEATURE_INCOMPAT } from '../../src/erofs/index.ts'
import { SB, SUPERBLOCK_OFFSET } from '../../src/erofs/layout.ts'
import { openStore } from '../../src/store/index.ts'
import type { ImportPhase } from '../../src/images/index.ts'
import { importErofs } from '../../src/images/index.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { loadFixture, randomNumbers, sha256 } from '../erofs/fixtures.ts'
import { FILE, ImageBuilder, u32le } from '../erofs/image-builder.ts'
import { tinyBlob, tinyImage } from '../erofs/tiny-image.ts'
import { missing } from '../requires.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, dataFolder, filesBelow, testStore } from '../store/data-folder.ts'
import { DOMAIN, importBytes, readBack } from './harness.ts'

const BLOCK = 4096

function randomBytes(size: number, seed: number): Buffer {
  const random = randomNumbers(seed)
  return Buffer.from(Array.from({ length: size }, () => random(256)))
}

async function assertComesBack(store: TestStore, devices: readonly Uint8Array[]) {
  const summary = await importBytes(store, devices)
  const back = await readBack(store, summary.digest)
  for (const [index, bytes] of devices.entries()) {
    assert.ok(back[index]?.equals(bytes), `device ${index} differs`)
  }
  return summary
}

describe('bytes that are no image', () => {
  test('are cut at fixed offsets, equal windows stored once', async () => {
    await using store = await testStore()
    const window = randomBytes(65_536, 1)
    const garbage = Buffer.concat([window, randomBytes(70_000, 2), Buffer.alloc(200_000)])
    const summary = await assertComesBack(store, [garbage])
    assert.equal(summary.filesystem, 'unknown')
    assert.equal(summary.logicalBytes, garbage.length)
    assert.equal(summary.notes.length, 1)
    const other = await assertComesBack(store, [Buffer.concat([randomBytes(65_536, 3), window])])
    assert.equal(other.newBytes, 65_536)
    assert.equal(other.sharedBytes, 65_536)
  })

  test('of any size, one byte and all zeros included', async () => {
    await using store = await testStore()
    for (const size of [1, 511, 512, 1024, 4095, 4097, 65_535, 65_537, 200_001]) {
      await assertComesBack(store, [randomBytes(size, size)])
      const zeros = await assertComesBack(store, [Buffer.alloc(size)])
      assert.equal(zeros.newBytes, 0)
      assert.equal(zeros.zeroBytes, size)
    }
  })

  test('no bytes at all are refused', async () => {
    await using store = await testStore()
    await assert.rejects(importBytes(store, [Buffer.alloc(0)]), hasCode('ERR_IMPORT_EMPTY'))
    await assert.rejects(importBytes(store, []), hasCode('ERR_IMPORT_DEVICES'))
  })

  test('a source that is not there is an error of its own', async () => {
    await using store = await testStore()
    await assert.rejects(
      importErofs({ store: store.store, domain: DOMAIN, devices: [{ path: '/nowhere/at/all' }] }),
      hasCode('ERR_IMPORT_SOURCE'),
    )
  })
})

describe('damaged images', () => {
  const names = ['plain', 'chunk-4k', 'plain-512', 'metabox', 'lz4']

  test('cut short anywhere', async () => {
    await using store = await testStore()
    const random = randomNumbers(11)
    for (let round = 0; round < count(200, 10); round++) {
      const [primary] = loadFixture(names[round % names.length] ?? 'plain').devices
      assert.ok(primary)
      await assertComesBack(store, [primary.subarray(0, 1 + random(primary.length))])
    }
  })

  test('with bytes changed anywhere, mostly in metadata', async () => {
    await using store = await testStore()
    const random = randomNumbers(12)
    for (let round = 0; round < count(500, 15); round++) {
      const [primary] = loadFixture(names[round % names.length] ?? 'plain').devices
      assert.ok(primary)
      const damaged = Uint8Array.from(primary)
      for (let change = 0; change < 1 + random(20); change++) {
        damaged[1024 + random(round % 3 === 0 ? damaged.length - 1024 : 60_000)] = random(256)
      }
      await assertComesBack(store, [damaged])
    }
  })

  /** Files of any place and size on an image of random bytes: over each other, over metadata, beyond the end. */
  const crafted = fc.record({
    seed: fc.nat(),
    files: fc.array(
      fc.record({
        block: fc.nat({ max: 40 }),
        blocks: fc.nat({ max: 36 }),
        tail: fc.nat({ max: BLOCK }),
        layout: fc.constantFrom(0, 2, 4),
      }),
      { minLength: 1, maxLength: 12 },
    ),
  })

  test('files that overlap each other, metadata and the end of the device', async () => {
    await using store = await testStore()
    await fc.assert(
      fc.asyncProperty(crafted, async ({ seed, files }) => {
        const builder = new ImageBuilder({ blocks: 40 })
        const random = randomNumbers(seed)
        // Four different contents, so that blocks and chunks repeat; some are zeros.
        for (let block = 3; block < 40; block++) {
          const byte = random(4)
          builder.put(block * BLOCK, new Uint8Array(BLOCK).fill(byte))
          if (byte === 3) builder.put(block * BLOCK + random(4000), Uint8Array.of(block))
        }
        builder.root(
          files.map((_, index) => ({
            name: `f${String(index).padStart(3, '0')}`,
            nid: 128 + index * 8,
          })),
        )
        for (const [index, { block, blocks, tail, layout }] of files.entries()) {
          const nid = 128 + index * 8
          const size = blocks * BLOCK + tail
          if (layout === 4) {
            const table = Array.from({ length: Math.ceil(size / BLOCK) }, () => random(42))
            // Only as many as fit before the next inode; the rest overlaps it.
            builder.inode(nid, {
              layout,
              mode: FILE,
              size,
              u: 0,
              body: u32le(...table.slice(0, 40)),
            })
          } else {
            builder.inode(nid, { layout, mode: FILE, size, u: block })
          }
        }
        await assertComesBack(store, [builder.bytes])
      }),
      { numRuns: count(1000, 25), seed: 20261123 },
    )
  })

  test('files that own little of their chunks at most double what is stored', async () => {
    await using store = await testStore()
    const builder = new ImageBuilder({ blocks: 40 })
    const names20 = Array.from({ length: 20 }, (_, index) => `f${String(index).padStart(2, '0')}`)
    builder.root(names20.map((name, index) => ({ name, nid: 128 + index * 2 })))
    // Each file starts one block later: nearly all of every chunk belongs to the file before.
    for (const [index] of names20.entries()) {
      builder.inode(128 + index * 2, { mode: FILE, size: 18 * BLOCK, u: 3 + index })
    }
    for (let block = 3; block < 40; block++) builder.put(block * BLOCK, randomBytes(BLOCK, block))
    const { newBytes } = await assertComesBack(store, [builder.bytes])
    assert.ok(newBytes < 2 * 40 * BLOCK, `${newBytes} bytes for ${40 * BLOCK}`)
  })
})

describe('a store that fails', () => {
  test('damaged bytes of an older blob are not built upon', async () => {
    await using store = await testStore()
    const { devices } = loadFixture('plain')
    await importBytes(store, devices)
    const blob = (await filesBelow(store.dataDir)).find((file) =>
      /blobs\/.*[0-9a-f]{64}$/.test(file),
    )
    const path = join(store.dataDir, blob ?? assert.fail())
    const bytes = await readFile(path)
    await using file = await open(path, 'r+')
    for (let at = 0; at < bytes.length; at += BLOCK) {
      await file.write(Uint8Array.of((bytes[at] ?? 0) ^ 1), 0, 1, at)
    }
    const again = await assertComesBack(store, loadFixture('plain-noinline').devices)
    assert.equal(again.filesystem, 'erofs')
    assert.equal(again.inodes, 273)
    assert.equal(again.notes.length, 1)
  })

  for (const phase of ['reading', 'writing', 'verifying'] satisfies ImportPhase[]) {
    test(`an import cancelled while ${phase} leaves no file of its own`, async () => {
      await using store = await testStore()
      await importBytes(store, loadFixture('plain').devices)
      const large = randomFillSync(Buffer.alloc(20_000_000))
      const cancel = new AbortController()
      await assert.rejects(
        importBytes(store, [large], {
          signal: cancel.signal,
          onProgress: (progress) => {
            if (progress.phase === phase) cancel.abort()
          },
        }),
        hasCode('ERR_ABORTED'),
      )
      const left = (await filesBelow(store.dataDir)).filter((file) =>
        /uploads|blobs|manifests|maps/.test(file),
      )
      // Of the first image: a blob and its index, a map, a record.
      assert.equal(left.length, 4, left.join('\n'))
    })
  }

  test('a full disk', { skip: missing('root', 'tmpfs') }, async () => {
    await using folder = await dataFolder()
    const disk = join(folder.path, 'disk')
    await mkdir(disk)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk])
    try {
      await using store = await openStore({ dataDir: join(disk, 'data'), mode: 'owner' })
      const source = join(folder.path, 'source')
      await writeFile(source, randomFillSync(Buffer.alloc(3_000_000)))
      const run = () => importErofs({ store, domain: DOMAIN, devices: [{ path: source }] })
      await assert.rejects(run(), hasCode('ERR_STORE_FULL'))
      const left = await filesBelow(disk)
      assert.deepEqual(
        left.filter((file) => /blobs|maps|manifests|uploads/.test(file)),
        [],
      )
      await writeFile(source, randomFillSync(Buffer.alloc(500_000)))
      assert.equal((await run()).newBytes, 500_000)
    } finally {
      execFileSync('umount', ['-l', disk])
    }
  })
})

describe('devices', () => {
  const code = hasCode('ERR_IMPORT_DEVICES')

  test('too few, too many, of another size', async () => {
    await using store = await testStore()
    const devices = [tinyImage(), tinyBlob()]
    await assert.rejects(importBytes(store, [tinyImage()]), code)
    await assert.rejects(importBytes(store, [...devices, tinyBlob()]), code)
    await assert.rejects(importBytes(store, [tinyImage(), tinyBlob().subarray(BLOCK)]), code)
    await assert.rejects(importBytes(store, [...loadFixture('plain').devices, tinyBlob()]), code)
    await assertComesBack(store, devices)
  })

  test('in another order: the blob first, two devices swapped, by size and by tag', async () => {
    await using store = await testStore()
    await assert.rejects(importBytes(store, [tinyBlob(), tinyImage()]), matches(/device 1 .*first/))
    const small = randomBytes(2 * BLOCK, 1)
    const large = randomBytes(3 * BLOCK, 2)
    const twin = randomBytes(2 * BLOCK, 3)
    // Not a byte of the primary says more than its sizes.
    const bySize = imageOf([{ blocks: 2 }, { blocks: 3 }])
    await assertComesBack(store, [bySize, small, large])
    await assert.rejects(
      importBytes(store, [bySize, large, small]),
      matches(/device 1 has 12288 .* 2 blocks .*device 2 has that size/),
    )
    await assert.rejects(
      importBytes(store, [small, bySize, large]),
      matches(/device 0 is no EROFS image .*device 1 .*first/),
    )
    const byTag = imageOf([
      { blocks: 2, tag: sha256(small) },
      { blocks: 2, tag: sha256(twin) },
    ])
    await assertComesBack(store, [byTag, small, twin])
    const swapped = matches(/device 1 is the one that the image expects as device 2/)
    await assert.rejects(importBytes(store, [byTag, twin, small]), swapped)
    await assert.rejects(importBytes(store, [byTag, small, small]), code)
  })

  test('layers that are images are told apart by their uuids', async () => {
    await using store = await testStore()
    const layers = [1, 2, 3].map((byte) => layerOf(Buffer.alloc(16, byte)))
    const [first = Buffer.alloc(0), second = Buffer.alloc(0), third = Buffer.alloc(0)] = layers
    const primary = imageOf([
      { blocks: 16, tag: '01010101-0101-0101-0101-010101010101' },
      { blocks: 16, tag: '02020202-0202-0202-0202-020202020202' },
    ])
    const right = await assertComesBack(store, [primary, first, second])
    assert.deepEqual(right.notes, [])
    await assert.rejects(importBytes(store, [primary, second, first]), code)
    await assert.rejects(
      importBytes(store, [first, primary, second]),
      matches(/device 1 is an EROFS image that names 2 extra devices: give it first/),
    )
    // No proof: a rebuilt layer may have another uuid, so it is said and not refused.
    const other = await assertComesBack(store, [primary, first, third])
    assert.equal(other.notes.filter((note) => note.includes('uuid')).length, 1)
  })

  test('of equal size and without a tag cannot be told apart', async () => {
    await using store = await testStore()
    const one = randomBytes(2 * BLOCK, 4)
    const two = randomBytes(2 * BLOCK, 5)
    const primary = imageOf([{ blocks: 2 }, { blocks: 2 }])
    await assertComesBack(store, [primary, one, two])
    await assertComesBack(store, [primary, two, one])
  })

  test('a flattened image is one device, and shares with the same image in two', async () => {
    await using store = await testStore()
    const first = await assertComesBack(store, [tinyImage(), tinyBlob()])
    const flattened = Buffer.concat([tinyImage(), tinyBlob()])
    const second = await assertComesBack(store, [flattened])
    assert.equal(second.newBytes, 0)
    assert.equal(second.inodes, first.inodes)
    assert.notEqual(second.digest, first.digest)
  })

  test('a device that the domain has as a blob', async () => {
    await using store = await testStore()
    const { blobs } = store.store.domain(DOMAIN)
    async function* upload() {
      yield await Promise.resolve(tinyBlob())
    }
    const { digest } = await blobs.putStream(upload())
    const path = join(store.dataDir, 'tiny')
    await writeFile(path, tinyImage())
    const options = { store: store.store, domain: DOMAIN }
    const summary = await importErofs({ ...options, devices: [{ path }, { digest }] })
    const [, device] = await readBack(store, summary.digest)
    assert.ok(device?.equals(tinyBlob()))
    const absent = `sha256:${'0'.repeat(64)}` as const
    await assert.rejects(
      importErofs({ ...options, devices: [{ path }, { digest: absent }] }),
      hasCode('ERR_STORE_BLOB_MISSING'),
    )
  })
})

interface Slot {
  readonly blocks: number
  readonly tag?: string
}

/** An image of an empty root whose device table has these slots. */
function imageOf(slots: readonly Slot[], uuid: Uint8Array = Buffer.alloc(16)): Buffer {
  let uniaddr = 16
  const placed = slots.map((slot) => {
    uniaddr += slot.blocks
    return { ...slot, uniaddr: uniaddr - slot.blocks }
  })
  const builder = new ImageBuilder()
    .features(0, slots.length === 0 ? 0 : FEATURE_INCOMPAT.DEVICE_TABLE)
    .root()
    .devices(placed)
    .put(SUPERBLOCK_OFFSET + SB.uuid, uuid)
  return Buffer.from(builder.bytes)
}

function layerOf(uuid: Uint8Array): Buffer {
  return imageOf([], uuid)
}

/** ERR_IMPORT_DEVICES that names the devices it is about. */
function matches(text: RegExp) {
  return (error: unknown): boolean => {
    assert.ok(hasCode('ERR_IMPORT_DEVICES')(error))
    assert.match((error as Error).message, text)
    return true
  }
}
