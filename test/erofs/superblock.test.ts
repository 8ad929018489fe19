import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import { openErofs } from '../../src/erofs/index.ts'
import { SB, SB_EXT } from '../../src/erofs/layout.ts'
import { ImageBuilder } from './image-builder.ts'
import { CountingSource, fixtureNames, loadFixture, primarySource } from './fixtures.ts'

describe('superblock', () => {
  test('block sizes from 512 to 65536 open, with a checksum over their own range', async () => {
    for (let blockBits = 9; blockBits <= 16; blockBits++) {
      const builder = new ImageBuilder({ blockBits, blocks: 2 ** (17 - blockBits) }).root()
      const image = await builder.checksum().open()
      assert.equal(image.superblock.blockSize, 2 ** blockBits)
      assert.equal((await image.root()).nid, 64)
      // The checksum ends with the first block, or for small blocks one block after 1024.
      const covered = blockBits > 10 ? 2 ** blockBits : 1024 + 2 ** blockBits
      builder.bytes[covered - 1] = 1
      await assert.rejects(builder.open(), { code: 'ERR_EROFS_BAD_CHECKSUM' })
      assert.equal((await builder.open({ verifyChecksum: false })).superblock.blockBits, blockBits)
      builder.bytes[covered - 1] = 0
      builder.bytes[covered] = 1
      await builder.open()
    }
  })

  test('any changed byte under the checksum is noticed', async () => {
    const builder = new ImageBuilder().root().checksum()
    for (const off of [1024 + SB.uuid, 1024 + SB.inos, 1024 + SB.checksum, 2048, 4095]) {
      builder.bytes[off] = (builder.bytes[off] ?? 0) ^ 0x10
      await assert.rejects(builder.open(), { code: 'ERR_EROFS_BAD_CHECKSUM' })
      builder.bytes[off] = (builder.bytes[off] ?? 0) ^ 0x10
    }
    await builder.open()
  })

  test('opening takes two reads, three with a device table', async () => {
    for (const name of fixtureNames()) {
      const source = new CountingSource(primarySource(loadFixture(name)))
      const image = await openErofs(source)
      assert.equal(source.reads, image.devices.length === 0 ? 2 : 3, name)
    }
  })

  test('unknown incompatible features are refused with their mask', async () => {
    for (const bit of [0x200, 0x40000000, 0x80000000]) {
      await assert.rejects(
        new ImageBuilder()
          .root()
          .features(0, (bit | 0x4) >>> 0)
          .open(),
        {
          code: 'ERR_EROFS_UNSUPPORTED_FEATURE',
          message: new RegExp(`0x${bit.toString(16)},`),
        },
      )
    }
  })

  test('unknown compatible features are kept for display', async () => {
    const image = await new ImageBuilder().root().features(0xc0000042, 0).open()
    assert.equal(image.superblock.features.compat.mask, 0xc0000042)
    assert.deepEqual(image.superblock.features.compat.names, [
      'MTIME',
      'UNKNOWN_0x40',
      'RAFS_V6',
      'UNKNOWN_0x80000000',
    ])
  })

  test('a volume name may fill its field without a NUL', async () => {
    const builder = new ImageBuilder()
      .root()
      .put(1024 + SB.volume_name, Buffer.from('sixteen-bytes-ok'))
    const { superblock } = await builder.open()
    assert.equal(Buffer.from(superblock.volumeName).toString(), 'sixteen-bytes-ok')
  })

  test('48BIT: wide root and block count only when rootnid_8b is set', async () => {
    const wide = new ImageBuilder().features(0, 0x80).root()
    wide.u16(SB.rb, 3).u64(SB.rootnid_8b, 64n).u64(SB.epoch, 1000n).u32(SB.build_time, 5)
    const a = (await wide.open()).superblock
    assert.deepEqual([a.rootNid, a.blocks, a.buildTime], [64, 3 * 2 ** 32 + 16, 1005])
    const narrow = new ImageBuilder().features(0, 0x80).root()
    const b = (await narrow.open()).superblock
    assert.deepEqual([b.rootNid, b.blocks], [64, 16])
    const without = (await new ImageBuilder().root().u64(SB.rootnid_8b, 99n).open()).superblock
    assert.deepEqual([without.rootNid, without.buildTime], [64, undefined])
  })

  test('an epoch before 1970 is negative', async () => {
    const builder = new ImageBuilder().root().u64(SB.epoch, BigInt.asUintN(64, -86_400n))
    assert.equal((await builder.open()).superblock.epoch, -86_400)
  })
})

