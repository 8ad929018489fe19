/** The reader and the Linux kernel look at the same images and must see the same. */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, Inode } from '../../src/erofs/index.ts'
import { isMetaboxNid, openErofs } from '../../src/erofs/index.ts'
import { missing } from '../requires.ts'
import { loadFixture, randomNumbers, readWhole } from './fixtures.ts'
import {
  DIRECTORY,
  directoryBlock,
  ImageBuilder,
  NO_BLOCK,
  ROOT_NID,
  u32le,
} from './image-builder.ts'
import { mountBytes, mountFiles, run, temporaryFolder } from './kernel-mount.ts'
import { tinyBlob, tinyImage } from './tiny-image.ts'

const skip = missing('root', 'erofs', 'loop', 'losetup')
const skipMkfs = missing('mkfs.erofs', 'root', 'erofs', 'loop', 'losetup')
const skipXattrs = missing('mkfs.erofs', 'root', 'erofs', 'loop', 'losetup', 'setfattr', 'getfattr')
const SLASH = Buffer.from('/')
const FILES_IN_ONE_DIRECTORY = process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 400

/** Names that makeTree makes besides, hard links counted by name, and the root. */
const OTHER_INODES = 57

/** Compares everything below a mounted directory with the image; returns how many inodes it saw. */
async function compareTree(
  image: ErofsImage,
  devices: readonly Uint8Array[],
  inode: Inode,
  path: Buffer,
): Promise<number> {
  compareStat(inode, path)
  if (inode.isFile) {
    const bytes = await readWhole(image, devices, inode)
    assert.equal(Buffer.compare(bytes, readFileSync(path)), 0, `content of ${path.toString()}`)
  } else if (inode.isSymlink) {
    const target = readlinkSync(path, { encoding: 'buffer' })
    assert.equal(Buffer.compare(await image.readLink(inode), target), 0, path.toString())
  }
  if (!inode.isDirectory) return 1
  const names = readdirSync(path, { encoding: 'buffer' }).toSorted((a, b) => Buffer.compare(a, b))
  const listed: Uint8Array[] = []
  let seen = 1
  for await (const entry of image.readDirectory(inode)) {
    listed.push(entry.name)
    const found = await image.lookup(inode, entry.name)
    assert.equal(found?.nid, entry.nid)
    const child = await image.readInode(entry.nid)
    seen += await compareTree(image, devices, child, Buffer.concat([path, SLASH, entry.name]))
  }
  assert.deepEqual(
    listed.map((name) => Buffer.from(name).toString('hex')),
    names.map((name) => name.toString('hex')),
  )
  return seen
}

function compareStat(inode: Inode, path: Buffer): void {
  const stat = lstatSync(path, { bigint: true })
  const time = BigInt(inode.mtimeSeconds) * 1_000_000_000n + BigInt(inode.mtimeNanoseconds)
  const { major, minor } = inode.rdev ?? { major: 0, minor: 0 }
  // sysmacros.h: gnu_dev_makedev.
  const rdev = (BigInt(minor) & 0xffn) | (BigInt(major) << 8n) | ((BigInt(minor) & ~0xffn) << 12n)
  assert.deepEqual(
    [inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, time, rdev],
    [
      Number(stat.mode),
      Number(stat.uid),
      Number(stat.gid),
      Number(stat.nlink),
      Number(stat.size),
      stat.mtimeNs,
      stat.rdev,
    ],
    path.toString(),
  )
  if (!isMetaboxNid(inode.nid)) assert.equal(BigInt(inode.nid), stat.ino, path.toString())
}

async function compareImage(devices: readonly Uint8Array[], folder: string): Promise<number> {
  const [primary] = devices
  assert.ok(primary !== undefined)
  const image = await openErofs(memorySource(primary), { deviceCount: devices.length })
  return compareTree(image, devices, await image.root(), Buffer.from(folder))
}

