import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, Inode } from '../../src/erofs/index.ts'
import { nidFrom, openErofs } from '../../src/erofs/index.ts'
import { DirectoryBlock } from '../../src/erofs/directory-block.ts'
import { DIRENT, DIRENT_SIZE } from '../../src/erofs/layout.ts'
import { bytesOf, CountingSource, latin1 } from './fixtures.ts'
import type { EntrySpec } from './image-builder.ts'
import { DIRECTORY, directoryBlock, ImageBuilder, ROOT_NID } from './image-builder.ts'

const DIR_NID = 96
const FIRST_BLOCK = 4
const BS = 4096

/** An image whose directory 96 has these blocks, the last one cut after its last name. */
function withBlocks(blocks: readonly (readonly EntrySpec[])[]): ImageBuilder {
  const builder = new ImageBuilder({ blocks: FIRST_BLOCK + blocks.length }).root()
  let size = 0
  for (const [index, entries] of blocks.entries()) {
    const isLast = index === blocks.length - 1
    const bytes = directoryBlock(entries, isLast ? undefined : BS)
    builder.put((FIRST_BLOCK + index) * BS, bytes)
    size += bytes.byteLength
  }
  return builder.inode(DIR_NID, { mode: DIRECTORY, size, u: FIRST_BLOCK })
}

async function directoryOf(builder: ImageBuilder): Promise<{ image: ErofsImage; inode: Inode }> {
  const image = await builder.open()
  return { image, inode: await image.readInode(nidFrom(DIR_NID)) }
}

async function list(builder: ImageBuilder, after?: string, limit?: number): Promise<string[]> {
  const { image, inode } = await directoryOf(builder)
  const names: string[] = []
  for await (const { name } of image.readDirectory(inode, {
    ...(after === undefined ? {} : { after: bytesOf(after) }),
    ...(limit === undefined ? {} : { limit }),
  })) {
    names.push(latin1(name))
  }
  return names
}

const DOTS: readonly EntrySpec[] = [
  { name: '.', nid: DIR_NID, type: 2 },
  { name: '..', nid: ROOT_NID, type: 2 },
]

/** 3000 names in byte order over 16 blocks, with the dots where they sort. */
const MANY = Array.from({ length: 3000 }, (_, index) => `name-${String(index).padStart(4, '0')}`)
function manyBlocks(): ImageBuilder {
  const all: EntrySpec[] = [
    { name: '!first', nid: 70 },
    { name: '-second', nid: 71 },
    ...DOTS,
    ...MANY.map((name, index) => ({ name, nid: 1000 + index })),
  ]
  const blocks: EntrySpec[][] = []
  for (let start = 0; start < all.length; start += 190) blocks.push(all.slice(start, start + 190))
  return withBlocks(blocks)
}

