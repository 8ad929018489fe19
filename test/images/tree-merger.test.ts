/** Layers of archive entries on each other, and entries that make no tree. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { AppError } from '../../src/core/index.ts'
import type { TreeNode } from '../../src/erofs/index.ts'
import { DirectoryNode, FileNode, SymlinkNode } from '../../src/erofs/index.ts'
import { TreeMerger } from '../../src/images/build/tree-merger.ts'
import type { TarEntry, TarType } from '../../src/tar/index.ts'

/** `d/` is a directory, `a -> b` a symbolic link, `a = b` a hard link, all else a file with its layer's number. */
function entryOf(text: string, layer: number): TarEntry {
  const [, path = '', sign, target = ''] = /^(\S+)(?: (->|=) (\S+))?$/.exec(text) ?? []
  const types: Record<string, TarType> = { '->': 'symlink', '=': 'link' }
  const type = types[sign ?? ''] ?? (path.endsWith('/') ? 'directory' : 'file')
  return {
    type,
    path: Buffer.from(path),
    target: Buffer.from(target),
    permissions: 0o600 + layer,
    uid: layer,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    xattrs: [],
    device: { major: 0, minor: 0 },
    size: 0,
    dataOffset: 0,
    segments: undefined,
    offset: 0,
  }
}

function merged(layers: readonly (readonly string[])[], whiteouts = true): TreeMerger {
  const merger = new TreeMerger({
    whiteouts,
    fileOf: (_entry, attributes) =>
      new FileNode(attributes, { kind: 'inline', size: 0, read: () => new Uint8Array(0) }),
  })
  for (const [index, layer] of layers.entries()) {
    for (const line of layer) merger.add(entryOf(line, index + 1))
    merger.endLayer()
  }
  return merger
}

/** Paths with the layer that they are from (0: nobody described it), in order. */
function shown(merger: TreeMerger): string[] {
  const lines: string[] = []
  const visit = (node: TreeNode, path: string): void => {
    const own = node instanceof SymlinkNode ? ` -> ${Buffer.from(node.target).toString()}` : ''
    if (path !== '')
      lines.push(`${path}${node instanceof DirectoryNode ? '/' : ''} ${node.attributes.uid}${own}`)
    if (!(node instanceof DirectoryNode)) return
    for (const [name, child] of node.entries()) visit(child, `${path}/${name}`)
  }
  visit(merger.root, '')
  return lines
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]]
  return items.flatMap((item, index) =>
    permutations(items.filter((_, other) => other !== index)).map((rest) => [item, ...rest]),
  )
}

describe('layers', () => {
  const cases: readonly [string, readonly (readonly string[])[], readonly string[]][] = [
    ['what comes later replaces what was there', [['a', 'b'], ['a']], ['/a 2', '/b 1']],
    [
      'directories are merged',
      [
        ['d/', 'd/a'],
        ['d/', 'd/b'],
      ],
      ['/d/ 2', '/d/a 1', '/d/b 2'],
    ],
    ['a directory becomes a file', [['d/', 'd/a'], ['d']], ['/d 2']],
    ['a file becomes a directory', [['d'], ['d/', 'd/a']], ['/d/ 2', '/d/a 2']],
    ['parents that nobody described', [['x/y/z']], ['/x/ 0', '/x/y/ 0', '/x/y/z 1']],
    ['a parent described behind what is in it', [['x/y', 'x/']], ['/x/ 1', '/x/y 1']],
    ['a hard link across layers', [['a'], ['b = a']], ['/a 1', '/b 1']],
    ['a link to what is replaced behind it', [['a'], ['b = a', 'a']], ['/a 2', '/b 1']],
    [
      'a parent that is a symbolic link',
      [['usr/lib/', 'lib -> usr/lib'], ['lib/x']],
      ['/lib 1 -> usr/lib', '/usr/ 0', '/usr/lib/ 1', '/usr/lib/x 2'],
    ],
    [
      'a link that climbs out stays inside',
      [['up -> ../../../d', 'd/'], ['up/x']],
      ['/d/ 1', '/d/x 2', '/up 1 -> ../../../d'],
    ],
    ['a name with slashes around it', [['/./a//b/', './a/b/c']], ['/a/ 0', '/a/b/ 1', '/a/b/c 1']],
  ]
  for (const [name, layers, expected] of cases) {
    test(name, () => assert.deepEqual(shown(merged(layers)), expected))
  }
})

