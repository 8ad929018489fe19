import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { InodeSpec } from './image-builder.ts'
import { DIRECTORY, FILE, ImageBuilder, NO_BLOCK } from './image-builder.ts'
import type { Inode } from '../../src/erofs/index.ts'
import { formatNid, isMetaboxNid, nidFrom } from '../../src/erofs/index.ts'
import { SB, SB_EXT } from '../../src/erofs/layout.ts'

async function decode(spec: InodeSpec, prepare?: (b: ImageBuilder) => unknown): Promise<Inode> {
  const builder = new ImageBuilder().root().inode(200, spec)
  prepare?.(builder)
  const image = await builder.open()
  return image.readInode(nidFrom(200))
}

describe('inodes', () => {
  test('compact: 16-bit ids, time from the epoch', async () => {
    const spec = { compact: true, size: 0xfffffffe, uid: 65535, gid: 1, nb: 7, mtime: 100, u: 5 }
    const inode = await decode(spec, (b) => b.u64(SB.epoch, 1000n).u32(SB.fixed_nsec, 42))
    assert.deepEqual(
      [inode.headerSize, inode.size, inode.uid, inode.gid, inode.nlink, inode.startBlock],
      [32, 0xfffffffe, 65535, 1, 7, 5],
    )
    assert.deepEqual([inode.mtimeSeconds, inode.mtimeNanoseconds], [1100, 42])
  })

  test('extended: 32-bit ids, its own time, before 1970 too', async () => {
    const inode = await decode({
      size: 2 ** 40 + 3,
      uid: 0xffffffff,
      gid: 70000,
      mtime: -5,
      nlink: 9,
    })
    assert.deepEqual(
      [inode.headerSize, inode.size, inode.uid, inode.gid, inode.nlink, inode.mtimeSeconds],
      [64, 2 ** 40 + 3, 0xffffffff, 70000, 9, -5],
    )
  })

  test('bit 4 of a compact file: one link, and the field has address bits', async () => {
    const spec = { compact: true, formatBits: 0x10, nb: 3, u: 5, size: 10 }
    const wide = await decode(spec, (b) => b.features(0, 0x80))
    assert.deepEqual([wide.nlink, wide.startBlock], [1, 3 * 2 ** 32 + 5])
    const narrow = await decode(spec)
    assert.deepEqual([narrow.nlink, narrow.startBlock], [1, 5])
  })

  test('bit 4 of a directory: no entry for itself, the link count stays', async () => {
    const spec = { compact: true, formatBits: 0x10, nb: 3, mode: DIRECTORY }
    const inode = await decode(spec, (b) => b.features(0, 0x80))
    assert.deepEqual([inode.dotOmitted, inode.nlink], [true, 3])
  })

  test('no start block: all ones in as many bits as the address has', async () => {
    const on48 = (b: ImageBuilder): unknown => b.features(0, 0x80)
    const at = async (spec: InodeSpec, prepare?: (b: ImageBuilder) => unknown): Promise<unknown> =>
      (await decode({ size: 1, ...spec }, prepare)).startBlock
    assert.equal(await at({ u: NO_BLOCK }), undefined)
    assert.equal(await at({ u: NO_BLOCK, nb: 0xffff }), undefined)
    assert.equal(await at({ u: NO_BLOCK, nb: 0xffff }, on48), undefined)
    assert.equal(await at({ u: NO_BLOCK, nb: 0 }, on48), 0xffffffff)
    assert.equal(await at({ u: NO_BLOCK, nb: 1, compact: true }, on48), undefined)
  })

  test('device numbers: 12 bits major, 20 bits minor', async () => {
    const inode = await decode({ mode: 0o060600, u: ((0x12345 >>> 8) << 20) | (0xabc << 8) | 0x45 })
    assert.deepEqual(inode.rdev, { major: 0xabc, minor: 0x12345 })
    assert.equal((await decode({ mode: 0o010644 })).rdev, undefined)
  })

  test('kinds', async () => {
    const kinds = async (mode: number): Promise<boolean[]> => {
      const inode = await decode({ mode })
      return [inode.isFile, inode.isDirectory, inode.isSymlink, inode.isSpecial]
    }
    assert.deepEqual(await kinds(FILE), [true, false, false, false])
    assert.deepEqual(await kinds(DIRECTORY), [false, true, false, false])
    assert.deepEqual(await kinds(0o120777), [false, false, true, false])
    for (const mode of [0o020000, 0o060000, 0o010000, 0o140000]) {
      assert.deepEqual(await kinds(mode), [false, false, false, true])
    }
  })

  test('an extended inode may straddle two blocks', async () => {
    const builder = new ImageBuilder({ blockBits: 9, blocks: 64 }).root()
    builder.inodeAt(1024 + 512 * 4 - 32, { size: 77, nlink: 5 })
    const image = await builder.open()
    const inode = await image.readInode(nidFrom((1024 + 512 * 4 - 32) / 32))
    assert.deepEqual([inode.size, inode.nlink], [77, 5])
  })
})

