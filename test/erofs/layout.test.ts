import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as layout from '../../src/erofs/layout.ts'

/** Table, size of the structure, size of its last field. */
const STRUCTURES: readonly [string, Readonly<Record<string, number>>, number, number][] = [
  ['SB', layout.SB, layout.SB_SIZE, 8],
  ['SB_EXT', layout.SB_EXT, layout.SB_WITH_METABOX_SIZE, 8],
  ['DEVT_SLOT', layout.DEVT_SLOT, layout.DEVT_SLOT_SIZE, 52],
  ['INODE_COMPACT', layout.INODE_COMPACT, layout.INODE_COMPACT_SIZE, 4],
  ['INODE_EXTENDED', layout.INODE_EXTENDED, layout.INODE_EXTENDED_SIZE, 16],
  ['CHUNK_INDEX', layout.CHUNK_INDEX, layout.CHUNK_INDEX_SIZE, 4],
  ['DIRENT', layout.DIRENT, layout.DIRENT_SIZE, 1],
  ['XATTR_IBODY', layout.XATTR_IBODY, layout.XATTR_IBODY_SIZE, 7],
  ['XATTR_ENTRY', layout.XATTR_ENTRY, layout.XATTR_ENTRY_SIZE, 2],
]

describe('layout tables', () => {
  for (const [name, table, size, lastFieldSize] of STRUCTURES) {
    test(`${name} ascends and ends at ${size}`, () => {
      const offsets = Object.values(table)
      for (const [index, offset] of offsets.slice(1).entries()) {
        assert.ok(offset > (offsets[index] ?? Infinity), `${name} offset ${offset}`)
      }
      assert.equal((offsets.at(-1) ?? NaN) + lastFieldSize, size)
    })
  }

  test('the magic is the bytes e2 e1 f5 e0', () => {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, layout.EROFS_SUPER_MAGIC_V1, true)
    assert.deepEqual([...bytes], [0xe2, 0xe1, 0xf5, 0xe0])
  })
})