describe('images built by mkfs.erofs', { skip: skipMkfs }, () => {
  const kinds: readonly [string, readonly string[], boolean][] = [
    ['inline tails', [], false],
    ['no inline tails', ['-Enoinline_data'], false],
    ['compact inodes', ['-Eforce-inode-compact', '-T1700000000'], false],
    ['chunks of 4 KiB', ['--chunksize=4096'], false],
    ['chunks of 64 KiB as indexes', ['--chunksize=65536', '-Eforce-chunk-indexes'], false],
    ['chunks on a second device', ['--chunksize=16384'], true],
  ]
  for (const [name, options, hasBlob] of kinds) {
    test(name, async () => {
      using temporary = temporaryFolder()
      const tree = join(temporary.folder, 'tree')
      makeTree(tree)
      const primary = join(temporary.folder, 'primary')
      const blob = join(temporary.folder, 'blob')
      const blobOption = hasBlob ? [`--blobdev=${blob}`] : []
      run('mkfs.erofs', ['--quiet', '-d0', ...options, ...blobOption, primary, tree])
      const files = hasBlob ? [primary, blob] : [primary]
      using mounted = mountFiles(files)
      const seen = await compareImage(
        files.map((file) => readFileSync(file)),
        mounted.folder,
      )
      assert.equal(seen, FILES_IN_ONE_DIRECTORY + OTHER_INODES)
    })
  }
})

test('xattrs of an image by mkfs.erofs, shared and inline', { skip: skipXattrs }, async () => {
  using temporary = temporaryFolder()
  const tree = join(temporary.folder, 'tree')
  mkdirSync(tree)
  for (let index = 0; index < 40; index++) {
    const file = join(tree, `file${index}`)
    writeFileSync(file, 'x'.repeat(index * 300))
    // The same on all: mkfs moves it into the shared area. The others stay with their inode.
    run('setfattr', ['-n', 'user.shared', '-v', 'the same everywhere', file])
    run('setfattr', ['-n', `trusted.own${index}`, '-v', 'v'.repeat(index * 50), file])
  }
  const primary = join(temporary.folder, 'primary')
  run('mkfs.erofs', ['--quiet', '-d0', primary, tree])
  using mounted = mountFiles([primary])
  const image = await openErofs(memorySource(readFileSync(primary)))
  assert.ok(readdirSync(mounted.folder).length === 40)
  for await (const { name, nid } of image.readDirectory(await image.root())) {
    const path = join(mounted.folder, Buffer.from(name).toString())
    const dump = run('getfattr', ['-d', '-m', '-', '-e', 'hex', '--absolute-names', path])
    const expected = dump.split('\n').filter((line) => line.includes('='))
    const found = (await image.xattrs(await image.readInode(nid))).map((xattr) => {
      const value = Buffer.from(xattr.value).toString('hex')
      return `${Buffer.from(xattr.name).toString()}=0x${value}`
    })
    assert.deepEqual(found.toSorted(), expected.toSorted())
    assert.equal(found.length, 2)
  }
})

/** FILES_IN_ONE_DIRECTORY files in one directory, OTHER_INODES besides, everything from one seed. */
function makeTree(folder: string): void {
  const random = randomNumbers(2024)
  mkdirSync(join(folder, 'many'), { recursive: true })
  for (let index = 0; index < FILES_IN_ONE_DIRECTORY; index++) {
    writeFileSync(join(folder, 'many', `entry-${index.toString(36)}`), `content ${index}\n`)
  }
  mkdirSync(join(folder, 'sizes'))
  const borders = [0, 1, 511, 512, 4095, 4096, 4097, 8191, 8192, 65_535, 65_536, 65_537, 200_000]
  for (const size of borders) {
    const bytes = Uint8Array.from({ length: size }, () => random(256))
    writeFileSync(join(folder, 'sizes', String(size)), bytes)
    writeFileSync(join(folder, 'sizes', `${size}-again`), bytes)
    utimesSync(join(folder, 'sizes', String(size)), 1_600_000_000.5, 1_500_000_000 + size)
  }
  writeFileSync(join(folder, 'sparse'), 'start')
  truncateSync(join(folder, 'sparse'), 300_000)
  linkSync(join(folder, 'sparse'), join(folder, 'sparse-link'))
  symlinkSync('sizes/4096', join(folder, 'link'))
  symlinkSync('t'.repeat(4000), join(folder, 'long-link'))
  symlinkSync('/', join(folder, 'root-link'))
  writeFileSync(
    Buffer.concat([Buffer.from(`${folder}/`), Buffer.from([0xff, 0x80, 0x01])]),
    'bytes',
  )
  // mkfs.erofs 1.5 stops at names of 255 bytes; fixtures have them.
  writeFileSync(join(folder, 'n'.repeat(254)), 'long name')
  writeFileSync(join(folder, '!before the dot'), 'first')
  run('mkfifo', [join(folder, 'fifo')])
  run('mknod', [join(folder, 'device'), 'b', '259', '70000'])
  let deep = folder
  for (let level = 0; level < 18; level++) {
    deep = join(deep, `level-${level}`)
    mkdirSync(deep)
  }
}

