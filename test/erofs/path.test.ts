import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ErofsImage, Inode } from '../../src/erofs/index.ts'
import { MAX_PATH_LENGTH, MAX_SYMLINKS, nidFrom } from '../../src/erofs/index.ts'
import { bytesOf, latin1, openFixture } from './fixtures.ts'
import { ImageBuilder, ROOT_NID, SYMLINK } from './image-builder.ts'

const FILE_NID = 170
const D = 150
const E = 160

/** /d/e/file, and links to try from every place. */
async function tree(links: Readonly<Record<string, string>> = {}): Promise<ErofsImage> {
  const builder = new ImageBuilder()
  const names = Object.keys(links)
  const all = [
    { name: 'd', nid: D, type: 2 },
    { name: 'file', nid: FILE_NID },
    ...names.map((name, index) => ({ name, nid: 200 + index * 10, type: 7 })),
  ].toSorted((a, b) => Buffer.compare(bytesOf(a.name), bytesOf(b.name)))
  builder.inode(FILE_NID, {}).root(all)
  for (const [index, name] of names.entries()) builder.symlink(200 + index * 10, links[name] ?? '')
  builder.directory(D, [
    { name: '.', nid: D, type: 2 },
    { name: '..', nid: ROOT_NID, type: 2 },
    { name: 'e', nid: E, type: 2 },
  ])
  // Its `..` leads nowhere: walks do not use it.
  builder.directory(E, [
    { name: '.', nid: E, type: 2 },
    { name: '..', nid: 7777, type: 2 },
    { name: 'f', nid: FILE_NID },
    { name: 'g', nid: 190, type: 7 },
  ])
  builder.symlink(190, '/d')
  return builder.open()
}

async function nidOf(image: ErofsImage, path: string, followLast = true): Promise<number> {
  const inode: Inode = await image.resolve(bytesOf(path), { followLast })
  return inode.nid
}

