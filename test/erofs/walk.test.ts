import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import type { Nid } from '../../src/erofs/index.ts'
import { nidFrom, openErofs, walk, WindowSource } from '../../src/erofs/index.ts'
import { NidSet } from '../../src/erofs/nid-set.ts'
import { CountingSource, latin1, loadFixture, primarySource, randomNumbers } from './fixtures.ts'
import type { EntrySpec } from './image-builder.ts'
import { ImageBuilder, ROOT_NID } from './image-builder.ts'

const DIR = 80

function dots(nid: number): EntrySpec[] {
  return [
    { name: '.', nid, type: 2 },
    { name: '..', nid: ROOT_NID, type: 2 },
  ]
}

async function names(builder: ImageBuilder, maxInodes?: number): Promise<string[]> {
  const found: string[] = []
  const image = await builder.open()
  for await (const { name } of walk(image, maxInodes === undefined ? {} : { maxInodes })) {
    found.push(latin1(name))
  }
  return found
}

describe('walk', () => {
  test('hard links once, directories in the order of their names', async () => {
    const builder = new ImageBuilder().root([
      { name: 'a', nid: DIR, type: 2 },
      { name: 'b', nid: 100, type: 2 },
      { name: 'c', nid: 120 },
      { name: 'd', nid: 120 },
    ])
    builder.directory(DIR, [...dots(DIR), { name: 'e', nid: 120 }, { name: 'f', nid: 130 }])
    builder.directory(100, [...dots(100), { name: 'g', nid: 140 }])
    for (const nid of [120, 130, 140]) builder.inode(nid, {})
    assert.deepEqual(await names(builder), ['', 'a', 'b', 'c', 'f', 'g'])
  })

  test('a directory met twice: ERR_EROFS_DIRECTORY_CYCLE', async () => {
    const cycle = { code: 'ERR_EROFS_DIRECTORY_CYCLE' }
    const self = new ImageBuilder().root([{ name: 'a', nid: ROOT_NID, type: 2 }])
    await assert.rejects(names(self), cycle)
    const up = new ImageBuilder().root([{ name: 'a', nid: DIR, type: 2 }])
    up.directory(DIR, [...dots(DIR), { name: 'x', nid: ROOT_NID, type: 2 }])
    await assert.rejects(names(up), cycle)
    // An entry that lies about the type of the directory cannot make the walk endless.
    up.directory(DIR, [...dots(DIR), { name: 'x', nid: ROOT_NID, type: 1 }])
    assert.deepEqual(await names(up), ['', 'a'])
  })

  test('more inodes than allowed: ERR_EROFS_TOO_MANY_INODES', async () => {
    const builder = new ImageBuilder().root([
      { name: 'a', nid: 100 },
      { name: 'b', nid: 110 },
    ])
    builder.inode(100, {}).inode(110, {})
    assert.equal((await names(builder, 3)).length, 3)
    await assert.rejects(names(builder, 2), { code: 'ERR_EROFS_TOO_MANY_INODES' })
  })

  test('a root that is a file is the whole tree', async () => {
    assert.deepEqual(await names(new ImageBuilder().inode(ROOT_NID, {})), [''])
  })

  test('an aborted walk ends', async () => {
    const image = await openErofs(primarySource(loadFixture('plain')))
    const controller = new AbortController()
    const walking = walk(image, { signal: controller.signal })
    await walking.next()
    controller.abort()
    await assert.rejects(walking.next(), { name: 'AbortError' })
  })

  test('reads metadata in windows', async () => {
    const source = new CountingSource(primarySource(loadFixture('plain')))
    const image = await openErofs(source)
    source.reads = 0
    let inodes = 0
    for await (const { extents } of walk(image)) {
      inodes++
      for await (const extent of extents()) assert.ok(extent.length > 0)
    }
    assert.ok(source.reads <= Math.ceil(source.size / 65_536), `${source.reads} reads`)
    assert.ok(inodes > 200)
  })
})

test('a window source gives the bytes of its source', async () => {
  const random = randomNumbers(7)
  const bytes = Uint8Array.from({ length: 3_000_001 }, () => random(256))
  const counting = new CountingSource(memorySource(bytes))
  const window = new WindowSource(counting)
  assert.equal(window.size, bytes.length)
  for (let round = 0; round < 500; round++) {
    const offset = random(bytes.length)
    const length = Math.min(random(round % 10 === 0 ? 400_000 : 80_000), bytes.length - offset)
    const read = await window.read(offset, length)
    assert.equal(Buffer.compare(read, bytes.subarray(offset, offset + length)), 0)
  }
  counting.reads = 0
  for (let offset = 0; offset < 65_536; offset += 64) await window.read(offset, 64)
  assert.ok(counting.reads <= 1)
  await assert.rejects(window.read(bytes.length, 1), RangeError)
})

test('a nid set holds what was added, and nothing else', () => {
  const random = randomNumbers(11)
  const set = new NidSet()
  const expected = new Set<Nid>()
  for (let round = 0; round < 50_000; round++) {
    const nid = nidFrom(
      (round % 3 === 0 ? 2 ** 52 : 0) + random(40_000) * (round % 2 === 0 ? 1 : 65_536),
    )
    assert.equal(set.has(nid), expected.has(nid))
    assert.equal(set.add(nid), !expected.has(nid))
    expected.add(nid)
    assert.equal(set.size, expected.size)
  }
})
