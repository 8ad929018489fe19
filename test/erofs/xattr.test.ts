import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ErofsImage, Inode, Xattr } from '../../src/erofs/index.ts'
import { nidFrom } from '../../src/erofs/index.ts'
import { SB, SB_EXT } from '../../src/erofs/layout.ts'
import { bytesOf, latin1, openFixture, sha256 } from './fixtures.ts'
import type { InodeSpec } from './image-builder.ts'
import { ImageBuilder, NO_BLOCK, u32le } from './image-builder.ts'

const NID = 96
const BS = 4096

function entry(index: number, name: string, value: string, valueSize = value.length): Uint8Array {
  const size = 4 + name.length + value.length
  const bytes = new Uint8Array(Math.ceil(size / 4) * 4)
  bytes.set([name.length, index, valueSize & 0xff, valueSize >> 8])
  bytes.set(bytesOf(name), 4)
  bytes.set(bytesOf(value), 4 + name.length)
  return bytes
}

/** The area after an inode; the count that goes with it is its size. */
function area(sharedIds: readonly number[], ...entries: readonly Uint8Array[]): Uint8Array {
  const header = new Uint8Array(12)
  header[4] = sharedIds.length
  return Buffer.concat([header, u32le(...sharedIds), ...entries])
}

function withArea(body: Uint8Array): InodeSpec {
  return { xattrIcount: (body.byteLength - 12) / 4 + 1, body }
}

async function open(
  spec: InodeSpec,
  prepare?: (b: ImageBuilder) => unknown,
): Promise<{ image: ErofsImage; inode: Inode }> {
  const builder = new ImageBuilder({ blocks: 40 }).root().inode(NID, spec)
  prepare?.(builder)
  const image = await builder.open()
  return { image, inode: await image.readInode(nidFrom(NID)) }
}

function shown(xattrs: readonly Xattr[]): [string, string][] {
  return xattrs.map(({ name, value }) => [latin1(name), latin1(value)])
}

async function read(
  spec: InodeSpec,
  prepare?: (b: ImageBuilder) => unknown,
): Promise<[string, string][]> {
  const { image, inode } = await open(spec, prepare)
  return shown(await image.xattrs(inode, { hidden: true }))
}

const A = entry(1, 'a', 'value')

describe('xattrs', () => {
  test('none, and a header alone', async () => {
    assert.deepEqual(await read({}), [])
    assert.deepEqual(await read(withArea(area([]))), [])
  })

  test('every prefix; what the kernel does not list is hidden', async () => {
    const indexes = [0, 1, 2, 3, 4, 5, 6, 9]
    const entries = indexes.map((index) => entry(index, index === 2 || index === 3 ? '' : 'n', 'v'))
    const { image, inode } = await open(withArea(area([], ...entries)))
    const all = await image.xattrs(inode, { hidden: true })
    assert.deepEqual(
      all.map(({ name, hidden }) => [latin1(name), hidden]),
      [
        ['n', true],
        ['user.n', false],
        ['system.posix_acl_access', false],
        ['system.posix_acl_default', false],
        ['trusted.n', false],
        ['lustre.n', true],
        ['security.n', false],
        ['n', true],
      ],
    )
    const listed = await image.xattrs(inode)
    assert.deepEqual(
      listed,
      all.filter(({ hidden }) => !hidden),
    )
  })

  test('values of any bytes, empty ones, names and values of the largest size', async () => {
    const body = area(
      [],
      entry(1, 'empty', ''),
      entry(4, 'n'.repeat(255), '\xff'.repeat(65_535)),
      entry(1, 'nul', '\0\0'),
    )
    assert.deepEqual(await read(withArea(body)), [
      ['user.empty', ''],
      [`trusted.${'n'.repeat(255)}`, '\xff'.repeat(65_535)],
      ['user.nul', '\0\0'],
    ])
  })

  test('padding entries are no attributes', async () => {
    assert.deepEqual(await read(withArea(area([], A, new Uint8Array(8)))), [['user.a', 'value']])
  })

  test('shared entries, small and larger than a first guess', async () => {
    const large = 'L'.repeat(3000)
    const prepare = (b: ImageBuilder): unknown =>
      b
        .u32(SB.xattr_blkaddr, 10)
        .put(10 * BS + 4 * 5, entry(1, 'small', 's'))
        .put(10 * BS + 4 * 100, entry(4, 'large', large))
        .put(40 * BS - 8, entry(1, 'end', ''))
    const body = area([5, 100, (30 * BS - 8) / 4], A)
    assert.deepEqual(await read(withArea(body), prepare), [
      ['user.a', 'value'],
      ['user.small', 's'],
      ['trusted.large', large],
      ['user.end', ''],
    ])
  })

  test('shared entries in the metabox', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      b
        .features(0x8, 0x180)
        .u8(SB.sb_extslots, 1)
        .u64(SB_EXT.metabox_nid, 300n)
        .inode(300, { size: BS, u: 20 })
        .put(20 * BS + 4 * 3, entry(1, 'boxed', 'yes'))
    assert.deepEqual(await read(withArea(area([3])), prepare), [['user.boxed', 'yes']])
    await assert.rejects(read(withArea(area([1024])), prepare), { code: 'ERR_EROFS_BAD_XATTR' })
  })
})

