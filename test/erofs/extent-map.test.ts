import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, FileExtent, OpenOptions } from '../../src/erofs/index.ts'
import { MAX_CHUNKS_PER_CALL, mapLimit, nidFrom, openErofs } from '../../src/erofs/index.ts'
import type { InodeSpec } from './image-builder.ts'
import { ImageBuilder, NO_BLOCK, u32le } from './image-builder.ts'
import { bytesOf, gather, loadFixture, readTree, sha256 } from './fixtures.ts'

const FILE_NID = 96
const BS = 4096

interface Mapped {
  readonly image: ErofsImage
  readonly map: (offset: number, length: number) => Promise<FileExtent[]>
}

async function fileOf(
  spec: InodeSpec,
  prepare?: (b: ImageBuilder) => unknown,
  options?: OpenOptions,
): Promise<Mapped> {
  const builder = new ImageBuilder().root().inode(FILE_NID, spec)
  prepare?.(builder)
  const image = await builder.open(options)
  return {
    image,
    map: async (offset, length) =>
      image.mapFile(await image.readInode(nidFrom(FILE_NID)), offset, length),
  }
}

function data(device: number, deviceOffset: number, length: number): FileExtent {
  return { kind: 'data', device, deviceOffset, length }
}

function hole(length: number): FileExtent {
  return { kind: 'hole', length }
}

