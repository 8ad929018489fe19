/** What the writer makes is read back by our reader, the kernel and fsck.erofs, and must be the tree that was given. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import type { DirectoryNode } from '../../src/erofs/index.ts'
import { memorySource } from '../../src/core/index.ts'
import { BLOCK_SIZE, CHUNK_SIZE, hasCompat, openErofs, SymlinkNode } from '../../src/erofs/index.ts'
import { seededBytes, spreadSeed } from '../random.ts'
import { missing } from '../requires.ts'
import type { TreeEntry } from './fixtures.ts'
import { sha256 } from './fixtures.ts'
import { mountFiles, run, temporaryFolder } from './kernel-mount.ts'
import { ATTRIBUTES, randomTree, rowsOfImage, rowsOfTree, TreeBuilder } from './written-tree.ts'

const TREES = process.env['COMMONPAGE_FULL'] === '1' ? 400 : 30
const MOUNTED_TREES = process.env['COMMONPAGE_FULL'] === '1' ? 100 : 8
const SKIP_MOUNT = missing('root', 'erofs', 'loop', 'losetup')
const SKIP_FSCK = missing('fsck.erofs')
const LIST_TREE = fileURLToPath(new URL('../e2e/list-tree.py', import.meta.url))
const text = new TextEncoder()

function treeOf(seed: number): TreeBuilder {
  const builder = randomTree(spreadSeed(seed), { separateData: seed % 2 === 1 })
  builder.writer.placeLayer(builder.root)
  return builder
}

function writeDevices(devices: readonly Buffer[], folder: string): string[] {
  return devices.map((bytes, index) => {
    const path = join(folder, `device${index}`)
    writeFileSync(path, bytes)
    return path
  })
}

function kernelRows(files: readonly string[]): TreeEntry[] {
  using mounted = mountFiles(files)
  const lines = run('/usr/bin/python3', [LIST_TREE, mounted.folder]).trimEnd().split('\n')
  return lines.map((line): TreeEntry => JSON.parse(line))
}

test(`${TREES} trees of everything are what our reader reads`, async () => {
  for (let seed = 1; seed <= TREES; seed++) {
    const builder = treeOf(seed)
    assert.deepEqual(await rowsOfImage(builder.devices()), rowsOfTree(builder), `seed ${seed}`)
  }
})

test(`${MOUNTED_TREES} trees are what the kernel reads`, { skip: SKIP_MOUNT }, () => {
  for (let seed = 1; seed <= MOUNTED_TREES; seed++) {
    using temporary = temporaryFolder()
    const builder = treeOf(seed)
    const files = writeDevices(builder.devices(), temporary.folder)
    assert.deepEqual(kernelRows(files), rowsOfTree(builder), `seed ${seed}`)
  }
})

test(`fsck.erofs accepts ${MOUNTED_TREES} trees`, { skip: SKIP_FSCK }, () => {
  for (let seed = 1; seed <= MOUNTED_TREES; seed++) {
    using temporary = temporaryFolder()
    const [primary = '', ...extra] = writeDevices(treeOf(seed).devices(), temporary.folder)
    run('fsck.erofs', [...extra.map((device) => `--device=${device}`), '--extract', primary])
  }
})

test('the same tree gives the same bytes', () => {
  for (let seed = 1; seed <= 4; seed++) {
    assert.deepEqual(treeOf(seed).devices(), treeOf(seed).devices())
  }
})

describe('layers', () => {
  /** A base of some directories with files; with a second layer on top if asked for. */
  function layered(hasSecond: boolean): TreeBuilder {
    const builder = new TreeBuilder()
    const folders: DirectoryNode[] = []
    for (let folder = 0; folder < 40; folder++) {
      const made = builder.directory()
      builder.root.set(`folder${folder}`, made)
      folders.push(made)
      for (let file = 0; file < 60; file++) {
        const size = file % 3 === 0 ? 100 : 3000
        made.set(`file${file}`, builder.file(seededBytes(folder * 100 + file, size)))
      }
    }
    builder.writer.placeLayer(builder.root)
    if (!hasSecond) return builder
    const application = builder.directory()
    builder.root.set('application', application)
    for (let file = 0; file < 100; file++) {
      application.set(`file${file}`, builder.file(seededBytes(10_000 + file, 5000)))
    }
    folders[3]?.set('added', builder.file(text.encode('added')))
    folders[5]?.delete('file7')
    folders[7]?.set('file9', builder.file(text.encode('replaced')))
    builder.writer.placeLayer(builder.root)
    return builder
  }

  test('an image with a layer more keeps nearly all metadata blocks of its base', () => {
    const blocksOf = (builder: TreeBuilder): Set<string> => {
      const blocks = new Set<string>()
      for (const { offset, bytes } of builder.writer.finish(builder.root).metadata()) {
        const start = (BLOCK_SIZE - (offset % BLOCK_SIZE)) % BLOCK_SIZE
        for (let at = start; at < bytes.byteLength; at += BLOCK_SIZE) {
          blocks.add(Buffer.from(bytes.subarray(at, at + BLOCK_SIZE)).toString('latin1'))
        }
      }
      return blocks
    }
    const base = blocksOf(layered(false))
    const derived = blocksOf(layered(true))
    const kept = [...base].filter((block) => derived.has(block)).length
    assert.ok(base.size > 50, `${base.size} blocks`)
    // the root, three directories, and the ends of the areas
    assert.ok(base.size - kept <= 8, `${kept} of ${base.size} blocks kept`)
  })

  test('every change of a lower layer is in the image', async () => {
    const builder = layered(true)
    assert.deepEqual(await rowsOfImage(builder.devices()), rowsOfTree(builder))
  })

  test('what grows beyond its place is found elsewhere', async () => {
    const builder = new TreeBuilder()
    const folder = builder.directory()
    builder.root.set('folder', folder)
    builder.root.set('file', builder.file(text.encode('content')))
    builder.writer.placeLayer(builder.root)
    for (let file = 0; file < 500; file++) folder.set(`file${file}`, builder.file(text.encode('x')))
    builder.writer.placeLayer(builder.root)
    const value = Buffer.alloc(3000, 1)
    folder.attributes = { ...ATTRIBUTES, xattrs: [{ name: text.encode('user.large'), value }] }
    builder.root.attributes = folder.attributes
    builder.writer.placeLayer(builder.root)
    assert.deepEqual(await rowsOfImage(builder.devices()), rowsOfTree(builder))
    for (let file = 2; file < 500; file++) folder.delete(`file${file}`)
    builder.writer.placeLayer(builder.root)
    assert.deepEqual(await rowsOfImage(builder.devices()), rowsOfTree(builder))
  })
})