describe('long prefixes', () => {
  // base 4 + "overlay.", base 1 + "", base 0 + "erofs.fp"
  const TABLE = Buffer.concat([
    Buffer.from([9, 0, 4]),
    Buffer.from('overlay.\0'),
    Buffer.from([1, 0, 1, 0]),
    Buffer.from([9, 0, 0]),
    Buffer.from('erofs.fp\0'),
  ])
  const body = area(
    [],
    entry(0x80, 'redirect', 'r'),
    entry(0x81, 'x', 'y'),
    entry(0x82, '', 'digest'),
  )
  const expected = [
    ['trusted.overlay.redirect', 'r'],
    ['user.x', 'y'],
    ['erofs.fp', 'digest'],
  ]
  const table = (b: ImageBuilder, offset: number): ImageBuilder =>
    b.u8(SB.xattr_prefix_count, 3).u32(SB.xattr_prefix_start, offset / 4)

  test('a plain table, and one that nothing else places', async () => {
    for (const compat of [0x10, 0]) {
      const prepare = (b: ImageBuilder): unknown =>
        table(b, 5 * BS)
          .features(compat, 0x40)
          .put(5 * BS, TABLE)
      assert.deepEqual(await read(withArea(body), prepare), expected)
    }
  })

  test('a plain table stays plain where the image has a metabox and a packed inode', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      table(b, 5 * BS)
        .features(0x10, 0x1e0)
        .u64(SB.packed_nid, 310n)
        .u8(SB.sb_extslots, 1)
        .u64(SB_EXT.metabox_nid, 300n)
        .put(5 * BS, TABLE)
    assert.deepEqual(await read(withArea(body), prepare), expected)
  })

  test('a table in the packed inode', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      table(b, 8)
        .features(0, 0x60)
        .u64(SB.packed_nid, 300n)
        .inode(300, { layout: 2, size: 100, u: NO_BLOCK })
        .put(300 * 32 + 64 + 8, TABLE)
    assert.deepEqual(await read(withArea(body), prepare), expected)
  })

  test('a table in the metabox', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      table(b, 12)
        .features(0, 0x1e0)
        .u64(SB.packed_nid, 310n)
        .u8(SB.sb_extslots, 1)
        .u64(SB_EXT.metabox_nid, 300n)
        .inode(300, { size: BS, u: 20 })
        .put(20 * BS + 12, TABLE)
    assert.deepEqual(await read(withArea(body), prepare), expected)
  })

  test('a table in a packed inode that is compressed: other attributes still work', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      table(b, 8).features(0, 0x60).u64(SB.packed_nid, 300n).inode(300, { layout: 3, size: 100 })
    assert.deepEqual(await read(withArea(area([], A)), prepare), [['user.a', 'value']])
    await assert.rejects(read(withArea(body), prepare), {
      code: 'ERR_EROFS_COMPRESSED_UNSUPPORTED',
    })
  })

  test('the fingerprint is hidden when its name has no visible prefix', async () => {
    const prepare = (b: ImageBuilder): unknown =>
      table(b, 5 * BS)
        .features(0x30, 0x40)
        .u8(SB.ishare_xattr_prefix_id, 2)
        .put(5 * BS, TABLE)
    const { image, inode } = await open(withArea(body), prepare)
    assert.deepEqual(shown(await image.xattrs(inode)), expected.slice(0, 2))
    assert.equal(latin1((await image.fingerprint(inode)) ?? new Uint8Array(0)), 'digest')
    const bare = await open({}, prepare)
    assert.equal(await bare.image.fingerprint(bare.inode), undefined)
    const without = await open(withArea(body))
    assert.equal(await without.image.fingerprint(without.inode), undefined)
  })

  test('the fingerprint of a file is sha256: and the raw digest of its bytes', async () => {
    const { image } = await openFixture('fingerprint')
    const inode = await image.resolve(bytesOf('/names/bytes-\xff\xfe'))
    const content = await image.readData(inode, 0, inode.size)
    const value = Buffer.from((await image.fingerprint(inode)) ?? [])
    assert.equal(value.toString('hex'), `7368613235363a${sha256(content)}`)
    assert.equal(
      sha256(bytesOf('x')),
      '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881',
    )
    const [prefix] = await image.xattrPrefixes()
    assert.equal(latin1(prefix?.infix ?? new Uint8Array(0)), 'erofs.fingerprint')
  })
})

