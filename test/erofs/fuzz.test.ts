/**
 * Damaged images: every fixture whose data is not compressed, and two of the others, with fields of its structures set
 * to what they must not be, and with bytes changed anywhere; then everything that the reader can do. Whatever comes
 * out, it is an answer or an AppError, after a bounded number of bounded reads, and nothing is left behind.
 * A failure names the fixture and a seed; COMMONPAGE_SEED=NUMBER runs that image alone.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'

import { isAppError, memorySource } from '../../src/core/index.ts'
import type { ErofsImage, Inode } from '../../src/erofs/index.ts'
import { MAX_READ_DATA, openErofs, walk } from '../../src/erofs/index.ts'
import { evidence } from '../evidence.ts'
import { bytesOf, CountingSource, fixtureNames, loadFixture, randomNumbers } from './fixtures.ts'
import { Leftovers } from './fuzz-leftovers.ts'
import type { RandomBelow, Structures } from './fuzz-structures.ts'
import { damageStructure, findStructures } from './fuzz-structures.ts'
import type { SeededGroup } from './fuzz-seeds.ts'
import { firstSeedOf, seededTests } from './fuzz-seeds.ts'

const IS_FULL = process.env['COMMONPAGE_FULL'] === '1'
/** Nine uncompressed fixtures: 405 s. With imports of them (test/images), 210 s, more than ten minutes. */
const FULL_MS_EACH = 45_000
const REDUCED_IMAGES = 20
/** At full counts a machine that manages less than this has not fuzzed anything. */
const FULL_IMAGES = 50
/** Images until every cache and pool has its size. */
const WARM_UP = 10
const MAX_INODES = 2000
/** 600 images took 340 KiB, most of them for the first 100. */
const MAX_CODE_BYTES = 2 ** 20
/** A whole healthy pass takes about 2,500 reads; damage may make each directory as long as the image. */
const MAX_READS = 40_000
/** An image takes 30 ms: generous, because other work may slow this machine. CPU time, not wall time. */
const MAX_CPU_MS = 8000
/** Values that break arithmetic more often than random ones do. */
const EDGES = [0, 1, 0x7f, 0x80, 0xff]
/** Uncompressed fixtures are found, not listed: this is how many there are. */
const UNCOMPRESSED = 9
/** Their metadata is read, their data refused; b48 has compact inodes with 48-bit addresses. */
const COMPRESSED = ['b48', 'lz4']

interface Target extends SeededGroup {
  readonly name: string
  readonly devices: readonly Uint8Array[]
  readonly structures: Structures
}

/** Undefined: not even the tree of this fixture can be read, because directories are compressed. */
async function targetOf(name: string, index: number): Promise<Target | undefined> {
  const { devices } = loadFixture(name)
  try {
    const structures = await findStructures(devices)
    const title = `${name}: answers or codes, and nothing left`
    return { title, name, devices, structures, firstSeed: firstSeedOf(index) }
  } catch (error) {
    if (isAppError(error) && error.code === 'ERR_EROFS_COMPRESSED_UNSUPPORTED') return undefined
    throw error
  }
}

function damaged(target: Target, random: RandomBelow): Uint8Array {
  const bytes = Uint8Array.from(target.devices[0] ?? [])
  const way = random(4)
  for (let changes = 1 + random(8); changes > 0; changes--) {
    if (way < 2) damageStructure(bytes, target.structures, random)
    else if (way === 2) damageBytes(bytes, target.structures.regions, random)
    else damageBytes(bytes, [[0, bytes.length]], random)
  }
  return random(20) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes
}

function damageBytes(
  bytes: Uint8Array,
  regions: readonly (readonly [number, number])[],
  random: RandomBelow,
): void {
  const [start, length] = regions[random(regions.length)] ?? [0, 1]
  const width = 1 + random(4)
  const position = start + random(length)
  for (let off = 0; off < width && position + off < bytes.length; off++) {
    const edge = EDGES[random(EDGES.length)] ?? 0
    bytes[position + off] = random(2) === 0 ? edge : random(256)
  }
}