describe('directories', () => {
  test('every name of many blocks is found, no other is', async () => {
    const { image, inode } = await directoryOf(manyBlocks())
    for (const [index, name] of MANY.entries()) {
      assert.equal((await image.lookup(inode, bytesOf(name)))?.nid, 1000 + index)
      assert.equal(await image.lookup(inode, bytesOf(`${name}x`)), undefined)
    }
    const lookups = ['', '!', '!firs', '!first0', '-', 'a', 'name-', 'name-3000', 'z', '\xff']
    for (const name of lookups) {
      assert.equal(await image.lookup(inode, bytesOf(name)), undefined, name)
    }
    assert.equal((await image.lookup(inode, bytesOf('!first')))?.nid, 70)
    assert.equal((await image.lookup(inode, bytesOf('.')))?.nid, DIR_NID)
    assert.equal((await image.lookup(inode, bytesOf('..')))?.nid, ROOT_NID)
    assert.equal(await image.lookup(inode, bytesOf('n'.repeat(256))), undefined)
  })

  test('a lookup reads log2 of the blocks', async () => {
    const source = new CountingSource(memorySource(manyBlocks().bytes))
    const image = await openErofs(source)
    const inode = await image.readInode(nidFrom(DIR_NID))
    for (const name of ['!', MANY[0] ?? '', MANY[1500] ?? '', MANY[2999] ?? '', 'zzz']) {
      const before = source.reads
      await image.lookup(inode, bytesOf(name))
      assert.ok(source.reads - before <= 5, `${source.reads - before} reads for ${name}`)
    }
  })

  test('lists in byte order, without the dots', async () => {
    const names = await list(manyBlocks())
    assert.deepEqual(names, ['!first', '-second', ...MANY])
  })

  test('goes on after any name, whether it is there or not', async () => {
    const builder = manyBlocks()
    assert.deepEqual(await list(builder, 'name-1499', 3), ['name-1500', 'name-1501', 'name-1502'])
    assert.deepEqual(await list(builder, 'name-1499!', 1), ['name-1500'])
    assert.deepEqual(await list(builder, 'name-2999'), [])
    assert.deepEqual(await list(builder, '', 1), ['!first'])
    assert.deepEqual(await list(builder, '!first', 2), ['-second', 'name-0000'])
    assert.deepEqual(await list(builder, '.', 1), ['name-0000'])
    assert.deepEqual(await list(builder, undefined, 0), [])
  })

  test('a page reads no more than its blocks and the search', async () => {
    const source = new CountingSource(memorySource(manyBlocks().bytes))
    const image = await openErofs(source)
    const inode = await image.readInode(nidFrom(DIR_NID))
    const before = source.reads
    let count = 0
    const options = { after: bytesOf('name-2000'), limit: 10 }
    for await (const { nid } of image.readDirectory(inode, options)) {
      assert.equal(nid, 1000 + 2001 + count)
      count++
    }
    assert.equal(count, 10)
    assert.ok(source.reads - before <= 7, `${source.reads - before} reads`)
  })

  test('names of any bytes but NUL and slash, of any length to 255', async () => {
    const bytes = Array.from({ length: 255 }, (_, index) => index + 1).filter((b) => b !== 0x2f)
    const names = [
      ...bytes.filter((byte) => byte !== 0x2e).map((byte) => Buffer.from([byte])),
      Buffer.alloc(255, 0xff),
    ]
    const entries = names.map((name, index) => ({ name, nid: 500 + index }))
    const builder = withBlocks([entries])
    const { image, inode } = await directoryOf(builder)
    for (const [index, name] of names.entries()) {
      assert.equal((await image.lookup(inode, name))?.nid, 500 + index)
    }
    assert.deepEqual(await list(builder), names.map(latin1))
  })

  test('types, unknown ones included', async () => {
    const entries = Array.from({ length: 9 }, (_, type) => ({ name: `t${type}`, nid: 1, type }))
    const { image, inode } = await directoryOf(withBlocks([entries]))
    const types: string[] = []
    for await (const { type } of image.readDirectory(inode)) types.push(type)
    const expected =
      'unknown file directory character-device block-device fifo socket symlink unknown'
    assert.deepEqual(types, expected.split(' '))
  })

  test('a directory that leaves out its own entry', async () => {
    const builder = withBlocks([[{ name: '..', nid: ROOT_NID }]])
    builder.inode(DIR_NID, { mode: DIRECTORY, size: 14, u: FIRST_BLOCK, formatBits: 0x10 })
    const { image, inode } = await directoryOf(builder)
    assert.equal((await image.lookup(inode, bytesOf('.')))?.nid, DIR_NID)
    assert.equal((await image.lookup(inode, bytesOf('..')))?.nid, ROOT_NID)
    assert.deepEqual(await list(builder), [])
  })

  test('no bytes: no entries', async () => {
    const builder = new ImageBuilder().root().inode(DIR_NID, { mode: DIRECTORY, size: 0 })
    const { image, inode } = await directoryOf(builder)
    assert.deepEqual(await list(builder), [])
    assert.equal(await image.lookup(inode, bytesOf('a')), undefined)
  })

  test('a file is not a directory', async () => {
    const image = await new ImageBuilder().root().inode(DIR_NID, {}).open()
    const inode = await image.readInode(nidFrom(DIR_NID))
    await assert.rejects(image.lookup(inode, bytesOf('a')), { code: 'ERR_EROFS_NOT_A_DIRECTORY' })
    assert.throws(() => image.readDirectory(inode), { code: 'ERR_EROFS_NOT_A_DIRECTORY' })
  })
})