describe('images put together by hand', { skip }, () => {
  for (const blockBits of [9, 10, 11, 12]) {
    test(`blocks of ${2 ** blockBits} bytes`, async () => {
      using temporary = temporaryFolder()
      const { bytes } = handMade(blockBits)
      using mounted = mountBytes([bytes], temporary.folder)
      assert.equal(await compareImage([bytes], mounted.folder), 404)
    })
  }

  test('the written-down image with its blob', async () => {
    using temporary = temporaryFolder()
    const devices = [tinyImage(), tinyBlob()]
    using mounted = mountBytes(devices, temporary.folder)
    assert.equal(await compareImage(devices, mounted.folder), 6)
  })

  for (const name of ['plain-512', 'metabox', 'chunk-64k-blob', 'fingerprint']) {
    test(`fixture ${name}`, async () => {
      using temporary = temporaryFolder()
      const { devices } = loadFixture(name)
      using mounted = mountBytes(devices, temporary.folder)
      assert.equal(await compareImage(devices, mounted.folder), 274)
    })
  }
})

/** 400 inline files, compact and extended in turn, a chunk-based one, a plain one, one without blocks. */
function handMade(blockBits: number): ImageBuilder {
  const blockSize = 2 ** blockBits
  const builder = new ImageBuilder({ blockBits, blocks: (256 * 1024) / blockSize })
  const names = Array.from({ length: 400 }, (_, index) => `f${String(index).padStart(3, '0')}`)
  for (const [index, name] of names.entries()) {
    const compact = index % 2 === 0
    const body = Buffer.from(`this is ${name}`)
    const spec = { layout: 2, size: body.byteLength, body, uid: index, gid: 7, mtime: 0 }
    // 128 bytes apart, so that no tail crosses a block of 512.
    builder.inodeAt(4096 + index * 128, compact ? { ...spec, compact, nb: 1 } : spec)
  }
  const dataBlock = (192 * 1024) / blockSize
  builder.put(
    192 * 1024,
    Uint8Array.from({ length: 16_384 }, (_, index) => index % 251),
  )
  const chunks = u32le(0, dataBlock + 2, 0, NO_BLOCK, 0, dataBlock)
  builder.inode(2000, { layout: 4, size: blockSize * 3 - 5, u: 0x20, body: chunks })
  builder.inode(2016, { size: blockSize * 2 + 1, u: dataBlock + 1 })
  builder.inode(2032, { size: 0, u: NO_BLOCK })
  const entries = [
    { name: '.', nid: ROOT_NID, type: 2 },
    { name: '..', nid: ROOT_NID, type: 2 },
    { name: 'chunks', nid: 2000 },
    { name: 'empty', nid: 2032 },
    ...names.map((name, index) => ({ name, nid: 128 + index * 4 })),
    { name: 'plain', nid: 2016 },
  ]
  const perBlock = Math.floor(blockSize / (12 + 6))
  let size = 0
  for (let start = 0; start < entries.length; start += perBlock) {
    const some = entries.slice(start, start + perBlock)
    const isLast = start + perBlock >= entries.length
    const block = directoryBlock(some, isLast ? undefined : blockSize)
    builder.put(128 * 1024 + size, block)
    size += block.byteLength
  }
  builder.inode(ROOT_NID, { mode: DIRECTORY, size, nlink: 2, u: (128 * 1024) / blockSize })
  return builder.checksum()
}