/** Stops a reader that goes round in circles. */
class BoundedSource extends CountingSource {
  override read(offset: number, length: number): Promise<Uint8Array> {
    if (this.reads >= MAX_READS) throw new Error(`more than ${MAX_READS} reads`)
    if (length > MAX_READ_DATA) throw new Error(`a read of ${length} bytes`)
    return super.read(offset, length)
  }
}

/** Adds the codes that it met; rethrows what is not an AppError. */
async function exercise(target: Target, bytes: Uint8Array, codes: Set<string>): Promise<void> {
  const tolerate = async (action: () => Promise<unknown>): Promise<void> => {
    try {
      await action()
    } catch (error) {
      if (!isAppError(error)) throw error
      codes.add(error.code)
    }
  }
  await tolerate(async () => {
    const image = await openErofs(new BoundedSource(memorySource(bytes)), {
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
    // Also inodes that no path leads to any more.
    for (const nid of target.structures.nids) {
      await tolerate(async () => exerciseInode(image, await image.readInode(nid), tolerate))
    }
    for (const path of ['links/rel', 'many/../big/text.txt', 'deep/d0/d1/d2/d3', 'links/loop-a']) {
      await tolerate(() => image.resolve(bytesOf(path)))
    }
    await tolerate(() => image.xattrPrefixes())
    await tolerate(() => image.packedInode())
  })
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

interface Tally {
  readonly codes: Set<string>
  images: number
  mostCpuMs: number
}

async function fuzzOne(target: Target, seed: number, tally: Tally): Promise<void> {
  // Reads from memory never leave the microtask queue: let the test runner have its turn.
  await setImmediate()
  const before = process.cpuUsage()
  try {
    await exercise(target, damaged(target, randomNumbers(seed)), tally.codes)
  } catch (error) {
    const replay = `fixture ${target.name}: COMMONPAGE_SEED=${seed} replays it`
    throw new Error(replay, { cause: error })
  }
  tally.images++
  tally.mostCpuMs = Math.max(tally.mostCpuMs, process.cpuUsage(before).user / 1000)
}

async function fuzzMany(target: Target): Promise<void> {
  const tally: Tally = { codes: new Set(), images: 0, mostCpuMs: 0 }
  const deadline = performance.now() + FULL_MS_EACH
  const goesOn = (): boolean =>
    IS_FULL ? performance.now() < deadline : tally.images < REDUCED_IMAGES
  let leftovers: Leftovers | undefined
  while (goesOn()) {
    if (tally.images === WARM_UP) leftovers = await Leftovers.sinceNow()
    await fuzzOne(target, target.firstSeed + tally.images, tally)
  }
  const { images, codes, mostCpuMs } = tally
  assert.ok(leftovers !== undefined, `only ${images} images: the warm-up is no fuzzing`)
  const left = await leftovers.assertNone({
    pieces: images - WARM_UP,
    maxCodeBytes: MAX_CODE_BYTES,
  })
  const seeds = `${target.firstSeed}…${target.firstSeed + images - 1}`
  const figures = { images, codes: codes.size, mostCpuMs, seeds, ...left }
  evidence(`fuzz.reader.${target.name}`, figures)
  assert.ok(codes.size >= 5, `only ${[...codes].join(' ')}`)
  assert.ok(mostCpuMs < MAX_CPU_MS, `${mostCpuMs} ms`)
  if (IS_FULL) assert.ok(images >= FULL_IMAGES, `${images} images in ${FULL_MS_EACH} ms`)
}

const all = await Promise.all(fixtureNames().map(targetOf))
const targets = all
  .filter((target) => target !== undefined)
  .filter(({ name, structures }) => !structures.compressed || COMPRESSED.includes(name))

describe('damaged images', () => {
  test('no uncompressed fixture is left out', () => {
    assert.equal(targets.filter(({ structures }) => !structures.compressed).length, UNCOMPRESSED)
    for (const { structures } of targets) assert.ok(structures.byKind.size >= 4)
  })

  seededTests(targets, {
    all: fuzzMany,
    one: (target, seed) => fuzzOne(target, seed, { codes: new Set(), images: 0, mostCpuMs: 0 }),
  })
})
