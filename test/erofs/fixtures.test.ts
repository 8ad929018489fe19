/** Every entry of every fixture image against the list that Linux confirmed. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ErofsImage, Inode } from '../../src/erofs/index.ts'
import { walk } from '../../src/erofs/index.ts'
import type { Fixture, TreeEntry } from './fixtures.ts'
import {
  bytesOf,
  fixtureNames,
  gather,
  latin1,
  openFixture,
  randomNumbers,
  readTree,
  readWhole,
  sha256,
} from './fixtures.ts'

const TREE = readTree()
/** Compact inodes of these have times of their own, in whole seconds. */
const WHOLE_SECONDS = new Set(['b48', 'metabox'])
/** Directories are compressed, so no path but the root can be walked. */
const COMPRESSED_DIRECTORIES = new Set(['dirdata'])
const UNCOMPRESSED = new Set([
  'chunk-1m-blob',
  'chunk-4k',
  'chunk-64k-blob',
  'fingerprint',
  'metabox',
  'plain',
  'plain-512',
  'plain-noinline',
  'prefixes',
])
const RANGES_PER_FILE = process.env['COMMONPAGE_FULL'] === '1' ? 200 : 8

test('all 22 fixtures are here', () => {
  assert.equal(fixtureNames().length, 22)
  assert.equal(TREE.length, 274)
})

for (const name of fixtureNames()) {
  describe(`fixture ${name}`, () => {
    if (COMPRESSED_DIRECTORIES.has(name)) {
      test('the root has its attributes, its entries are not supported yet', async () => {
        const { image } = await openFixture(name)
        const root = await image.root()
        const entry = TREE.find(({ path }) => path === '/')
        assert.ok(entry)
        checkStat(name, root, entry)
        await assert.rejects(image.lookup(root, bytesOf('big')), {
          code: 'ERR_EROFS_COMPRESSED_UNSUPPORTED',
        })
      })
      return
    }

    test('every entry has its attributes, target and xattrs', async () => {
      const { image } = await openFixture(name)
      for (const entry of TREE) {
        const inode = await image.resolve(bytesOf(entry.path), { followLast: false })
        checkStat(name, inode, entry)
        await checkXattrs(image, inode, entry)
        if (entry.target === undefined) continue
        assert.equal(latin1(await image.readLink(inode)), entry.target, entry.path)
      }
    })

    test('every file has its bytes, whole and by ranges', async () => {
      const { image, fixture } = await openFixture(name)
      let compressed = 0
      for (const entry of TREE.filter(({ sha256: digest }) => digest !== undefined)) {
        const inode = await image.resolve(bytesOf(entry.path))
        if (inode.isCompressed) {
          compressed++
          await assert.rejects(image.mapFile(inode, 0, 1), {
            code: 'ERR_EROFS_COMPRESSED_UNSUPPORTED',
          })
        } else {
          await checkData(image, fixture, inode, entry)
        }
      }
      assert.equal(compressed === 0, UNCOMPRESSED.has(name), `${compressed} compressed files`)
    })

    test('the walk gives the same tree, hard links once', async () => {
      const { image } = await openFixture(name)
      const paths = new Map<number, string>()
      const found: string[] = []
      for await (const { inode, parent, name: last } of walk(image)) {
        const above = parent === undefined ? '' : (paths.get(parent) ?? assert.fail('no parent'))
        const path = parent === undefined ? '' : `${above}/${latin1(last)}`
        paths.set(inode.nid, path)
        found.push(path === '' ? '/' : path)
      }
      const nids = new Set<number>()
      for (const { path } of TREE) {
        nids.add((await image.resolve(bytesOf(path), { followLast: false })).nid)
      }
      assert.ok(nids.size < TREE.length, 'the tree has hard links')
      assert.deepEqual(new Set(paths.keys()), nids)
      assert.equal(found.length, nids.size)
      const known = new Set(TREE.map(({ path }) => path))
      assert.deepEqual(
        found.filter((path) => !known.has(path)),
        [],
      )
    })

    test('every directory lists what the tree has, and pages of any size join up', async () => {
      const { image } = await openFixture(name)
      for (const { path } of TREE.filter(({ mode }) => mode.startsWith('0o4'))) {
        const directory = await image.resolve(bytesOf(path))
        const whole = await namesOf(image, directory, undefined, Infinity)
        assert.deepEqual(whole, childrenOf(path))
        for (const pageSize of whole.length > 20 ? [1, 7] : [1]) {
          assert.deepEqual(await pagedNames(image, directory, pageSize), whole)
        }
      }
    })
  })
}