describe('superblocks that are refused', () => {
  const cases: readonly [string, string, (builder: ImageBuilder) => unknown][] = [
    ['another magic', 'ERR_EROFS_BAD_MAGIC', (b) => b.u32(SB.magic, 0xe0f5e1e3)],
    ['blocks of 256 bytes', 'ERR_EROFS_BAD_SUPERBLOCK', (b) => b.u8(SB.blkszbits, 8)],
    ['blocks of 128 KiB', 'ERR_EROFS_BAD_SUPERBLOCK', (b) => b.u8(SB.blkszbits, 17)],
    ['dirblkbits', 'ERR_EROFS_BAD_SUPERBLOCK', (b) => b.u8(SB.dirblkbits, 1)],
    [
      'a packed inode inside the metabox',
      'ERR_EROFS_BAD_SUPERBLOCK',
      (b) => b.features(0, 0x20).u64(SB.packed_nid, 0x8000000000000001n),
    ],
    [
      'a metabox inside itself',
      'ERR_EROFS_BAD_SUPERBLOCK',
      (b) =>
        b.features(0, 0x100).u8(SB.sb_extslots, 1).u64(SB_EXT.metabox_nid, 0x8000000000000001n),
    ],
    [
      'a metabox without room for its number',
      'ERR_EROFS_BAD_SUPERBLOCK',
      (b) => b.features(0, 0x100),
    ],
    [
      'a root beyond any device',
      'ERR_EROFS_BAD_NID',
      (b) => b.features(0, 0x80).u64(SB.rootnid_8b, 0x0001000000000000n),
    ],
    [
      'a device table beyond the image',
      'ERR_EROFS_BAD_DEVICE_TABLE',
      (b) => b.features(0, 0x8).u16(SB.extra_devices, 1).u16(SB.devt_slotoff, 0xffff),
    ],
    [
      'devices that overlap',
      'ERR_EROFS_BAD_DEVICE_TABLE',
      (b) =>
        b.features(0, 0x8).devices([
          { blocks: 10, uniaddr: 20 },
          { blocks: 10, uniaddr: 29 },
        ]),
    ],
  ]
  for (const [name, code, damage] of cases) {
    test(`${name}: ${code}`, async () => {
      const builder = new ImageBuilder().root()
      damage(builder)
      await assert.rejects(builder.open(), { code })
    })
  }

  test('every cut of an image fails with a code, or opens when its first block is whole', async () => {
    const { bytes } = new ImageBuilder({ blocks: 2 }).root().checksum()
    for (let size = 0; size <= bytes.length; size += 61) {
      const opening = openErofs(memorySource(bytes.subarray(0, size)))
      if (size < 4096) await assert.rejects(opening, { code: 'ERR_EROFS_TRUNCATED' })
      else await opening
    }
  })

  test('a number of devices that does not fit', async () => {
    const builder = new ImageBuilder().root().features(0, 0x8)
    builder.devices([
      { blocks: 1, uniaddr: 20 },
      { blocks: 1, uniaddr: 21 },
    ])
    assert.equal((await builder.open({ deviceCount: 1 })).addressing, 'flattened')
    assert.equal((await builder.open({ deviceCount: 3 })).addressing, 'separate')
    for (const deviceCount of [0, 2, 4]) {
      await assert.rejects(builder.open({ deviceCount }), { code: 'ERR_EROFS_DEVICE_COUNT' })
    }
    const single = new ImageBuilder().root()
    await assert.rejects(single.open({ deviceCount: 2 }), { code: 'ERR_EROFS_DEVICE_COUNT' })
  })
})
