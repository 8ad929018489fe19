import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { open, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { AppError, digestOf, isAppError, rawDigestOf } from '../../src/core/index.ts'
import {
  BLOB_INDEX,
  decodeBlobIndexHeader,
  encodeBlobIndexHeader,
} from '../../src/store/blob-index-codec.ts'
import { BlobWriter } from '../../src/store/blob-writer.ts'
import type { DomainStore, StoredBlob } from '../../src/store/index.ts'
import { blobIndexKey, blobKey } from '../../src/store/layout.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { count, dataFolder, filesBelow, seeded, testStore } from './data-folder.ts'

function bytesOf(random: () => number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) bytes[at] = Math.floor(random() * 256)
  return bytes
}

async function read(dataDir: string, blob: StoredBlob): Promise<Buffer> {
  return await readFile(join(dataDir, blobKey('acme', blob.digest)))
}

/** The index file must say of the bytes what an independent reading of the format says. */
async function checkPair(dataDir: string, blob: StoredBlob): Promise<void> {
  const bytes = await read(dataDir, blob)
  const index = await readFile(join(dataDir, blobIndexKey('acme', blob.digest)))
  assert.equal(digestOf(bytes), blob.digest)
  assert.equal(bytes.byteLength, blob.size)
  assert.deepEqual(createHash('sha256').update(index.subarray(32)).digest(), index.subarray(0, 32))
  assert.equal(index.toString('latin1', 32, 40), 'CPBLBIDX')
  assert.equal(Number(index.readBigUInt64LE(48)), blob.size)
  assert.equal(Number(index.readBigUInt64LE(56)), blob.region1Length)
  assert.equal(Number(index.readBigUInt64LE(64)), blob.chunkCount)
  const pages = Math.ceil(blob.size / 16_384)
  for (let page = 0; page < pages; page++) {
    const expected = rawDigestOf(bytes.subarray(page * 16_384, (page + 1) * 16_384))
    assert.deepEqual(index.subarray(128 + page * 32, 160 + page * 32), expected)
  }
  const table = 128 + pages * 32
  assert.equal(index.byteLength, table + blob.chunkCount * 56)
  let last = Buffer.alloc(0)
  for (let at = table; at < index.byteLength; at += 56) {
    const [length, whole] = [index.readUInt32LE(at + 32), index.readUInt32LE(at + 36)]
    const from = Number(index.readBigUInt64LE(at + 40))
    const rest = Number(index.readBigUInt64LE(at + 48))
    const hash = createHash('sha256')
    hash.update(bytes.subarray(from, from + whole))
    hash.update(bytes.subarray(rest, rest + length - whole))
    const digest = index.subarray(at, at + 32)
    assert.deepEqual(hash.digest(), digest)
    assert.ok(Buffer.compare(last, digest) < 0)
    last = digest
  }
}

/** Appends a chunk as import does: whole blocks, then the rest. */
function append(writer: BlobWriter, chunk: Buffer): boolean {
  const digest = rawDigestOf(chunk)
  if (writer.findChunk(digest, chunk.byteLength) !== undefined) return false
  const wholeLength = chunk.byteLength - (chunk.byteLength % 4096)
  const hasRest = wholeLength < chunk.byteLength
  return writer.addChunk(digest, {
    length: chunk.byteLength,
    wholeLength,
    wholeOffset: wholeLength > 0 ? writer.appendBlocks(chunk.subarray(0, wholeLength)) : 0,
    restOffset: hasRest ? writer.appendPacked(chunk.subarray(wholeLength)) : 0,
  })
}

async function uploads(dataDir: string): Promise<string[]> {
  return (await filesBelow(dataDir)).filter((name) => name.includes('/uploads/'))
}

async function* stream(...pieces: Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) yield await Promise.resolve(piece)
}

async function smallBlob(domain: DomainStore, bytes: Buffer): Promise<StoredBlob> {
  return await domain.blobs.putStream(stream(bytes))
}

