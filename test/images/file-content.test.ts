/** The places of chunks, and that one huge file does not hold up whoever wants to say or stop something. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import type { FileData } from '../../src/erofs/index.ts'
import { CHUNK_SIZE, HOLE } from '../../src/erofs/index.ts'
import { FileContent } from '../../src/images/build/file-content.ts'
import { SourceFile } from '../../src/images/import/source-file.ts'
import { seededBytes } from '../random.ts'

const MIB = 1024 * 1024

describe('the content of files', () => {
  let folder: string
  let source: SourceFile
  let bytes: Buffer
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-content-'))
    bytes = Buffer.concat([seededBytes(1, 9 * MIB), Buffer.alloc(MIB), seededBytes(2, 1000)])
    await writeFile(join(folder, 'archive'), bytes)
    source = SourceFile.open(join(folder, 'archive'))
  })
  after(async () => {
    source[Symbol.dispose]()
    await rm(folder, { recursive: true })
  })

  function content(): FileContent {
    let block = 0
    const allocateData = (blocks: number): number => {
      block += blocks
      return block - blocks
    }
    return new FileContent({ allocateData })
  }

  function blocksOf(data: FileData): Uint32Array {
    assert.ok(data.kind === 'chunks')
    return data.blocks
  }

  test('is cut in steps, and zeros have no place', () => {
    const files = content()
    const data = files.dataOf({ source, offset: 0, size: bytes.length, segments: undefined })
    assert.deepEqual([...files.placeChunks()], [4 * MIB, 4 * MIB])
    const blocks = blocksOf(data)
    assert.equal(blocks.length, 161)
    const expected = Array.from(blocks, (_, index) => index * 16).fill(HOLE, 144, 160)
    expected[160] = 144 * 16
    assert.deepEqual([...blocks], expected)
    assert.deepEqual([...files.placeChunks()], [], 'each file once')
  })

  test('of a hole goes on in steps, too', () => {
    const files = content()
    const size = 64 * MIB + CHUNK_SIZE
    const segments = [{ offset: 64 * MIB, length: CHUNK_SIZE }]
    const data = files.dataOf({ source, offset: MIB, size, segments })
    assert.deepEqual([...files.placeChunks()], Array(16).fill(0))
    const blocks = blocksOf(data)
    assert.deepEqual([...new Set(blocks)], [HOLE, 0])
    assert.equal(blocks.indexOf(0), 1024)
  })

  test('that is there already has its place already', () => {
    const files = content()
    const first = files.dataOf({ source, offset: 0, size: 4 * MIB, segments: undefined })
    const shifted = { source, offset: 2 * MIB, size: 4 * MIB, segments: undefined }
    const second = files.dataOf(shifted)
    assert.equal([...files.placeChunks()].length, 2)
    assert.deepEqual(blocksOf(second).subarray(0, 32), blocksOf(first).subarray(32))
    assert.deepEqual(new Set([...blocksOf(first), ...blocksOf(second)]).size, 96)
  })
})