describe('directories that are refused: ERR_EROFS_BAD_DIRECTORY', () => {
  const entries: readonly EntrySpec[] = [...DOTS, { name: 'aa', nid: 5 }, { name: 'bb', nid: 6 }]
  const nameoff = (index: number): number => FIRST_BLOCK * BS + index * DIRENT_SIZE + DIRENT.nameoff

  const damages: readonly [string, (builder: ImageBuilder) => unknown][] = [
    ['first nameoff 0', (b) => b.view.setUint16(nameoff(0), 0, true)],
    ['first nameoff no multiple of 12', (b) => b.view.setUint16(nameoff(0), 47, true)],
    ['first nameoff beyond the block', (b) => b.view.setUint16(nameoff(0), 4104, true)],
    ['first nameoff beyond the used bytes', (b) => b.view.setUint16(nameoff(0), 60, true)],
    ['a name inside the entries', (b) => b.view.setUint16(nameoff(1), 20, true)],
    ['names that go backwards', (b) => b.view.setUint16(nameoff(2), 48, true)],
    ['a name beyond the block', (b) => b.view.setUint16(nameoff(3), 0xfff0, true)],
    ['an empty name', (b) => b.view.setUint16(nameoff(3), 51, true)],
    ['an empty last name', (b) => b.put(FIRST_BLOCK * BS + 48 + 5, new Uint8Array(2))],
    ['a slash in a name', (b) => b.put(FIRST_BLOCK * BS + 48 + 3, Buffer.from('/'))],
    ['a NUL in a name', (b) => b.put(FIRST_BLOCK * BS + 48 + 4, new Uint8Array(1))],
    ['names out of order', (b) => b.put(FIRST_BLOCK * BS + 48 + 3, Buffer.from('cc'))],
    ['the same name twice', (b) => b.put(FIRST_BLOCK * BS + 48 + 3, Buffer.from('bb'))],
    ['a rest too short for an entry', (b) => b.inode(DIR_NID, { mode: DIRECTORY, size: 11, u: 4 })],
  ]
  for (const [name, damage] of damages) {
    test(name, async () => {
      const builder = withBlocks([entries])
      assert.deepEqual(await list(builder), ['aa', 'bb'])
      damage(builder)
      await assert.rejects(list(builder), { code: 'ERR_EROFS_BAD_DIRECTORY' })
    })
  }

  test('a name that runs over the end of the block, though nobody asks for the next one', () => {
    const bytes = directoryBlock(entries)
    new DataView(bytes.buffer).setUint16(3 * DIRENT_SIZE + DIRENT.nameoff, 0xfff0, true)
    const block = new DirectoryBlock(bytes, 'a block')
    assert.equal(latin1(block.nameAt(1)), '..')
    assert.throws(() => block.nameAt(2), { code: 'ERR_EROFS_BAD_DIRECTORY' })
  })

  test('a name of 256 bytes', async () => {
    const most = withBlocks([[...DOTS, { name: 'n'.repeat(255), nid: 5 }]])
    assert.equal((await list(most)).length, 1)
    const builder = withBlocks([[...DOTS, { name: 'n'.repeat(256), nid: 5 }]])
    await assert.rejects(list(builder), { code: 'ERR_EROFS_BAD_DIRECTORY' })
  })

  test('blocks out of order, the same block again, a block of zeros', async () => {
    const second = [{ name: 'zz', nid: 7 }]
    assert.deepEqual(await list(withBlocks([entries, second])), ['aa', 'bb', 'zz'])
    for (const blocks of [
      [second, entries],
      [entries, entries],
    ]) {
      await assert.rejects(list(withBlocks(blocks)), { code: 'ERR_EROFS_BAD_DIRECTORY' })
    }
    const zeros = withBlocks([entries, second])
    zeros.put((FIRST_BLOCK + 1) * BS, new Uint8Array(64))
    await assert.rejects(list(zeros), { code: 'ERR_EROFS_BAD_DIRECTORY' })
  })

  test('a directory of holes ends at its first block, however large it says it is', async () => {
    const builder = new ImageBuilder().root().inode(DIR_NID, { mode: DIRECTORY, size: 2 ** 50 })
    const { image, inode } = await directoryOf(builder)
    await assert.rejects(list(builder), { code: 'ERR_EROFS_BAD_DIRECTORY' })
    await assert.rejects(image.lookup(inode, bytesOf('a')), { code: 'ERR_EROFS_BAD_DIRECTORY' })
  })

  test('an inode number that no device can have', async () => {
    const builder = withBlocks([entries])
    builder.view.setUint32(FIRST_BLOCK * BS + 2 * DIRENT_SIZE + 4, 0x7fffffff, true)
    await assert.rejects(list(builder), { code: 'ERR_EROFS_BAD_NID' })
  })
})