test('a file in one piece has one chunk, equal chunks are there once, zeros nowhere', () => {
  const builder = new TreeBuilder()
  const content = seededBytes(5, 20 * CHUNK_SIZE)
  builder.root.set('one', builder.file(content))
  builder.writer.placeLayer(builder.root)
  const size = builder.devices()[0]?.byteLength ?? 0
  builder.root.set('two', builder.file(content))
  builder.root.set('zeros', builder.file(Buffer.alloc(50 * CHUNK_SIZE)))
  builder.writer.placeLayer(builder.root)
  assert.equal(builder.devices()[0]?.byteLength, size)
})

test('an attribute that a later layer shares stays where it was in the inodes before', async () => {
  const value = Buffer.alloc(900, 7)
  const xattrs = [{ name: text.encode('user.common'), value }]
  const builder = new TreeBuilder()
  // every position of a tail in its block, with and without the attribute's bytes before it
  for (let size = 1; size <= 1024; size += 17) {
    const own = [{ name: text.encode('user.common'), value: Buffer.alloc(900, size & 0xff) }]
    builder.root.set(`file${size}`, builder.file(Buffer.alloc(size, 1), { xattrs: own }))
  }
  builder.root.set('first', builder.file(text.encode('x'), { xattrs }))
  builder.writer.placeLayer(builder.root)
  const before = builder.devices()[0]
  for (let size = 1; size <= 1024; size += 17) {
    const again = [{ name: text.encode('user.common'), value: Buffer.alloc(900, size & 0xff) }]
    builder.root.set(`again${size}`, builder.file(text.encode('a'), { xattrs: again }))
    builder.root.set(`more${size}`, builder.file(text.encode('m'), { xattrs: again }))
  }
  builder.writer.placeLayer(builder.root)
  const devices = builder.devices()
  assert.ok((devices[0]?.byteLength ?? 0) > (before?.byteLength ?? 0))
  assert.deepEqual(await rowsOfImage(devices), rowsOfTree(builder))
})

test('fingerprints are the digests of the files, and a file without bytes has none', async () => {
  const builder = new TreeBuilder({ fingerprints: true })
  const contents = [seededBytes(1, 5), seededBytes(2, 100_000)]
  for (const [index, bytes] of contents.entries()) {
    builder.root.set(`file${index}`, builder.file(bytes))
  }
  builder.root.set('empty', builder.file(new Uint8Array(0)))
  builder.writer.placeLayer(builder.root)
  const [bytes = Buffer.alloc(0)] = builder.devices()
  const image = await openErofs(memorySource(bytes))
  assert.ok(hasCompat(image.superblock.features, 'ISHARE_XATTRS'))
  for (const [index, content] of contents.entries()) {
    const entry = await image.lookup(await image.root(), text.encode(`file${index}`))
    assert.ok(entry !== undefined)
    const value = await image.fingerprint(await image.readInode(entry.nid))
    const expected = Buffer.concat([text.encode('sha256:'), Buffer.from(sha256(content), 'hex')])
    assert.deepEqual(Buffer.from(value ?? []), expected)
  }
  const empty = await image.lookup(await image.root(), text.encode('empty'))
  assert.ok(empty !== undefined)
  assert.equal(await image.fingerprint(await image.readInode(empty.nid)), undefined)
})

test('a target too long for its inode has a block', async () => {
  const builder = new TreeBuilder()
  builder.root.set('link', new SymlinkNode(ATTRIBUTES, Buffer.alloc(4095, 0x78)))
  builder.writer.placeLayer(builder.root)
  assert.deepEqual(await rowsOfImage(builder.devices()), rowsOfTree(builder))
})