describe('blob writer', () => {
  test('any sequence of chunks: bytes, page digests and chunk table agree', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const sizes = fc.array(
      fc.oneof(
        fc.integer({ min: 1, max: 5000 }),
        fc.constantFrom(4096, 8192, 16_384, 65_536, 65_537, 4095),
      ),
      { minLength: 1, maxLength: 40 },
    )
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer(), async (lengths, seed) => {
        const random = seeded(seed)
        const chunks = lengths.map((length) => bytesOf(random, length))
        await using writer = await domain.blobs.createWriter()
        for (const chunk of chunks) assert.equal(append(writer, chunk), true)
        for (const chunk of chunks) assert.equal(append(writer, chunk), false, 'found again')
        const blob = await writer.finish()
        assert.ok(blob)
        assert.equal(blob.chunkCount, chunks.length)
        const whole = lengths.reduce((sum, length) => sum + length - (length % 4096), 0)
        assert.equal(blob.region1Length, whole)
        const index = await domain.blobs.openIndex(blob.digest)
        const half = Math.floor(blob.chunkCount / 2)
        const table = [
          ...(await index.chunks(0, half)),
          ...(await index.chunks(half, blob.chunkCount - half)),
        ].map(({ rawDigest }) => rawDigest.toString('hex'))
        const digests = chunks.map((chunk) => rawDigestOf(chunk).toString('hex'))
        assert.deepEqual(table, digests.toSorted())
        await checkPair(fixture.dataDir, blob)
      }),
      { seed: 3, numRuns: count(300, 25) },
    )
    assert.deepEqual(await uploads(fixture.dataDir), [])
  })

  test('more chunks than its table holds: runs, merged runs, every chunk found and written once', async () => {
    await using folder = await dataFolder()
    const index: Buffer[] = []
    const writer = new BlobWriter(
      join(folder.path, 'blob'),
      async (_digest, _blobPath, indexPath) => {
        index.push(await readFile(indexPath))
        return {
          publish: () => Promise.resolve('created' as const),
          [Symbol.asyncDispose]: () => Promise.resolve(),
        }
      },
      64,
    )
    const chunks = Array.from({ length: 64 * 19 }, (_, at) => Buffer.from(`chunk ${at}`))
    for (const chunk of chunks) assert.equal(append(writer, chunk), true)
    for (const chunk of chunks) {
      const found = writer.findChunk(rawDigestOf(chunk), chunk.byteLength)
      assert.equal(found?.length, chunk.byteLength)
      assert.equal(writer.findChunk(rawDigestOf(chunk), 1), undefined, 'another length')
    }
    assert.equal(writer.findChunk(rawDigestOf(Buffer.from('none')), 4), undefined)
    const blob = await writer.finish()
    assert.equal(blob?.chunkCount, chunks.length)
    const table = index[0]?.subarray(128 + 32 * Math.ceil((blob?.size ?? 0) / 16_384))
    assert.equal(table?.byteLength, chunks.length * 56)
    const expected = chunks.map((chunk) => rawDigestOf(chunk).toString('hex')).toSorted()
    const found = expected.map((_, at) => table?.toString('hex', at * 56, at * 56 + 32))
    assert.deepEqual(found, expected)
    assert.deepEqual(await filesBelow(folder.path), [])
  })

  test('nothing appended is nothing stored', async () => {
    await using fixture = await testStore()
    const writer = await fixture.store.domain('acme').blobs.createWriter()
    assert.equal(await writer.finish(), undefined)
    assert.deepEqual(await filesBelow(fixture.dataDir), ['commonpage.json', 'lock.db'])
  })

  test('abort and disposal remove what was staged', async () => {
    await using fixture = await testStore()
    const { blobs } = fixture.store.domain('acme')
    const writer = await blobs.createWriter()
    append(writer, Buffer.alloc(10_000, 1))
    assert.notDeepEqual(await uploads(fixture.dataDir), [])
    writer.abort()
    assert.deepEqual(await uploads(fixture.dataDir), [])
    assert.throws(() => writer.appendBlocks(Buffer.alloc(4096)), TypeError)
    {
      await using second = await blobs.createWriter()
      append(second, Buffer.alloc(10_000, 1))
    }
    assert.deepEqual(await uploads(fixture.dataDir), [])
  })

  test('the same bytes a second time are present', async () => {
    await using fixture = await testStore()
    const { blobs } = fixture.store.domain('acme')
    const outcomes: (boolean | undefined)[] = []
    for (let round = 0; round < 2; round++) {
      const writer = await blobs.createWriter()
      append(writer, Buffer.alloc(10_000, 1))
      outcomes.push((await writer.finish())?.created)
    }
    assert.deepEqual(outcomes, [true, false])
    assert.deepEqual(await uploads(fixture.dataDir), [])
  })

  test('what is no block or no chunk of this blob is refused', async () => {
    await using fixture = await testStore()
    await using writer = await fixture.store.domain('acme').blobs.createWriter()
    assert.throws(() => writer.appendBlocks(Buffer.alloc(5)), RangeError)
    writer.appendBlocks(Buffer.alloc(4096))
    writer.appendPacked(Buffer.alloc(10))
    const digest = rawDigestOf(Buffer.from('x'))
    for (const [length, wholeLength, wholeOffset, restOffset] of [
      [0, 0, 0, 0],
      [4096, 4096, 4096, 0],
      [4107, 4096, 0, 0],
      [10, 0, 0, 1],
      [10, 0, 4096, 0],
      [2 * 1024 * 1024, 4096, 0, 0],
    ] as const) {
      assert.throws(
        () => writer.addChunk(digest, { length, wholeLength, wholeOffset, restOffset }),
        hasCode('ERR_STORE_CORRUPT'),
      )
    }
  })
})

