/**
 * Thousands of images that are nearly right: fields set to border values, blocks moved and repeated, devices cut,
 * swapped or left out, with the superblock's checksum put right again so that damage reaches the parser. Each
 * import gives every byte back, also through a small page cache, or fails with a code of its own, in bounded time; it
 * leaves nothing unfinished, no page pinned, no file open. A failure names a seed: COMMONPAGE_SEED=NUMBER runs
 * that image alone.
 */
import assert from 'node:assert/strict'
import { randomFillSync } from 'node:crypto'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { isAppError } from '../../src/core/index.ts'
import { DeviceReader } from '../../src/images/import/device-reader.ts'
import { openDevices } from '../../src/images/import/import-devices.ts'
import { surveyImage } from '../../src/images/import/survey.ts'
import { fixtureNames, loadFixture, randomNumbers } from '../erofs/fixtures.ts'
import { DIRECTORY, directoryBlock, FILE, ImageBuilder, ROOT_NID } from '../erofs/image-builder.ts'
import { Leftovers } from '../erofs/fuzz-leftovers.ts'
import type { SeededGroup } from '../erofs/fuzz-seeds.ts'
import { firstSeedOf, seededTests } from '../erofs/fuzz-seeds.ts'
import { findStructures } from '../erofs/fuzz-structures.ts'
import { evidence } from '../evidence.ts'
import type { TestStore } from '../store/data-folder.ts'
import { dataFolder, filesBelow, testStore } from '../store/data-folder.ts'
import { DOMAIN, ImageCache, importBytes, readBack } from './harness.ts'
import type { FuzzedFixture } from './import-fuzz-damage.ts'
import { damaged } from './import-fuzz-damage.ts'
import type { Served } from './import-fuzz-serving.ts'
import { serveImage } from './import-fuzz-serving.ts'

const IS_FULL = process.env['COMMONPAGE_FULL'] === '1'
/** Two groups of images that are not compressed, 210 s: with the reader's fuzzing (test/erofs) more than ten minutes. */
const FULL_MS_EACH = 105_000
const REDUCED_IMAGES = 36
/** At full counts a machine that manages less than this has not fuzzed anything. */
const FULL_IMAGES = 50
/** Frames of 16 KiB: less than any image, so that pages are evicted while it is read. */
const CACHE_FRAMES = 16
/** An import of at most 1.2 MiB takes a tenth: generous, because other work may slow this machine. CPU time, not wall time. */
const MAX_CPU_MS = 8000
/** Images that share one store: enough to find each other's chunks, few enough to stay small. */
const IMAGES_PER_STORE = 18
/** 324 imports took 900 KiB, the last third of them 120 KiB. */
const MAX_CODE_BYTES = 3 * 2 ** 20
/** What an import of any bytes may answer with. */
const REFUSALS = new Set(['ERR_IMPORT_DEVICES', 'ERR_IMPORT_EMPTY'])

interface Tally extends Served {
  images: number
  imported: number
  parsed: number
  refused: number
  mostCpuMs: number
}

function newTally(): Tally {
  const none = { images: 0, imported: 0, parsed: 0, refused: 0, mostCpuMs: 0, bytes: 0, files: 0 }
  return { ...none, codes: new Set() }
}

async function importOne(
  store: TestStore,
  images: ImageCache,
  devices: readonly Uint8Array[],
  tally: Tally,
): Promise<void> {
  const manifests = async () =>
    (await filesBelow(store.dataDir)).filter((file) => /manifests|maps/.test(file))
  const before = process.cpuUsage()
  const published = await manifests()
  tally.images++
  try {
    const summary = await importBytes(store, devices)
    tally.mostCpuMs = Math.max(tally.mostCpuMs, process.cpuUsage(before).user / 1000)
    tally.imported++
    if (summary.filesystem === 'erofs') tally.parsed++
    assert.deepEqual(
      summary.notes.filter((note) => note.startsWith('stored once more')),
      [],
    )
    assert.equal(
      summary.sizeBytes,
      devices.reduce((sum, { length }) => sum + length, 0),
    )
    const back = await readBack(store, summary.digest)
    for (const [index, bytes] of devices.entries()) {
      assert.ok(back[index]?.equals(bytes), `device ${index} differs`)
    }
    await serveImage(images, store, summary.digest, devices, tally)
  } catch (error) {
    if (!isAppError(error) || !REFUSALS.has(error.code)) throw error
    tally.refused++
    assert.deepEqual(await manifests(), published)
  }
  assert.deepEqual(
    await readdir(join(store.dataDir, 'domains', DOMAIN, 'uploads')).catch(() => []),
    [],
  )
}

