/**
 * Thousands of images that are nearly right: fields set to border values, blocks moved and repeated, devices cut,
 * swapped or left out, with the superblock's checksum put right again so that damage reaches the parser. Each
 * import gives every byte back or fails with a code of its own, in bounded time, and leaves nothing unfinished.
 */
import assert from 'node:assert/strict'
import { randomFillSync } from 'node:crypto'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { isAppError } from '../../src/core/index.ts'
import { FEATURE_COMPAT } from '../../src/erofs/index.ts'
import { SB, SUPERBLOCK_OFFSET } from '../../src/erofs/layout.ts'
import { checksumLength, superblockChecksum } from '../../src/erofs/superblock.ts'
import { DeviceReader } from '../../src/images/import/device-reader.ts'
import { openDevices } from '../../src/images/import/import-devices.ts'
import { surveyImage } from '../../src/images/import/survey.ts'
import { fixtureNames, loadFixture, randomNumbers } from '../erofs/fixtures.ts'
import { DIRECTORY, directoryBlock, FILE, ImageBuilder, ROOT_NID } from '../erofs/image-builder.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, dataFolder, filesBelow, testStore } from '../store/data-folder.ts'
import { DOMAIN, importBytes, readBack } from './harness.ts'
import { evidence } from '../evidence.ts'

type Random = (below: number) => number

/** An import of at most 300 KiB: generous, because other work may slow this machine. CPU time, not wall time. */
const MAX_CPU_MS = 8000
/** Images that share one store: enough to find each other's chunks, few enough to stay small. */
const IMAGES_PER_STORE = 60
/** What an import of any bytes may answer with. */
const REFUSALS = new Set(['ERR_IMPORT_DEVICES', 'ERR_IMPORT_EMPTY'])

const BORDERS = [0, 1, 2, 3, 7, 0x1f, 0x7f, 0xff, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0xfffffffe]
const BLOCKS = [512, 4096, 65_536]

/** Changes a device in place. */
type Damage = (bytes: Uint8Array, random: Random) => void

/** Most of what is parsed lies at the start; some images have metadata elsewhere. */
function place(bytes: Uint8Array, random: Random): number {
  const areas = [128, 4096, 40_000, 60_000, bytes.length]
  const area = Math.min(areas[random(areas.length)] ?? 0, bytes.length)
  const from = area === 128 ? SUPERBLOCK_OFFSET : 0
  return Math.min(from + random(area), bytes.length - 1)
}

const setByte: Damage = (bytes, random) => {
  bytes[place(bytes, random)] = random(256)
}

const flipBit: Damage = (bytes, random) => {
  const at = place(bytes, random)
  bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8))
}

/** A field of 2, 4 or 8 bytes, aligned as EROFS aligns them. */
const setField: Damage = (bytes, random) => {
  const width = [2, 4, 4, 8][random(4)] ?? 4
  const at = Math.floor(place(bytes, random) / width) * width
  if (at + width > bytes.length) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const value = BORDERS[random(BORDERS.length)] ?? 0
  if (width === 2) view.setUint16(at, value & 0xffff, true)
  else view.setUint32(at, value >>> 0, true)
  if (width === 8) view.setUint32(at + 4, random(3) === 0 ? random(0xffffffff) : 0, true)
}

/** What one inode says, another says too: files over each other and over metadata, directories twice in the tree. */
const copyRecord: Damage = (bytes, random) => {
  const width = [8, 12, 32, 64, 128][random(5)] ?? 32
  const from = Math.floor(place(bytes, random) / 4) * 4
  const to = Math.floor(place(bytes, random) / 4) * 4
  if (Math.max(from, to) + width <= bytes.length) bytes.copyWithin(to, from, from + width)
}

const copyBlock: Damage = (bytes, random) => {
  const size = BLOCKS[random(BLOCKS.length)] ?? 4096
  const blocks = Math.floor(bytes.length / size)
  if (blocks === 0) return
  const from = random(blocks) * size
  bytes.copyWithin(random(blocks) * size, from, from + size)
}

const clearBlock: Damage = (bytes, random) => {
  const size = BLOCKS[random(BLOCKS.length)] ?? 4096
  const at = random(Math.ceil(bytes.length / size)) * size
  bytes.fill(random(2) * 255, at, at + size)
}

const DAMAGES: readonly Damage[] = [
  setByte,
  flipBit,
  setField,
  setField,
  setField,
  copyRecord,
  copyRecord,
  copyBlock,
  clearBlock,
]

