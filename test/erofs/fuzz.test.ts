/**
 * Damaged images: random changes where structures lie, then everything that the reader can do. Whatever
 * comes out, it is an answer or an AppError, after a bounded number of bounded reads.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'

import { isAppError, memorySource } from '../../src/core/index.ts'
import type { ErofsImage, Inode, Nid } from '../../src/erofs/index.ts'
import { MAX_READ_DATA, openErofs, walk } from '../../src/erofs/index.ts'
import { SUPERBLOCK_OFFSET } from '../../src/erofs/layout.ts'
import { bytesOf, CountingSource, loadFixture, randomNumbers } from './fixtures.ts'
import { evidence } from '../evidence.ts'

const IS_FULL = process.env['COMMONPAGE_FULL'] === '1'
const ROUNDS = IS_FULL ? 2000 : 40
/** A fixture's rounds end at this time, however slow the machine is; the test says how many there were. */
const TIME_LIMIT_MS = IS_FULL ? 180_000 : 10_000
const MAX_INODES = 2000
/** A whole healthy pass takes about 2,500 reads; damage may make each directory as long as the image. */
const MAX_READS = 40_000
/** Values that break arithmetic more often than random ones do. */
const EDGES = [0, 1, 0x7f, 0x80, 0xff]

interface Target {
  readonly name: string
  readonly devices: readonly Uint8Array[]
  /** Byte ranges with structures in them: superblock, inodes, xattrs, tables, directories, link targets. */
  readonly regions: readonly (readonly [number, number])[]
  /** Every inode of the healthy image: each is tried, also where no path leads to it any more. */
  readonly nids: readonly Nid[]
}

async function targetOf(name: string): Promise<Target> {
  const { devices } = loadFixture(name)
  const [primary] = devices
  assert.ok(primary !== undefined)
  const image = await openErofs(memorySource(primary), { deviceCount: devices.length })
  const regions: (readonly [number, number])[] = [
    [SUPERBLOCK_OFFSET, 144],
    [SUPERBLOCK_OFFSET + 128, 128],
  ]
  if (image.superblock.metaboxNid !== undefined) {
    regions.push(...(await dataRegions(image, await image.metaboxInode())))
  }
  const nids: Nid[] = []
  for await (const { inode } of walk(image)) {
    nids.push(inode.nid)
    const record = image.inodeRecord(inode)
    if (record !== undefined) regions.push([record.offset, record.length])
    if (!inode.isFile) regions.push(...(await dataRegions(image, inode)))
  }
  return { name, devices, regions, nids }
}

async function dataRegions(image: ErofsImage, inode: Inode): Promise<[number, number][]> {
  const regions: [number, number][] = []
  for await (const extent of image.extents(inode)) {
    if (extent.kind === 'data' && extent.device === 0) {
      regions.push([extent.deviceOffset, extent.length])
    }
  }
  return regions
}

function damage(target: Target, random: (below: number) => number): Uint8Array {
  const bytes = Uint8Array.from(target.devices[0] ?? [])
  const changes = 1 + random(8)
  for (let change = 0; change < changes; change++) {
    // The superblock is small and decides most: one change in thirty goes there.
    const index = random(30) === 0 ? random(2) : random(target.regions.length)
    const [start, length] = target.regions[index] ?? [0, 1]
    const width = 1 + random(4)
    const position = start + random(length)
    for (let off = 0; off < width && position + off < bytes.length; off++) {
      const edge = EDGES[random(EDGES.length)] ?? 0
      bytes[position + off] = random(2) === 0 ? edge : random(256)
    }
  }
  return random(20) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes
}

/** Returns the codes that it met; rethrows what is not an AppError. */
async function exercise(target: Target, bytes: Uint8Array): Promise<Set<string>> {
  const codes = new Set<string>()
  const source = new CountingSource(memorySource(bytes))
  const tolerate = async (action: () => Promise<unknown>): Promise<void> => {
    try {
      await action()
    } catch (error) {
      if (!isAppError(error)) throw error
      codes.add(error.code)
    }
  }
  await tolerate(async () => {
    const image = await openErofs(source, {
      deviceCount: target.devices.length,
      verifyChecksum: false,
    })
    await tolerate(async () => {
      for await (const { extents } of walk(image, { maxInodes: MAX_INODES })) {
        await tolerate(async () => {
          for await (const { length } of extents()) assert.ok(length > 0)
        })
      }
    })
    for (const nid of target.nids) {
      await tolerate(async () => exerciseInode(image, await image.readInode(nid), tolerate))
    }
    for (const path of ['links/rel', 'many/../big/text.txt', 'deep/d0/d1/d2/d3', 'links/loop-a']) {
      await tolerate(() => image.resolve(bytesOf(path)))
    }
    await tolerate(() => image.xattrPrefixes())
    await tolerate(() => image.packedInode())
  })
  assert.ok(source.reads <= MAX_READS, `${source.reads} reads`)
  assert.ok(source.largest <= MAX_READ_DATA, `a read of ${source.largest} bytes`)
  return codes
}

async function exerciseInode(
  image: ErofsImage,
  inode: Inode,
  tolerate: (action: () => Promise<unknown>) => Promise<void>,
): Promise<void> {
  await tolerate(() => image.xattrs(inode, { hidden: true }))
  await tolerate(() => image.fingerprint(inode))
  await tolerate(async () => {
    await Promise.resolve(image.inodeRecord(inode))
  })
  if (inode.isSymlink) await tolerate(() => image.readLink(inode))
  if (inode.isDirectory) {
    await tolerate(() => image.lookup(inode, bytesOf('f')))
    await tolerate(async () => {
      for await (const { name } of image.readDirectory(inode)) {
        assert.ok(name.length >= 1 && name.length <= 255)
      }
    })
  }
  await tolerate(async () => {
    const extents = await image.mapFile(inode, 0, inode.size)
    const covered = extents.reduce((sum, { length }) => sum + length, 0)
    assert.equal(covered, inode.isSpecial ? 0 : inode.size)
  })
  await tolerate(() => image.mapFile(inode, Math.floor(inode.size / 3), 5000))
}

describe('damaged images', () => {
  const names = [
    'plain',
    'plain-512',
    'chunk-4k',
    'chunk-64k-blob',
    'prefixes',
    'fingerprint',
    'metabox',
    'lz4',
    'b48',
  ]
  for (const [index, name] of names.entries()) {
    test(`${name}: up to ${ROUNDS} of them give answers or codes`, async () => {
      const target = await targetOf(name)
      const codes = new Set<string>()
      const deadline = performance.now() + TIME_LIMIT_MS
      let round = 0
      for (; round < ROUNDS && performance.now() < deadline; round++) {
        // Reads from memory never leave the microtask queue: let the test runner have its turn.
        await setImmediate()
        const seed = (index + 1) * 1_000_003 + round
        const bytes = damage(target, randomNumbers(seed))
        try {
          for (const code of await exercise(target, bytes)) codes.add(code)
        } catch (error) {
          throw new Error(`fixture ${name}, seed ${seed}`, { cause: error })
        }
      }
      evidence(`fuzz.reader.${name}`, {
        images: round,
        codes: codes.size,
        seeds: `${(index + 1) * 1_000_003}…`,
      })
      assert.ok(codes.size >= 5, `only ${[...codes].join(' ')}`)
    })
  }
})