describe('plain files', () => {
  test('one run, clipped to the size', async () => {
    const { map } = await fileOf({ size: 10_000, u: 5 })
    assert.deepEqual(await map(0, 10_000), [data(0, 5 * BS, 10_000)])
    assert.deepEqual(await map(4095, 2), [data(0, 5 * BS + 4095, 2)])
    assert.deepEqual(await map(9_999, 500), [data(0, 5 * BS + 9_999, 1)])
    assert.deepEqual(await map(10_000, 1), [])
    assert.deepEqual(await map(0, 0), [])
    assert.deepEqual(await map(Number.MAX_SAFE_INTEGER, 5), [])
  })

  test('without a block: zeros', async () => {
    const { map } = await fileOf({ size: 2 ** 40, u: NO_BLOCK })
    assert.deepEqual(await map(1, 2 ** 40), [hole(2 ** 40 - 1)])
  })

  test('beyond the image', async () => {
    const { map } = await fileOf({ size: 3 * BS, u: 14 })
    assert.deepEqual(await map(0, 2 * BS), [data(0, 14 * BS, 2 * BS)])
    await assert.rejects(map(0, 2 * BS + 1), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
  })

  test('special files have no data', async () => {
    const { map } = await fileOf({ mode: 0o020600, size: 100, u: 0x103 })
    assert.deepEqual(await map(0, 100), [])
  })

  test('compressed layouts are not supported yet', async () => {
    for (const layout of [1, 3]) {
      const { map } = await fileOf({ size: 10, layout })
      await assert.rejects(map(0, 1), { code: 'ERR_EROFS_COMPRESSED_UNSUPPORTED' })
    }
  })
})

describe('inline files', () => {
  const body = FILE_NID * 32 + 64

  test('only a tail', async () => {
    const { map } = await fileOf({ layout: 2, size: 100, u: NO_BLOCK })
    assert.deepEqual(await map(10, 1000), [data(0, body + 10, 90)])
  })

  test('blocks, then the tail after the xattrs', async () => {
    const { map } = await fileOf({ layout: 2, size: 2 * BS + 50, u: 7, xattrIcount: 2 })
    assert.deepEqual(await map(0, 3 * BS), [data(0, 7 * BS, 2 * BS), data(0, body + 16, 50)])
    assert.deepEqual(await map(2 * BS - 1, 2), [data(0, 9 * BS - 1, 1), data(0, body + 16, 1)])
  })

  test('a tail that continues its blocks on the device becomes one extent', async () => {
    // The header ends with block 9, so the tail is at the start of block 10.
    const builder = new ImageBuilder({ blockBits: 9, blocks: 64 }).root()
    builder.inodeAt(512 * 10 - 64, { layout: 2, size: 512 + 5, u: 9 })
    const image = await builder.open()
    const inode = await image.readInode(nidFrom((512 * 10 - 64) / 32))
    assert.deepEqual(await image.mapFile(inode, 0, 600), [data(0, 512 * 9, 517)])
  })

  test('a tail that crosses a block border', async () => {
    const most = BS - (body % BS)
    const fits = await fileOf({ layout: 2, size: most, u: NO_BLOCK })
    assert.deepEqual(await fits.map(0, BS), [data(0, body, most)])
    const crosses = await fileOf({ layout: 2, size: most + 1, u: NO_BLOCK })
    await assert.rejects(crosses.map(0, BS), { code: 'ERR_EROFS_BAD_INLINE_TAIL' })
    // A size that is a multiple of the block size has a whole block as its tail.
    const whole = await fileOf({ layout: 2, size: BS, u: NO_BLOCK })
    await assert.rejects(whole.map(0, BS), { code: 'ERR_EROFS_BAD_INLINE_TAIL' })
  })

  test('blocks without an address', async () => {
    const { map } = await fileOf({ layout: 2, size: BS + 1, u: NO_BLOCK })
    await assert.rejects(map(0, 1), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
    assert.deepEqual(await map(BS, 1), [data(0, body, 1)])
  })
})

describe('chunk-based files', () => {
  test('block map: neighbours join, holes are zeros', async () => {
    const table = u32le(5, 6, NO_BLOCK, NO_BLOCK, 9, 8)
    const { map, image } = await fileOf({ layout: 4, size: 6 * BS - 100, u: 0, body: table })
    assert.deepEqual(await map(0, 6 * BS), [
      data(0, 5 * BS, 2 * BS),
      hole(2 * BS),
      data(0, 9 * BS, BS),
      data(0, 8 * BS, BS - 100),
    ])
    assert.deepEqual(await map(BS + 1, BS), [data(0, 6 * BS + 1, BS - 1), hole(1)])
    const inode = await image.readInode(nidFrom(FILE_NID))
    assert.deepEqual(image.inodeRecord(inode), { offset: FILE_NID * 32, length: 64 + 24 })
  })

  test('the table of 8-byte entries starts at a multiple of 8', async () => {
    // 12 + 4 * 2 = 20 bytes of xattrs: the body is 4 bytes off.
    const body = new Uint8Array(20 + 4 + 8)
    body.set(u32le(0, 5), 24)
    const { map, image } = await fileOf({ layout: 4, size: 10, u: 0x20, xattrIcount: 3, body })
    assert.deepEqual(await map(0, 10), [data(0, 5 * BS, 10)])
    const inode = await image.readInode(nidFrom(FILE_NID))
    assert.equal(image.inodeRecord(inode)?.length, 64 + 20 + 4 + 8)
  })

  test('the table of 4-byte entries does not', async () => {
    const body = new Uint8Array(20 + 4)
    body.set(u32le(5), 20)
    const { map } = await fileOf({ layout: 4, size: 10, u: 0, xattrIcount: 3, body })
    assert.deepEqual(await map(0, 10), [data(0, 5 * BS, 10)])
  })

  test('each inode has its own chunk size', async () => {
    const { map } = await fileOf({ layout: 4, size: 5 * BS, u: 0x22, body: u32le(0, 6, 0, 3) })
    assert.deepEqual(await map(0, 5 * BS), [data(0, 6 * BS, 4 * BS), data(0, 3 * BS, BS)])
    assert.deepEqual(await map(4 * BS - 1, 2), [data(0, 10 * BS - 1, 1), data(0, 3 * BS, 1)])
  })

  test('high address bits count only with the 48-bit format', async () => {
    const body = u32le(7, 5)
    assert.deepEqual(await (await fileOf({ layout: 4, size: 9, u: 0x20, body })).map(0, 9), [
      data(0, 5 * BS, 9),
    ])
    const wide = await fileOf({ layout: 4, size: 9, u: 0x60, body })
    await assert.rejects(wide.map(0, 9), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
  })

  test('holes: all ones in 32 or 48 bits', async () => {
    const map = async (u: number, ...words: number[]): Promise<FileExtent[]> =>
      (await fileOf({ layout: 4, size: 9, u, body: u32le(...words) })).map(0, 9)
    assert.deepEqual(await map(0x20, 0, NO_BLOCK), [hole(9)])
    assert.deepEqual(await map(0x20, 0x1234, NO_BLOCK), [hole(9)])
    assert.deepEqual(await map(0x60, 0xffff, NO_BLOCK), [hole(9)])
    await assert.rejects(map(0x60, 0, NO_BLOCK), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
  })

  test('a table beyond the image, whichever part is asked for', async () => {
    for (const size of [BS * 100_000, 2 ** 52]) {
      const { map, image } = await fileOf({ layout: 4, size, u: 0 })
      await assert.rejects(map(0, 1), { code: 'ERR_EROFS_BAD_CHUNK_TABLE' })
      await assert.rejects(map(size - 1, 1), { code: 'ERR_EROFS_BAD_CHUNK_TABLE' })
      const inode = await image.readInode(nidFrom(FILE_NID))
      assert.throws(() => image.inodeRecord(inode), { code: 'ERR_EROFS_BAD_CHUNK_TABLE' })
    }
  })

  test('one call maps a bounded number of chunks; extents() goes on', async () => {
    const chunks = MAX_CHUNKS_PER_CALL + 1
    const builder = new ImageBuilder({ blockBits: 9, blocks: 2048 }).root()
    const body = new Uint8Array(chunks * 4).fill(0xff)
    body.set(u32le(7), (chunks - 1) * 4)
    builder.inode(FILE_NID, { layout: 4, size: chunks * 512, u: 0, body })
    const image = await builder.open()
    const inode = await image.readInode(nidFrom(FILE_NID))
    await assert.rejects(image.mapFile(inode, 0, inode.size), { code: 'ERR_EROFS_RANGE_TOO_LARGE' })
    assert.equal((await image.mapFile(inode, 1, mapLimit(inode))).length, 1)
    const extents: FileExtent[] = []
    for await (const extent of image.extents(inode)) extents.push(extent)
    assert.equal(
      extents.reduce((sum, { length }) => sum + length, 0),
      inode.size,
    )
    assert.deepEqual(extents.at(-1), data(0, 7 * 512, 512))
  })
})

describe('devices', () => {
  const SLOTS = [
    { blocks: 20, uniaddr: 100 },
    { blocks: 10, uniaddr: 120 },
    { blocks: 0, uniaddr: 0 },
  ]
  const prepare = (b: ImageBuilder): unknown => b.features(0, 0xc).devices(SLOTS)
  const chunk = (device: number, block: number): InodeSpec => ({
    layout: 4,
    size: BS,
    u: 0x20,
    body: u32le((device << 16) >>> 0, block),
  })

  test('separate: the device is in the entry, its upper bits are not', async () => {
    for (const device of [2, 2 + 4, 2 + 0xfff0]) {
      const { map } = await fileOf(chunk(device, 3), prepare, { deviceCount: 4 })
      assert.deepEqual(await map(0, BS), [data(2, 3 * BS, BS)])
    }
  })

  test('separate: a device of unknown size takes any address, given its size not', async () => {
    const { map } = await fileOf(chunk(3, 1000), prepare, { deviceCount: 4 })
    assert.deepEqual(await map(0, BS), [data(3, 1000 * BS, BS)])
    const sized = await fileOf(chunk(3, 1000), prepare, {
      extraDeviceSizes: [20 * BS, 10 * BS, 1000 * BS],
    })
    await assert.rejects(sized.map(0, BS), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
    const declared = await fileOf(chunk(2, 10), prepare, { deviceCount: 4 })
    await assert.rejects(declared.map(0, BS), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
  })

  test('separate: unified addresses of device 0 are redirected, across devices too', async () => {
    const { map } = await fileOf({ size: 30 * BS, u: 105 }, prepare, { deviceCount: 4 })
    assert.deepEqual(await map(0, 25 * BS), [data(1, 5 * BS, 15 * BS), data(2, 0, 10 * BS)])
    await assert.rejects(map(0, 26 * BS), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
    const primary = await fileOf({ size: BS, u: 3 }, prepare, { deviceCount: 4 })
    assert.deepEqual(await primary.map(0, BS), [data(0, 3 * BS, BS)])
    const between = await fileOf({ size: BS, u: 131 }, prepare, { deviceCount: 4 })
    await assert.rejects(between.map(0, BS), { code: 'ERR_EROFS_OUT_OF_BOUNDS' })
  })

  test('flattened: the unified address is added, device 0 is as it is', async () => {
    const builder = new ImageBuilder({ blocks: 130 }).root()
    prepare(builder)
    builder.inode(FILE_NID, chunk(2, 3))
    const image = await builder.open()
    const inode = await image.readInode(nidFrom(FILE_NID))
    assert.deepEqual(await image.mapFile(inode, 0, BS), [data(0, 123 * BS, BS)])
    builder.inode(FILE_NID, { size: BS, u: 125 })
    const plain = await image.readInode(nidFrom(FILE_NID))
    assert.deepEqual(await image.mapFile(plain, 0, BS), [data(0, 125 * BS, BS)])
  })

  test('flattened: a device that is not part of the only one is out of reach', async () => {
    // Device 3 has no unified address; device 1 starts at block 100 of 16.
    for (const device of [3, 1]) {
      const { map } = await fileOf(chunk(device, 1), prepare)
      await assert.rejects(map(0, BS), { code: 'ERR_EROFS_DEVICE_UNAVAILABLE' })
    }
    const builder = new ImageBuilder({ blocks: 130 }).root().inode(FILE_NID, chunk(2, 10))
    prepare(builder)
    const image = await builder.open()
    await assert.rejects(image.mapFile(await image.readInode(nidFrom(FILE_NID)), 0, BS), {
      code: 'ERR_EROFS_OUT_OF_BOUNDS',
    })
  })

  test('a device that the table has not', async () => {
    const two = (b: ImageBuilder): unknown => b.features(0, 0xc).devices(SLOTS.slice(0, 2))
    for (const deviceCount of [1, 3]) {
      const { map } = await fileOf(chunk(3, 1), two, { deviceCount })
      await assert.rejects(map(0, BS), { code: 'ERR_EROFS_BAD_CHUNK_TABLE' })
    }
  })

  test('directories on another device cannot be read', async () => {
    const builder = new ImageBuilder().root().features(0, 0xc).devices(SLOTS)
    builder.inode(FILE_NID, { ...chunk(1, 0), mode: 0o040755 })
    const image = await builder.open({ deviceCount: 4 })
    const directory = await image.readInode(nidFrom(FILE_NID))
    await assert.rejects(image.lookup(directory, bytesOf('x')), {
      code: 'ERR_EROFS_DEVICE_UNAVAILABLE',
    })
  })
})

test('both blob fixtures read the same flattened', async () => {
  for (const name of ['chunk-64k-blob', 'chunk-1m-blob']) {
    const [primary, blob] = loadFixture(name).devices
    assert.ok(primary !== undefined && blob !== undefined)
    const { devices } = await openErofs(memorySource(primary))
    const start = (devices[0]?.uniaddr ?? 0) * 4096
    assert.ok(start >= primary.byteLength)
    const disk = Buffer.concat([primary, new Uint8Array(start - primary.byteLength), blob])
    const image = await openErofs(memorySource(disk))
    for (const { path, sha256: digest } of readTree()) {
      if (digest === undefined) continue
      const inode = await image.resolve(bytesOf(path))
      assert.equal(sha256(gather([disk], await image.mapFile(inode, 0, inode.size))), digest, path)
    }
  }
})

test('readData is bounded', async () => {
  const { image } = await fileOf({ size: 2 ** 30, u: NO_BLOCK })
  const inode = await image.readInode(nidFrom(FILE_NID))
  await assert.rejects(image.readData(inode, 0, 2 ** 30), { code: 'ERR_EROFS_RANGE_TOO_LARGE' })
  assert.deepEqual(await image.readData(inode, 5, 3), new Uint8Array(3))
})