test('a whiteout removes as many levels as there can be', () => {
  const deep = 'd/'.repeat(4096)
  assert.equal(merged([[deep], ['.wh.d']]).root.size, 0)
  assert.equal(merged([[deep], ['.wh.d', `${deep.slice(2)}f`]]).root.size, 1)
  assert.throws(() => merged([[`${deep}d/`]]), /more than 4096 names/)
})

describe('whiteouts, wherever in their layer they stand', () => {
  const cases: readonly [string, readonly string[], readonly string[], readonly string[]][] = [
    ['of a file', ['a', 'b'], ['.wh.a'], ['/b 1']],
    ['of a directory', ['d/', 'd/a', 'd/e/', 'd/e/f'], ['.wh.d'], []],
    ['of nothing', ['a'], ['.wh.b'], ['/a 1']],
    ['of what the layer brings again', ['a'], ['.wh.a', 'a'], ['/a 2']],
    [
      'of a directory that the layer fills again',
      ['d/', 'd/a'],
      ['.wh.d', 'd/', 'd/b'],
      ['/d/ 2', '/d/b 2'],
    ],
    [
      'of a directory that the layer fills without describing it',
      ['d/', 'd/a'],
      ['.wh.d', 'd/b'],
      ['/d/ 0', '/d/b 2'],
    ],
    ['of a directory that becomes a file', ['d/', 'd/a'], ['.wh.d', 'd'], ['/d 2']],
    ['of the target of a link', ['a'], ['b = a', '.wh.a'], ['/b 1']],
    [
      'opaque',
      ['d/', 'd/a', 'd/e/', 'd/e/f'],
      ['d/', 'd/.wh..wh..opq', 'd/b'],
      ['/d/ 2', '/d/b 2'],
    ],
    [
      'opaque, and below it the layer goes on',
      ['d/', 'd/e/', 'd/e/f'],
      ['d/.wh..wh..opq', 'd/e/', 'd/e/g'],
      ['/d/ 1', '/d/e/ 2', '/d/e/g 2'],
    ],
    ['opaque, the root', ['a', 'd/'], ['.wh..wh..opq', 'b'], ['/b 2']],
    ['files of AUFS', ['a'], ['.wh..wh.plnk', '.wh..wh.aufs'], ['/a 1']],
  ]
  for (const [name, lower, upper, expected] of cases) {
    test(name, () => {
      for (const order of permutations(upper)) {
        // a hard link to what the layer itself brings has to come behind it
        assert.deepEqual(shown(merged([lower, order])), expected, order.join(', '))
      }
    })
  }

  test('are files like others in a plain archive', () => {
    assert.deepEqual(shown(merged([['.wh.a', 'a']], false)), ['/.wh.a 1', '/a 1'])
  })

  test('do not reach into layers above', () => {
    assert.deepEqual(shown(merged([['a'], ['.wh.a'], ['a']])), ['/a 3'])
  })
})

describe('what makes no tree', () => {
  const cases: readonly [string, readonly string[], RegExp][] = [
    ['a path that leads out', ['a/../../b'], /leads out/],
    ['a name that is too long', ['x'.repeat(256)], /256 bytes/],
    ['a link to nothing', ['a = b'], /not in the archive before it/],
    ['a link to a directory', ['d/', 'a = d'], /hard link to a directory/],
    ['a root that is a file', ['./'.slice(0, 1)], /is no directory/],
    ['a file with files in it', ['a', 'a/b'], /is no directory/],
    ['a path that is too deep', ['d/'.repeat(5000)], /more than 4096 names/],
    ['links that go in circles', ['a -> b', 'b -> a', 'a/x'], /too many symbolic links/],
    ['a symbolic link that is too long', [`a -> ${'x'.repeat(4096)}`], /4096 bytes/],
  ]
  for (const [name, lines, message] of cases) {
    test(name, () => {
      assert.throws(
        () => merged([lines]),
        (error) =>
          error instanceof AppError &&
          error.code === 'ERR_IMPORT_TREE' &&
          message.test(error.message),
      )
    })
  }
})