function checkStat(fixture: string, inode: Inode, entry: TreeEntry): void {
  const nanoseconds = BigInt(inode.mtimeSeconds) * 1_000_000_000n + BigInt(inode.mtimeNanoseconds)
  const stored = BigInt(entry.mtime_ns)
  const isRounded = inode.headerSize === 32 && WHOLE_SECONDS.has(fixture)
  const expected = isRounded ? stored - (stored % 1_000_000_000n) : stored
  assert.deepEqual(
    {
      mode: `0o${inode.mode.toString(8)}`,
      uid: inode.uid,
      gid: inode.gid,
      mtime: nanoseconds,
      nlink: entry.nlink === undefined ? undefined : inode.nlink,
      size: entry.size === undefined ? undefined : inode.size,
      rdev: inode.rdev === undefined ? undefined : [inode.rdev.major, inode.rdev.minor],
    },
    {
      mode: entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      mtime: expected,
      nlink: entry.nlink,
      size: entry.size,
      rdev: entry.rdev,
    },
    entry.path,
  )
}

async function checkXattrs(image: ErofsImage, inode: Inode, entry: TreeEntry): Promise<void> {
  const found: Record<string, string> = {}
  for (const { name, value } of await image.xattrs(inode)) {
    found[latin1(name)] = Buffer.from(value).toString('hex')
  }
  const fingerprint = await image.fingerprint(inode)
  const expected: Record<string, string> = { ...entry.xattrs }
  if (image.superblock.fingerprintPrefixId !== undefined && (entry.size ?? 0) > 0) {
    const value = Buffer.from(`sha256:`).toString('hex') + entry.sha256
    expected['trusted.erofs.fingerprint'] = value
    assert.equal(Buffer.from(fingerprint ?? []).toString('hex'), value)
  } else {
    assert.equal(fingerprint, undefined)
  }
  assert.deepEqual(found, expected, entry.path)
}

async function checkData(
  image: ErofsImage,
  fixture: Fixture,
  inode: Inode,
  entry: TreeEntry,
): Promise<void> {
  const whole = await readWhole(image, fixture.devices, inode)
  assert.equal(sha256(whole), entry.sha256, entry.path)
  const random = randomNumbers(inode.nid)
  for (let round = 0; round < RANGES_PER_FILE; round++) {
    const offset = random(inode.size + 2)
    const length = random(round % 2 === 0 ? 100 : inode.size + 5000)
    const extents = await image.mapFile(inode, offset, length)
    const expected = whole.subarray(offset, offset + length)
    assert.equal(Buffer.compare(gather(fixture.devices, extents), expected), 0, entry.path)
  }
}

async function namesOf(
  image: ErofsImage,
  directory: Inode,
  after: Uint8Array | undefined,
  limit: number,
): Promise<string[]> {
  const names: string[] = []
  const options = after === undefined ? { limit } : { after, limit }
  for await (const { name } of image.readDirectory(directory, options)) names.push(latin1(name))
  return names
}

async function pagedNames(
  image: ErofsImage,
  directory: Inode,
  pageSize: number,
): Promise<string[]> {
  const names: string[] = []
  for (;;) {
    const last = names.at(-1)
    const after = last === undefined ? undefined : bytesOf(last)
    const page = await namesOf(image, directory, after, pageSize)
    if (page.length === 0) return names
    names.push(...page)
  }
}

function childrenOf(directory: string): string[] {
  const prefix = directory === '/' ? '/' : `${directory}/`
  return TREE.filter(({ path }) => path !== '/' && path.startsWith(prefix))
    .map(({ path }) => path.slice(prefix.length))
    .filter((rest) => !rest.includes('/'))
    .toSorted((a, b) => Buffer.compare(bytesOf(a), bytesOf(b)))
}