interface Group extends SeededGroup {
  readonly fixtures: readonly FuzzedFixture[]
}

/** Images of one store, one fixture after the other. Closing the cache asserts that no pin is left. */
async function fuzzStore(
  { fixtures, firstSeed }: Group,
  seeds: Iterable<number>,
  tally: Tally,
): Promise<void> {
  await using store = await testStore()
  await using images = new ImageCache(store, { frames: CACHE_FRAMES })
  for (const seed of seeds) {
    const fixture = fixtures[(seed - firstSeed) % fixtures.length]
    if (fixture === undefined) return
    const devices = damaged(fixture, randomNumbers(seed))
    await importOne(store, images, devices, tally).catch((error: unknown) => {
      const replay = `fixture ${fixture.name}: COMMONPAGE_SEED=${seed} replays it`
      throw new Error(replay, { cause: error })
    })
  }
}

async function fuzzGroup(group: Group): Promise<void> {
  const tally = newTally()
  const deadline = performance.now() + FULL_MS_EACH
  const goesOn = (): boolean =>
    IS_FULL ? performance.now() < deadline : tally.images < REDUCED_IMAGES
  let leftovers: Leftovers | undefined
  while (goesOn()) {
    const first = group.firstSeed + tally.images
    await fuzzStore(group, Iterator.from(integers(first)).take(IMAGES_PER_STORE), tally)
    // The first store is the warm-up.
    leftovers ??= await Leftovers.sinceNow()
    leftovers.assertNoFiles()
  }
  const { codes, ...counts } = tally
  const images = group.title.replaceAll(' ', '-')
  const seeds = `${group.firstSeed}…${group.firstSeed + tally.images - 1}`
  assert.ok(leftovers !== undefined)
  const left = await leftovers.assertNone({
    pieces: tally.images - IMAGES_PER_STORE,
    maxCodeBytes: MAX_CODE_BYTES,
  })
  evidence('fuzz.import', { group: images, ...counts, codes: codes.size, seeds, ...left })
  // The damage must reach the parser, not stop at the superblock.
  assert.ok(tally.parsed > tally.images / 5, JSON.stringify(counts))
  assert.ok(tally.files > 0 || group.title === COMPRESSED, JSON.stringify(counts))
  assert.ok(tally.mostCpuMs < MAX_CPU_MS, JSON.stringify(counts))
  if (IS_FULL) assert.ok(tally.images >= FULL_IMAGES, JSON.stringify(counts))
}

function* integers(from: number): Generator<number, void, void> {
  for (let i = from; ; i++) yield i
}

const COMPRESSED = 'compressed'

/** Where even directories are compressed, there are no structures to be found. */
async function fixtureOf(name: string): Promise<FuzzedFixture> {
  const { devices } = loadFixture(name)
  try {
    return { name, devices, structures: await findStructures(devices) }
  } catch (error) {
    if (!isAppError(error) || error.code !== 'ERR_EROFS_COMPRESSED_UNSUPPORTED') throw error
    return { name, devices, structures: undefined }
  }
}

const fixtures = await Promise.all(fixtureNames().map(fixtureOf))
const byTitle = Map.groupBy(fixtures, ({ devices, structures }) => {
  if (structures?.compressed !== false) return COMPRESSED
  return devices.length > 1 ? 'of two devices' : 'of one device, not compressed'
})
const groups = [...byTitle].map(([title, members], index): Group => ({
  title,
  fixtures: members,
  firstSeed: firstSeedOf(index),
}))

describe('mutated images', () => {
  seededTests(groups, {
    all: fuzzGroup,
    one: (group, seed) => fuzzStore(group, [seed], newTally()),
  })
})