describe('inodes that are refused', () => {
  const cases: readonly [string, string, InodeSpec][] = [
    ['an unknown format bit', 'ERR_EROFS_BAD_INODE', { formatBits: 0x20 }],
    ['data layout 5', 'ERR_EROFS_BAD_INODE', { layout: 5 }],
    ['data layout 7', 'ERR_EROFS_BAD_INODE', { layout: 7 }],
    ['a mode without type', 'ERR_EROFS_BAD_INODE', { mode: 0o644 }],
    ['a mode of type 15', 'ERR_EROFS_BAD_INODE', { mode: 0o170644 }],
    ['2^53 bytes', 'ERR_EROFS_BAD_INODE', { size: 2 ** 53 }],
    ['an unknown chunk format bit', 'ERR_EROFS_BAD_INODE', { layout: 4, u: 0x80 }],
  ]
  for (const [name, code, spec] of cases) {
    test(`${name}: ${code}`, async () => {
      await assert.rejects(decode(spec), { code })
    })
  }

  test('numbers beyond the image', async () => {
    const builder = new ImageBuilder({ blocks: 2 }).root()
    // The last slot of the image holds a compact inode, but half an extended one.
    builder.inodeAt(8192 - 32, { compact: true })
    const image = await builder.open()
    await image.readInode(nidFrom(255))
    builder.view.setUint16(8192 - 32, 1, true)
    await assert.rejects(image.readInode(nidFrom(255)), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
    await assert.rejects(image.readInode(nidFrom(256)), { code: 'ERR_EROFS_BAD_NID' })
    await assert.rejects(image.readInode(nidFrom(2 ** 48 - 1)), { code: 'ERR_EROFS_BAD_NID' })
    await assert.rejects(image.readInode(nidFrom(2 ** 52 + 1)), { code: 'ERR_EROFS_BAD_NID' })
  })

  test('an inode area that starts beyond the image', async () => {
    const image = await new ImageBuilder().root().u32(SB.meta_blkaddr, 0xffffffff).open()
    await assert.rejects(image.root(), { code: 'ERR_EROFS_BAD_NID' })
  })
})

describe('metabox', () => {
  const BOX_NID = 300
  function boxed(box: Partial<InodeSpec> = {}): ImageBuilder {
    const builder = new ImageBuilder().features(0, 0x180).u8(SB.sb_extslots, 1)
    builder.u64(SB_EXT.metabox_nid, BigInt(BOX_NID)).u64(SB.rootnid_8b, 0x8000000000000002n)
    builder.inode(BOX_NID, { size: 8192, u: 4, ...box })
    // Slot 2 of the data in blocks 4 and 5.
    const entries = Buffer.from('hello')
    builder.inodeAt(4 * 4096 + 64, { layout: 2, size: 5, body: entries })
    return builder
  }

  test('an inode in it, its inline tail mapped to the device', async () => {
    const image = await boxed().open()
    const inode = await image.root()
    assert.ok(isMetaboxNid(inode.nid))
    assert.equal(formatNid(inode.nid), 'metabox:2')
    assert.equal(inode.offset, 64)
    assert.deepEqual(await image.mapFile(inode, 1, 3), [
      { kind: 'data', device: 0, deviceOffset: 4 * 4096 + 64 + 64 + 1, length: 3 },
    ])
    assert.equal(Buffer.from(await image.readData(inode, 0, 5)).toString(), 'hello')
    assert.equal(image.inodeRecord(inode), undefined)
  })

  test('refused: beyond its end, no file, data beyond the image, compressed', async () => {
    const far = await boxed().u64(SB.rootnid_8b, 0x8000000000000100n).open()
    await assert.rejects(far.root(), { code: 'ERR_EROFS_BAD_NID' })
    const directory = await boxed({ mode: DIRECTORY }).open()
    await assert.rejects(directory.root(), { code: 'ERR_EROFS_BAD_INODE' })
    const outside = await boxed({ u: 1000 }).open()
    await assert.rejects(outside.root(), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
    const compressed = await boxed({ layout: 3 }).open()
    await assert.rejects(compressed.root(), { code: 'ERR_EROFS_COMPRESSED_UNSUPPORTED' })
  })

  test('refused: an inline tail that runs over the end of the metabox', async () => {
    const builder = boxed({ size: 4096 })
    builder.inodeAt(4 * 4096 + 4096 - 96, { layout: 2, size: 32 })
    const image = await builder.open()
    const inode = await image.readInode(nidFrom(2 ** 52 + (4096 - 96) / 32))
    assert.equal((await image.mapFile(inode, 0, 32)).length, 1)
    const cut = boxed({ size: 4096 - 20 })
    cut.inodeAt(4 * 4096 + 4096 - 96, { layout: 2, size: 32 })
    const cutImage = await cut.open()
    await assert.rejects(cutImage.mapFile(await cutImage.readInode(inode.nid), 0, 32), {
      code: 'ERR_EROFS_OUT_OF_BOUNDS',
    })
  })
})

describe('inode numbers', () => {
  test('arrive as numbers', () => {
    assert.equal(nidFrom(5), 5)
    for (const value of [-1, 1.5, NaN, 2 ** 48, 2 ** 52 + 2 ** 48, 2 ** 53]) {
      assert.throws(() => nidFrom(value), { code: 'ERR_EROFS_BAD_NID' })
    }
  })
})
