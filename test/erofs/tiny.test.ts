import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import { openErofs, walk } from '../../src/erofs/index.ts'
import { bytesOf, gather, latin1, readWhole, sha256 } from './fixtures.ts'
import { TINY_BIG_SIZE, tinyBig, tinyBlob, tinyImage } from './tiny-image.ts'

const PRIMARY = tinyImage()
const BLOB = tinyBlob()

describe('the written-down image', () => {
  test('is the image that was published', () => {
    assert.equal(
      sha256(PRIMARY),
      '35ef8ea3b3a4f1bbc9bbf0ab7e29404d0750f988d7c1205b37581227e1f2a7ae',
    )
    assert.equal(sha256(BLOB), '4baa44178e9b168b2f17fe8d3444374a19546c7a06dd3cfbd255a5a7cdfdef39')
  })

  test('superblock and device table', async () => {
    const { superblock, devices } = await openErofs(memorySource(PRIMARY))
    assert.equal(superblock.checksum, 0x51f3d602)
    assert.equal(superblock.blockSize, 4096)
    assert.equal(superblock.inodeCount, 6)
    assert.equal(superblock.rootNid, 40)
    assert.equal(superblock.blocks, 1)
    assert.equal(latin1(superblock.volumeName), 'tiny')
    assert.deepEqual([...superblock.uuid], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    assert.deepEqual(superblock.features.compat.names, ['SB_CHKSUM', 'MTIME'])
    assert.deepEqual(superblock.features.incompat.names, ['CHUNKED_FILE', 'DEVICE_TABLE'])
    assert.equal(devices.length, 1)
    assert.equal(latin1(devices[0]?.tag ?? new Uint8Array(0)), sha256(BLOB))
    assert.deepEqual(
      { blocks: devices[0]?.blocks, uniaddr: devices[0]?.uniaddr },
      { blocks: 514, uniaddr: 1 },
    )
  })

  test('separate devices: the blob is device 1', async () => {
    const image = await openErofs(memorySource(PRIMARY), { deviceCount: 2 })
    assert.equal(image.addressing, 'separate')
    const big = await image.resolve(bytesOf('/big'))
    assert.deepEqual(await image.mapFile(big, 0, big.size), [
      { kind: 'data', device: 1, deviceOffset: 4096, length: 2 * 1024 * 1024 },
      { kind: 'hole', length: TINY_BIG_SIZE - 2 * 1024 * 1024 },
    ])
    assert.equal(sha256(await readWhole(image, [PRIMARY, BLOB], big)), sha256(tinyBig()))
    const link = await image.resolve(bytesOf('/l'))
    assert.equal(latin1(await readWhole(image, [PRIMARY, BLOB], link)), 'hello world\n')
  })

  test('flattened: everything is on device 0 at unified addresses', async () => {
    const disk = Buffer.concat([PRIMARY, BLOB])
    const image = await openErofs(memorySource(disk))
    assert.equal(image.addressing, 'flattened')
    const x = await image.resolve(bytesOf('d/x'))
    assert.deepEqual(await image.mapFile(x, 0, 1), [
      { kind: 'data', device: 0, deviceOffset: (1 + 513) * 4096, length: 1 },
    ])
    const big = await image.resolve(bytesOf('big'))
    assert.equal(sha256(gather([disk], await image.mapFile(big, 0, big.size))), sha256(tinyBig()))
  })

  test('the walk meets every inode once, with its record', async () => {
    const image = await openErofs(memorySource(PRIMARY), { deviceCount: 2 })
    const met: [string, number, number | undefined, number | undefined][] = []
    for await (const { inode, name, parent } of walk(image)) {
      met.push([latin1(name), inode.nid, parent, image.inodeRecord(inode)?.length])
    }
    assert.deepEqual(met, [
      ['', 40, undefined, 64],
      ['a.txt', 45, 40, 72],
      ['big', 48, 40, 88],
      ['d', 51, 40, 64],
      ['l', 58, 40, 64],
      ['x', 55, 51, 72],
    ])
  })
})