describe('uploaded blobs', () => {
  test('are stored with page digests and no chunks', async () => {
    await using fixture = await testStore()
    const { blobs } = fixture.store.domain('acme')
    for (const size of [1, 16_384, 16_385, 3_000_001]) {
      const bytes = bytesOf(seeded(size), size)
      const blob = await blobs.putStream(stream(bytes.subarray(0, 1), bytes.subarray(1)), {
        digest: digestOf(bytes),
        size,
      })
      assert.deepEqual(blob.chunkCount, 0)
      await checkPair(fixture.dataDir, blob)
      const index = await blobs.openIndex(blob.digest)
      await index.verify()
      const last = await index.pageDigests(index.pageCount - 1, 1)
      assert.deepEqual(last, rawDigestOf(bytes.subarray((index.pageCount - 1) * 16_384)))
    }
  })

  test('that are not what was announced leave nothing', async () => {
    await using fixture = await testStore()
    const { blobs } = fixture.store.domain('acme')
    const bytes = Buffer.from('bytes')
    const wrong = { digest: digestOf(Buffer.from('other')) }
    const mismatch = hasCode('ERR_STORE_DIGEST_MISMATCH')
    await assert.rejects(blobs.putStream(stream(bytes), wrong), mismatch)
    await assert.rejects(blobs.putStream(stream(bytes), { size: 4 }), mismatch)
    await assert.rejects(blobs.putStream(stream(bytes), { size: 6 }), mismatch)
    await assert.rejects(blobs.putStream(stream()), hasCode('ERR_INVALID_ARGUMENT'))
    const signal = AbortSignal.abort()
    await assert.rejects(blobs.putStream(stream(bytes), { signal }), hasCode('ERR_ABORTED'))
    const failing = async function* () {
      yield await Promise.resolve(bytes)
      throw new AppError('ERR_ABORTED', 'the client went away')
    }
    await assert.rejects(blobs.putStream(failing()), hasCode('ERR_ABORTED'))
    assert.deepEqual(await filesBelow(fixture.dataDir), ['commonpage.json', 'lock.db'])
  })
})