describe('xattrs that are refused: ERR_EROFS_BAD_XATTR', () => {
  const cases: readonly [string, InodeSpec, ((b: ImageBuilder) => unknown)?][] = [
    ['more shared ids than room', { xattrIcount: 2, body: area([1, 2]) }],
    ['an entry cut in its name', { xattrIcount: 2, body: area([], entry(1, 'long-name', '')) }],
    ['an entry cut in its value', withArea(area([], entry(1, 'n', 'v', 500)))],
    ['an area beyond the image', { xattrIcount: 0xffff }],
    ['a shared entry beyond the image', withArea(area([0xffffffff]))],
    [
      'a shared entry that runs over the end',
      withArea(area([(40 * BS - 8) / 4])),
      (b) => b.put(40 * BS - 8, Uint8Array.of(1, 1, 0xff, 0xff)),
    ],
    ['a long prefix without a table', withArea(area([], entry(0x80, 'n', 'v')))],
    [
      'a long prefix beyond the table',
      withArea(area([], entry(0x81, 'n', 'v'))),
      (b) =>
        b
          .features(0x10, 0x40)
          .u8(SB.xattr_prefix_count, 1)
          .u32(SB.xattr_prefix_start, BS)
          .put(4 * BS, Uint8Array.of(2, 0, 1, 0x61)),
    ],
    [
      'a table of empty records',
      withArea(area([], entry(0x80, 'n', 'v'))),
      (b) => b.features(0x10, 0x40).u8(SB.xattr_prefix_count, 1).u32(SB.xattr_prefix_start, BS),
    ],
    [
      'a table beyond the image',
      withArea(area([], entry(0x80, 'n', 'v'))),
      (b) =>
        b.features(0x10, 0x40).u8(SB.xattr_prefix_count, 1).u32(SB.xattr_prefix_start, 0xffffffff),
    ],
    [
      'a table cut by the end of the image',
      withArea(area([], entry(0x80, 'n', 'v'))),
      (b) =>
        b
          .features(0x10, 0x40)
          .u8(SB.xattr_prefix_count, 2)
          .u32(SB.xattr_prefix_start, (40 * BS - 4) / 4)
          .put(40 * BS - 4, Uint8Array.of(2, 0, 1, 0x61)),
    ],
    [
      'more bytes than one inode may have',
      withArea(area(Array.from({ length: 255 }, () => 0))),
      (b) => b.u32(SB.xattr_blkaddr, 5).put(5 * BS, Uint8Array.of(0, 1, 0xff, 0xff)),
    ],
  ]
  for (const [name, spec, prepare] of cases) {
    test(name, async () => {
      await assert.rejects(read(spec, prepare), { code: 'ERR_EROFS_BAD_XATTR' })
    })
  }
})