function putChecksumRight(bytes: Uint8Array): void {
  const bits = bytes[SUPERBLOCK_OFFSET + SB.blkszbits] ?? 0
  if (bits < 9 || bits > 16) return
  const length = checksumLength(2 ** bits)
  if (bytes.length < SUPERBLOCK_OFFSET + length) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (
    (view.getUint32(SUPERBLOCK_OFFSET + SB.feature_compat, true) & FEATURE_COMPAT.SB_CHKSUM) ===
    0
  )
    return
  const covered = bytes.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_OFFSET + length)
  view.setUint32(SUPERBLOCK_OFFSET + SB.checksum, superblockChecksum(covered), true)
}

/** Sizes and number of devices; rarely, because most such images are refused at once. */
function reshape(devices: readonly Uint8Array[], random: Random): Uint8Array[] {
  const one = random(devices.length)
  const bytes = devices[one] ?? new Uint8Array(0)
  switch (random(6)) {
    case 0:
      return devices.with(one, bytes.slice(0, 1 + random(bytes.length)))
    case 1: {
      const size = BLOCKS[random(BLOCKS.length)] ?? 4096
      return devices.with(one, bytes.slice(0, Math.max(size, bytes.length - (bytes.length % size))))
    }
    case 2:
      return devices.with(one, Buffer.concat([bytes, Buffer.alloc(1 + random(70_000), random(3))]))
    case 3:
      return devices.toReversed()
    case 4:
      return devices.slice(0, -1)
    default:
      return [...devices, bytes.slice()]
  }
}

function damaged(names: readonly string[], random: Random): Uint8Array[] {
  const { devices } = loadFixture(names[random(names.length)] ?? 'plain')
  let copies: Uint8Array[] = devices.map((bytes) => Uint8Array.from(bytes))
  const changes = [1, 1, 1, 2, 3, 6, 20][random(7)] ?? 1
  for (let change = 0; change < changes; change++) {
    const bytes = copies[random(4) === 0 ? random(copies.length) : 0]
    if (bytes !== undefined) DAMAGES[random(DAMAGES.length)]?.(bytes, random)
  }
  if (random(8) === 0) copies = reshape(copies, random)
  const [primary] = copies
  if (primary !== undefined && random(10) > 0) putChecksumRight(primary)
  return copies
}

interface Tally {
  imported: number
  parsed: number
  refused: number
  mostCpuMs: number
}

async function importOne(store: TestStore, devices: readonly Uint8Array[], tally: Tally) {
  const manifests = async () =>
    (await filesBelow(store.dataDir)).filter((file) => /manifests|maps/.test(file))
  const before = process.cpuUsage()
  const published = await manifests()
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

describe('mutated images', () => {
  const names = fixtureNames()
  const groups: readonly (readonly [string, readonly string[]])[] = [
    [
      'of one device, not compressed',
      names.filter((name) => /plain|chunk-4k|prefixes|fingerprint|metabox|b48|dirdata/.test(name)),
    ],
    ['of two devices', names.filter((name) => name.includes('-blob'))],
    [
      'compressed',
      names.filter((name) => /lz4|lzma|zstd|deflate|fragments|dedupe|everything/.test(name)),
    ],
  ]

  test('every fixture is in a group', () => {
    assert.deepEqual(groups.flatMap(([, group]) => group).toSorted(), names)
  })

  for (const [index, [title, group]] of groups.entries()) {
    test(title, async () => {
      const tally: Tally = { imported: 0, parsed: 0, refused: 0, mostCpuMs: 0 }
      const rounds = count(3000, 50)
      for (let first = 0; first < rounds; first += IMAGES_PER_STORE) {
        await using store = await testStore()
        for (let round = first; round < Math.min(rounds, first + IMAGES_PER_STORE); round++) {
          const devices = damaged(group, randomNumbers((index + 1) * 1_000_003 + round))
          await importOne(store, devices, tally).catch((error: unknown) => {
            throw new Error(`round ${round}`, { cause: error })
          })
        }
      }
      evidence('fuzz.import', { images: title.replaceAll(' ', '-'), rounds, ...tally })
      // The damage must reach the parser, not stop at the superblock.
      assert.ok(tally.parsed > rounds / 5, JSON.stringify(tally))
      assert.ok(tally.mostCpuMs < MAX_CPU_MS, JSON.stringify(tally))
    })
  }
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