describe('blobs', () => {
  test('are listed in order, and deleted with their index', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const stored: string[] = []
    for (let index = 0; index < 30; index++) {
      stored.push((await smallBlob(domain, Buffer.from(`blob ${index}`))).digest)
    }
    const list = async (options = {}) => {
      const found: string[] = []
      for await (const page of domain.blobs.list(options)) {
        found.push(...page.map(({ digest }) => digest))
      }
      return found
    }
    const sorted = stored.toSorted()
    assert.deepEqual(await list(), sorted)
    assert.deepEqual(await list({ after: sorted[10], pageSize: 4 }), sorted.slice(11))
    assert.equal(await domain.blobs.delete(digestOf(Buffer.from('blob 3'))), true)
    assert.equal(await domain.blobs.delete(digestOf(Buffer.from('blob 3'))), false)
    assert.equal((await list()).length, 29)
    assert.equal((await filesBelow(fixture.dataDir)).length, 29 * 2 + 2)
    assert.deepEqual(await fixture.store.domains(), ['acme'])
  })

  test('an index without its blob is invisible, and is used or replaced by the next put', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const bytes = Buffer.from('bytes')
    const blob = await smallBlob(domain, bytes)
    const [blobPath, indexPath] = [blobKey, blobIndexKey].map((key) =>
      join(fixture.dataDir, key('acme', blob.digest)),
    )
    assert.ok(blobPath !== undefined && indexPath !== undefined)
    const index = await readFile(indexPath)
    for (const torn of [
      index,
      index.subarray(0, 100),
      Buffer.alloc(0),
      Buffer.alloc(index.length),
    ]) {
      await rm(blobPath)
      await writeFile(indexPath, torn)
      assert.equal(await domain.blobs.head(blob.digest), undefined)
      await assert.rejects(domain.blobs.openIndex(blob.digest), hasCode('ERR_STORE_BLOB_MISSING'))
      for await (const page of domain.blobs.list()) assert.deepEqual(page, [])
      assert.equal((await smallBlob(domain, bytes)).created, true)
      assert.deepEqual(await readFile(indexPath), index)
      await (await domain.blobs.openIndex(blob.digest)).verify()
    }
  })

  test('a blob whose index was lost is refused, and can be given a new one', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const blob = await smallBlob(domain, bytesOf(seeded(4), 40_000))
    const path = join(fixture.dataDir, blobIndexKey('acme', blob.digest))
    const index = await readFile(path)
    await rm(path)
    await assert.rejects(domain.blobs.openIndex(blob.digest), hasCode('ERR_STORE_CORRUPT'))
    await domain.blobs.rebuildIndex(blob.digest)
    assert.deepEqual(await readFile(path), index)
    const file = await open(join(fixture.dataDir, blobKey('acme', blob.digest)), 'r+')
    await file.write(Buffer.from('X'), 0, 1, 20_000)
    await file.close()
    await rm(path)
    await assert.rejects(domain.blobs.rebuildIndex(blob.digest), hasCode('ERR_STORE_CORRUPT'))
    assert.deepEqual(await uploads(fixture.dataDir), [])
  })
})

describe('blob index header', () => {
  const header = {
    blob: digestOf(Buffer.from('x')),
    size: 20_000,
    region1Length: 16_384,
    chunkCount: 3,
  }
  const fileSize = 128 + 2 * 32 + 3 * 56

  test('round trip', () => {
    const bytes = encodeBlobIndexHeader(header)
    assert.deepEqual(decodeBlobIndexHeader(bytes, header.blob, fileSize), header)
  })

  test('every truncation and every flipped bit is refused', () => {
    const good = encodeBlobIndexHeader(header)
    for (let length = 0; length < good.byteLength; length++) {
      assert.throws(
        () => decodeBlobIndexHeader(good.subarray(0, length), header.blob, fileSize),
        hasCode('ERR_STORE_CORRUPT'),
      )
    }
    const accepted: number[] = []
    for (let bit = BLOB_INDEX.magic * 8; bit < good.byteLength * 8; bit++) {
      const bytes = Buffer.from(good)
      bytes[bit >>> 3] = (bytes[bit >>> 3] ?? 0) ^ (1 << (bit & 7))
      try {
        decodeBlobIndexHeader(bytes, header.blob, fileSize)
        accepted.push(bit >>> 3)
      } catch (error) {
        assert.ok(isAppError(error) && error.code === 'ERR_STORE_CORRUPT')
      }
    }
    // A size in the same page, a region of other blocks: only the digest over the file can tell.
    for (const byte of accepted) {
      assert.ok(byte >= BLOB_INDEX.blobSize && byte < BLOB_INDEX.chunkCount, `byte ${byte}`)
    }
  })
})