describe('images made to keep an import busy', () => {
  const DIRECTORIES = 400
  const BLOCKS_EACH = 120
  const ENTRIES = 200
  const INODES_AT = 8 * 4096

  /** Many directories that all have the same blocks, which name one file over and over: 9.6 million entries in 1 MB. */
  function directoriesOverEachOther(): Uint8Array {
    const nid = (index: number): number => (INODES_AT + index * 64) / 32
    const rootAt = 8 + Math.ceil(((DIRECTORIES + 1) * 64) / 4096)
    const rootBlocks = Math.ceil(DIRECTORIES / ENTRIES)
    const sharedAt = rootAt + rootBlocks
    const builder = new ImageBuilder({ blocks: sharedAt + BLOCKS_EACH })
    const putBlock = (block: number, first: number, last: number, nidOf: (n: number) => number) => {
      const type = block < sharedAt ? 2 : 1
      const entries = Array.from({ length: last - first }, (_, index) => ({
        name: String(first + index).padStart(6, '0'),
        nid: nidOf(first + index),
        type,
      }))
      builder.put(block * 4096, directoryBlock(entries, 4096))
    }
    builder.inode(ROOT_NID, { mode: DIRECTORY, size: rootBlocks * 4096, u: rootAt })
    builder.inode(nid(0), { mode: FILE, nlink: 2 })
    for (let index = 1; index <= DIRECTORIES; index++) {
      builder.inode(nid(index), { mode: DIRECTORY, size: BLOCKS_EACH * 4096, u: sharedAt })
    }
    for (let block = 0; block < rootBlocks; block++) {
      putBlock(rootAt + block, block * ENTRIES, (block + 1) * ENTRIES, (n) => nid(n + 1))
    }
    for (let block = 0; block < BLOCKS_EACH; block++) {
      putBlock(sharedAt + block, block * ENTRIES, (block + 1) * ENTRIES, () => nid(0))
    }
    return builder.bytes
  }

  test('directories over each other: cut at fixed offsets, soon', async () => {
    await using store = await testStore()
    const bytes = directoriesOverEachOther()
    const before = process.cpuUsage()
    const summary = await importBytes(store, [bytes])
    const cpuMs = process.cpuUsage(before).user / 1000
    assert.equal(summary.filesystem, 'unknown')
    assert.match(summary.notes[0] ?? '', /inodes and directories/)
    assert.deepEqual(await readBack(store, summary.digest), [Buffer.from(bytes)])
    assert.ok(cpuMs < 2000, `${cpuMs} ms`)
  })

  /** The walk reads through promises that are settled already: left to itself it never lets a signal in. */
  test('a tree of many inodes can be cancelled while it is walked', async () => {
    await using folder = await dataFolder()
    const files = 300_000
    const blocks = Math.ceil(files / ENTRIES)
    const firstInode = (8 + blocks) * 4096
    const builder = new ImageBuilder({ blocks: 8 + blocks + Math.ceil((files * 32) / 4096) })
    builder.inode(ROOT_NID, { mode: DIRECTORY, size: blocks * 4096, u: 8 })
    for (let block = 0; block < blocks; block++) {
      const entries = Array.from({ length: ENTRIES }, (_, index) => ({
        name: String(block * ENTRIES + index).padStart(6, '0'),
        nid: (firstInode + (block * ENTRIES + index) * 32) / 32,
      }))
      builder.put((8 + block) * 4096, directoryBlock(entries, 4096))
    }
    for (let file = 0; file < files; file++) {
      builder.inodeAt(firstInode + file * 32, { compact: true })
    }
    const path = join(folder.path, 'image')
    await writeFile(path, builder.bytes)
    using reader = DeviceReader.open([path])
    const opened = await openDevices(reader)
    assert.ok('image' in opened)
    const cancel = new AbortController()
    const timer = setTimeout(() => cancel.abort(), 0)
    await assert.rejects(surveyImage(reader, opened.image, cancel.signal), { name: 'AbortError' })
    clearTimeout(timer)
  })
})

describe('devices side by side', () => {
  for (const [first, second] of [
    [65_536, 65_536],
    [131_072, 70_000],
    [4096, 1],
  ] as const) {
    test(`${first} and ${second} bytes of no image: nothing continues from one into the other`, async () => {
      await using store = await testStore()
      const devices = [randomFillSync(Buffer.alloc(first)), randomFillSync(Buffer.alloc(second))]
      const summary = await importBytes(store, devices)
      assert.equal(summary.newBytes, first + second)
      assert.deepEqual(await readBack(store, summary.digest), devices)
    })
  }
})