describe('paths', () => {
  test('slashes, dots, and the root above the root', async () => {
    const image = await tree()
    for (const path of [
      '',
      '/',
      '///',
      '.',
      '/..',
      '../..',
      'd/..',
      'd/e/../../../..',
      './d/./..',
    ]) {
      assert.equal(await nidOf(image, path), ROOT_NID, path)
    }
    for (const path of ['d/e/f', '/d/e/f', '//d///e//f', 'd/../d/e/../e/./f', '../file']) {
      assert.equal(await nidOf(image, path), FILE_NID, path)
    }
    assert.equal(await nidOf(image, 'd/e/'), E)
    assert.equal(await nidOf(image, 'd/e/.'), E)
  })

  test('what is not there', async () => {
    const image = await tree()
    for (const path of ['x', 'd/x', 'd/e/f2', 'D', 'd/e/\0', '...', 'n'.repeat(300)]) {
      await assert.rejects(nidOf(image, path), { code: 'ERR_EROFS_NOT_FOUND' }, path)
    }
    for (const path of ['file/', 'file/x', 'file/..', 'file/.', 'd/e/f/', 'd/e/f/..']) {
      await assert.rejects(nidOf(image, path), { code: 'ERR_EROFS_NOT_A_DIRECTORY' }, path)
    }
  })

  test('links: relative, absolute, to directories, out of the root', async () => {
    const image = await tree({
      abs: '/d/e/f',
      dir: 'd/e',
      nested: 'dir/f',
      out: '../../../d',
      rel: './d//e/f',
      slash: 'd/e/',
      toabs: 'abs',
      up: 'dir/..',
    })
    for (const path of ['abs', 'rel', 'dir/f', 'nested', 'out/e/f', 'slash/f', 'toabs', 'up/e/f']) {
      assert.equal(await nidOf(image, path), FILE_NID, path)
    }
    // `..` after a link means the parent of where it leads.
    assert.equal(await nidOf(image, 'dir/..'), D)
    assert.equal(await nidOf(image, 'up'), D)
    assert.equal(await nidOf(image, 'd/../slash'), E)
    // After an absolute link there is nothing above what it names.
    assert.equal(await nidOf(image, 'd/e/g'), D)
    assert.equal(await nidOf(image, 'd/e/g/../..'), ROOT_NID)
  })

  test('the last link is followed unless told not to, or when a slash follows', async () => {
    const image = await tree({ dir: 'd/e', file2: 'file', ll: 'dir' })
    assert.equal(await nidOf(image, 'dir', false), 200)
    assert.equal(await nidOf(image, 'd/../dir', false), 200)
    assert.equal(await nidOf(image, 'dir/', false), E)
    assert.equal(await nidOf(image, 'll/', false), E)
    assert.equal(await nidOf(image, 'dir/f', false), FILE_NID)
    await assert.rejects(nidOf(image, 'file2/', false), { code: 'ERR_EROFS_NOT_A_DIRECTORY' })
  })

  test('loops end', async () => {
    const image = await tree({ a: 'b', b: 'a', grow: 'grow/x', self: 'self' })
    for (const path of ['a', 'b/x', 'self', 'grow']) {
      await assert.rejects(nidOf(image, path), { code: 'ERR_EROFS_SYMLINK_LOOP' }, path)
    }
    assert.equal(await nidOf(image, 'self', false), 230)
    const { image: fixture } = await openFixture('plain')
    await assert.rejects(nidOf(fixture, 'links/loop-a'), { code: 'ERR_EROFS_SYMLINK_LOOP' })
    await assert.rejects(nidOf(fixture, 'links/dangling'), { code: 'ERR_EROFS_NOT_FOUND' })
    assert.ok((await fixture.resolve(bytesOf('links/escape'))).isFile)
  })

  test('40 links are followed, 41 are not', async () => {
    const chain = Object.fromEntries(
      Array.from({ length: MAX_SYMLINKS + 1 }, (_, index) => [
        `l${String(index).padStart(2, '0')}`,
        index === 0 ? 'file' : `l${String(index - 1).padStart(2, '0')}`,
      ]),
    )
    const image = await tree(chain)
    assert.equal(await nidOf(image, 'l39'), FILE_NID)
    await assert.rejects(nidOf(image, 'l40'), { code: 'ERR_EROFS_SYMLINK_LOOP' })
    // Followed one after the other they count together.
    await assert.rejects(nidOf(image, 'd/../l20/'), { code: 'ERR_EROFS_NOT_A_DIRECTORY' })
  })

  test('a path has a longest length', async () => {
    const image = await tree()
    assert.equal(await nidOf(image, '/'.repeat(MAX_PATH_LENGTH)), ROOT_NID)
    assert.equal(await nidOf(image, 'd/../'.repeat(6000)), ROOT_NID)
    await assert.rejects(nidOf(image, '/'.repeat(MAX_PATH_LENGTH + 1)), {
      code: 'ERR_EROFS_PATH_TOO_LONG',
    })
  })

  test('a directory that holds itself can be walked as deep as the path is', async () => {
    const image = await new ImageBuilder().root([{ name: 'me', nid: ROOT_NID, type: 2 }]).open()
    assert.equal(await nidOf(image, 'me/'.repeat(5000)), ROOT_NID)
  })
})

describe('symbolic links', () => {
  async function linkOf(size: number, target: string): Promise<Uint8Array> {
    const builder = new ImageBuilder().root().inode(200, { mode: SYMLINK, size, u: 5 })
    builder.put(5 * 4096, bytesOf(target))
    const image = await builder.open()
    return image.readLink(await image.readInode(nidFrom(200)))
  }

  test('1 to 4095 bytes', async () => {
    assert.equal(latin1(await linkOf(1, 'x')), 'x')
    assert.equal(latin1(await linkOf(4095, 'y'.repeat(4095))), 'y'.repeat(4095))
  })

  test('refused: empty, too long, with a NUL', async () => {
    const bad = { code: 'ERR_EROFS_BAD_SYMLINK' }
    await assert.rejects(linkOf(0, ''), bad)
    await assert.rejects(linkOf(4096, 'y'.repeat(4096)), bad)
    await assert.rejects(linkOf(2 ** 40, 'y'), bad)
    await assert.rejects(linkOf(3, 'a\0b'), bad)
  })

  test('refused: the target of a file', async () => {
    const image = await tree()
    await assert.rejects(image.readLink(await image.resolve(bytesOf('file'))), {
      code: 'ERR_EROFS_NOT_A_SYMLINK',
    })
  })
})
