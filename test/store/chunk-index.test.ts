import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { closeSync, openSync } from 'node:fs'
import { readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { Digest } from '../../src/core/index.ts'
import { digestOf, digestToRaw, rawDigestOf } from '../../src/core/index.ts'
import { ChunkFilter } from '../../src/store/chunk-filter.ts'
import { mergeRuns } from '../../src/store/chunk-index-merge.ts'
import { CHUNK_ENTRY_BYTES, encodeChunkEntry } from '../../src/store/chunk-record.ts'
import { ChunkRun, writeRun } from '../../src/store/chunk-run.ts'
import { DirectoryLock } from '../../src/store/directory-lock.ts'
import type { DomainStore } from '../../src/store/index.ts'
import { ChunkIndex } from '../../src/store/index.ts'
import { blobIndexKey } from '../../src/store/layout.ts'
import { TableCursor } from '../../src/store/sorted-records.ts'
import { SpoolFile } from '../../src/store/spool-file.ts'
import { hasCode } from '../contract/storage-engine.ts'
import type { TestStore } from './data-folder.ts'
import { count, dataFolder, seeded, testStore } from './data-folder.ts'
import { evidence } from '../evidence.ts'

/** A blob of one-block chunks named by numbers: the same number is the same chunk. */
async function blobOf(domain: DomainStore, numbers: readonly number[]): Promise<Digest> {
  await using writer = await domain.blobs.createWriter()
  for (const number of numbers) {
    const chunk = chunkOf(number)
    writer.addChunk(rawDigestOf(chunk), {
      length: 4096,
      wholeLength: 4096,
      wholeOffset: writer.appendBlocks(chunk),
      restOffset: 0,
    })
  }
  const blob = await writer.finish()
  assert.ok(blob)
  return blob.digest
}

function chunkOf(number: number): Buffer {
  return Buffer.alloc(4096, `chunk ${number} `)
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index)
}

/** Every chunk is found in a blob that has it there; no other is found. */
async function checkFinds(
  fixture: TestStore,
  index: ChunkIndex,
  numbers: readonly number[],
  absent: readonly number[],
): Promise<void> {
  for (const number of numbers) {
    const chunk = chunkOf(number)
    const found = index.lookup(rawDigestOf(chunk), 4096)
    assert.ok(found, `chunk ${number}`)
    const bytes = await fixture.store.engine.get(
      `domains/acme/blobs/sha256/${found.blob.slice(7, 9)}/${found.blob.slice(7)}`,
      { offset: found.record.wholeOffset, length: 4096 },
    )
    assert.deepEqual(Buffer.from(bytes ?? []), chunk)
  }
  for (const number of absent) {
    assert.equal(index.lookup(rawDigestOf(chunkOf(number)), 4096), undefined)
  }
}

function indexFolder(fixture: TestStore): string {
  return join(fixture.dataDir, 'domains/acme/index')
}

async function runsIn(fixture: TestStore): Promise<string[]> {
  const names = await readdir(indexFolder(fixture))
  return names
    .filter((name) => name.endsWith('.run'))
    .map((name) => join(indexFolder(fixture), name))
}

describe('chunk index', () => {
  test('finds what is stored, where it is stored, and nothing else', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    await blobOf(domain, range(0, 100))
    await blobOf(domain, range(90, 200))
    await using index = await domain.chunkIndex()
    await checkFinds(fixture, index, range(0, 200), range(200, 300))
    assert.equal(index.lookup(rawDigestOf(chunkOf(1)), 4095), undefined, 'of another length')
    const other = await fixture.store.domain('other').chunkIndex()
    await checkFinds(fixture, other, [], range(0, 10))
    await other[Symbol.asyncDispose]()
  })

  test('answers many questions in their own order', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    await blobOf(domain, range(0, 300))
    await using index = await domain.chunkIndex()
    const numbers = [299, 5, 1000, 5, 0, 2000, 150]
    const questions = numbers.map((number) => {
      return { rawDigest: rawDigestOf(chunkOf(number)), length: 4096 }
    })
    const answers = index.lookupAll(questions)
    const expected = questions.map(({ rawDigest, length }) => index.lookup(rawDigest, length))
    assert.deepEqual(answers, expected)
    assert.deepEqual(
      answers.map((answer) => answer !== undefined),
      [true, true, false, true, true, false, true],
    )
  })

  test('an added blob is found at once, and without folding again after opening', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    {
      await using index = await domain.chunkIndex()
      for (let blob = 0; blob < 9; blob++) {
        await index.addBlob(await blobOf(domain, range(blob * 20, blob * 20 + 25)))
        await checkFinds(fixture, index, range(0, blob * 20 + 25), range(500, 520))
      }
      assert.ok(index.stats().runs < 4, 'runs of a tier are merged')
    }
    const before = await runsIn(fixture)
    await using index = await domain.chunkIndex()
    assert.deepEqual(await runsIn(fixture), before)
    await checkFinds(fixture, index, range(0, 185), range(185, 200))
  })

  test('two processes add to one folder', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    await using one = await domain.chunkIndex()
    await using two = await domain.chunkIndex()
    for (let round = 0; round < 6; round++) {
      await one.addBlob(await blobOf(domain, range(round * 20, round * 20 + 10)))
      await two.addBlob(await blobOf(domain, range(round * 20 + 10, round * 20 + 20)))
      await checkFinds(fixture, two, range(0, round * 20 + 20), [])
    }
    await using three = await domain.chunkIndex()
    assert.equal(three.stats().records, 120, 'nothing is covered twice')
    await checkFinds(fixture, one, range(0, 110), [])
  })

  test('is used as it is while another process changes it for long', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    await blobOf(domain, range(0, 10))
    await (await domain.chunkIndex())[Symbol.asyncDispose]()
    const late = await blobOf(domain, range(10, 20))
    using lock = DirectoryLock.acquire(join(indexFolder(fixture), 'lock.db'))
    assert.ok(lock)
    const warnings: unknown[] = []
    await using index = await ChunkIndex.open({
      folder: indexFolder(fixture),
      lockTimeoutMs: 0,
      logger: { info: () => undefined, warn: (fields) => void warnings.push(fields['event']) },
      sources: {
        blobs: () => assert.fail('only the holder of the lock looks at blobs'),
        indexPath: (blob) => join(fixture.dataDir, blobIndexKey('acme', blob)),
      },
    })
    await checkFinds(fixture, index, range(0, 10), range(10, 20))
    await index.addBlob(late)
    assert.deepEqual(warnings, ['store.index.busy', 'store.index.busy'])
  })
})

describe('chunk index: derived, whatever happens to it', () => {
  async function filled() {
    const fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const blobs = [await blobOf(domain, range(0, 80)), await blobOf(domain, range(80, 160))]
    await (await domain.chunkIndex())[Symbol.asyncDispose]()
    return { fixture, domain, blobs, [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose]() }
  }

  test('a deleted folder', async () => {
    await using setup = await filled()
    await rm(indexFolder(setup.fixture), { recursive: true })
    await using index = await setup.domain.chunkIndex()
    await checkFinds(setup.fixture, index, range(0, 160), range(160, 200))
  })

  test('a folder deleted while it is in use', async () => {
    await using setup = await filled()
    await using index = await setup.domain.chunkIndex()
    await rm(indexFolder(setup.fixture), { recursive: true })
    await checkFinds(setup.fixture, index, range(0, 160), [])
    await index.addBlob(await blobOf(setup.domain, range(160, 200)))
    await checkFinds(setup.fixture, index, range(160, 200), [])
    await using again = await setup.domain.chunkIndex()
    await checkFinds(setup.fixture, again, range(0, 200), [])
  })

  test('every truncation and any flipped byte of a run: never a wrong answer, whole again after the next open', async () => {
    await using setup = await filled()
    const { fixture, domain } = setup
    const [run = ''] = await runsIn(fixture)
    const good = await readFile(run)
    const random = seeded(5)
    const damages: Buffer[] = range(0, count(400, 40)).map((round) => {
      const bytes = Buffer.from(good)
      const at = Math.floor(random() * bytes.byteLength)
      if (round % 4 === 0) return bytes.subarray(0, at)
      bytes[at] = (bytes[at] ?? 0) ^ (1 + Math.floor(random() * 255))
      return bytes
    })
    let missed = 0
    for (const damage of damages) {
      for (const path of await runsIn(fixture)) await rm(path)
      await writeFile(run, damage)
      const index = await domain.chunkIndex()
      for (const number of range(0, 160)) {
        const found = index.lookup(rawDigestOf(chunkOf(number)), 4096)
        if (found === undefined) missed++
        else assert.equal(found.record.wholeOffset, (number % 80) * 4096)
      }
      await index[Symbol.asyncDispose]()
      await using again = await domain.chunkIndex()
      await checkFinds(fixture, again, range(0, 160), range(160, 170))
    }
    assert.ok(missed > 0, 'a damaged block is found only when it is read')
  })

  test('a run with a deleted blob is dropped, what else it covered is folded in again', async () => {
    await using setup = await filled()
    await setup.domain.blobs.delete(setup.blobs[0] ?? assert.fail())
    await using index = await setup.domain.chunkIndex()
    await checkFinds(setup.fixture, index, range(80, 160), range(0, 80))
  })

  test('inputs left beside their merge are dropped', async () => {
    await using setup = await filled()
    const { fixture, domain } = setup
    const [first = ''] = await runsIn(fixture)
    await using index = await domain.chunkIndex()
    await index.addBlob(await blobOf(domain, range(160, 200)))
    const copies = await runsIn(fixture)
    const run = ChunkRun.open(copies[0] ?? '')
    const other = ChunkRun.open(copies[1] ?? '')
    mergeRuns(join(indexFolder(fixture), 'merged.run'), [run, other])
    run[Symbol.dispose]()
    other[Symbol.dispose]()
    await writeFile(join(indexFolder(fixture), 'torn.new'), 'half a run')
    await using again = await domain.chunkIndex()
    assert.deepEqual(
      (await runsIn(fixture)).map((path) => path.endsWith('merged.run')),
      [true],
    )
    assert.ok(!(await readdir(indexFolder(fixture))).includes('torn.new'))
    assert.ok(first)
    await checkFinds(fixture, again, range(0, 200), range(200, 210))
  })

  test('a run found damaged while it is merged is dropped, the merge goes on without it', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const index = await domain.chunkIndex()
    for (let blob = 0; blob < 3; blob++) {
      await index.addBlob(await blobOf(domain, range(blob * 10, blob * 10 + 10)))
    }
    const [run = ''] = await runsIn(fixture)
    const bytes = await readFile(run)
    bytes[4096 + 5] = (bytes[4096 + 5] ?? 0) ^ 1
    await writeFile(run, bytes)
    await index.addBlob(await blobOf(domain, range(30, 40)))
    assert.ok(!(await runsIn(fixture)).includes(run))
    const found = range(0, 40).filter(
      (number) => index.lookup(rawDigestOf(chunkOf(number)), 4096) !== undefined,
    )
    assert.equal(found.length, 30, 'what the others hold')
    await index[Symbol.asyncDispose]()
    await using again = await domain.chunkIndex()
    await checkFinds(fixture, again, range(0, 40), range(40, 50))
  })

  test('more blobs than are folded in one go', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    for (let blob = 0; blob < 70; blob++) await blobOf(domain, [blob])
    await using index = await domain.chunkIndex()
    await checkFinds(fixture, index, range(0, 70), range(70, 80))
    assert.equal(index.stats().records, 70)
    assert.equal(index.stats().runs, 2)
  })

  test('a blob with a damaged index is left out and said, the others are found', async () => {
    await using setup = await filled()
    const { fixture, domain, blobs } = setup
    const path = join(fixture.dataDir, blobIndexKey('acme', blobs[1] ?? assert.fail()))
    const bytes = await readFile(path)
    bytes[bytes.byteLength - 60] = (bytes[bytes.byteLength - 60] ?? 0) ^ 1
    await writeFile(path, bytes)
    await rm(indexFolder(fixture), { recursive: true })
    await using index = await domain.chunkIndex()
    await checkFinds(fixture, index, range(0, 80), range(80, 160))
    assert.deepEqual(
      fixture.warnings.map(({ event }) => event),
      ['store.index.blob_skipped'],
    )
  })

  test('a sealed table whose entries leave the blob is not believed', async () => {
    await using setup = await filled()
    const { fixture, domain, blobs } = setup
    const path = join(fixture.dataDir, blobIndexKey('acme', blobs[1] ?? assert.fail()))
    const bytes = await readFile(path)
    bytes.writeUInt32LE(0x7fff_f000, bytes.byteLength - 16)
    createHash('sha256').update(bytes.subarray(32)).digest().copy(bytes, 0)
    await writeFile(path, bytes)
    await rm(indexFolder(fixture), { recursive: true })
    await using index = await domain.chunkIndex()
    await checkFinds(fixture, index, range(0, 80), range(80, 160))
  })
})

describe('chunk runs', () => {
  /** A sorted table of made-up chunks: digest of the number → offset number * 4096. */
  function tableFile(path: string, from: number, to: number): SpoolFile {
    const raws = Buffer.alloc((to - from) * 32)
    const prefixes = new Float64Array(to - from)
    for (let at = 0; at < prefixes.length; at++) {
      syntheticDigest(from + at).copy(raws, at * 32)
      prefixes[at] = raws.readUIntBE(at * 32, 6)
    }
    // 48 bits tell these digests apart; the merge would refuse the table otherwise.
    const order = Uint32Array.from(prefixes.keys())
    order.sort((a, b) => (prefixes[a] ?? 0) - (prefixes[b] ?? 0))
    const file = new SpoolFile(path)
    const entry = Buffer.alloc(CHUNK_ENTRY_BYTES)
    for (const at of order) {
      const wholeOffset = (from + at) * 4096
      const record = { length: 4096, wholeLength: 4096, wholeOffset, restOffset: 0 }
      encodeChunkEntry(entry, 0, raws.subarray(at * 32, at * 32 + 32), record)
      file.append(entry)
    }
    file.close()
    return file
  }

  test('digests with equal first words across blocks are found', async () => {
    await using folder = await dataFolder()
    const raws = range(0, 300).map((number) => {
      const raw = rawDigestOf(Buffer.from(String(number)))
      raw.writeUInt32BE(number < 20 ? 1 : number < 280 ? 7 : 9, 0)
      return raw
    })
    raws.sort((a, b) => a.compare(b))
    const table = new SpoolFile(join(folder.path, 'table'))
    const entry = Buffer.alloc(CHUNK_ENTRY_BYTES)
    for (const [place, raw] of raws.entries()) {
      const record = { length: place + 1, wholeLength: 0, wholeOffset: 0, restOffset: 4096 }
      encodeChunkEntry(entry, 0, raw, record)
      table.append(entry)
    }
    table.close()
    using run = runOf(join(folder.path, 'run'), table.path, 300)
    for (const [place, raw] of raws.entries()) {
      assert.equal(run.find(raw)?.record.length, place + 1)
      const near = Buffer.from(raw)
      near[31] = (near[31] ?? 0) ^ 1
      assert.equal(run.find(near), undefined)
    }
    for (const word of [0, 2, 8, 10]) {
      const absent = Buffer.alloc(32, 5)
      absent.writeUInt32BE(word, 0)
      assert.equal(run.find(absent), undefined)
    }
  })

  test('a table that does not ascend is refused and leaves no file', async () => {
    await using folder = await dataFolder()
    const table = new SpoolFile(join(folder.path, 'table'))
    for (const byte of [5, 4]) table.append(Buffer.alloc(CHUNK_ENTRY_BYTES, byte))
    table.close()
    assert.throws(
      () => runOf(join(folder.path, 'run'), table.path, 2),
      hasCode('ERR_STORE_CORRUPT'),
    )
    assert.deepEqual(await readdir(folder.path), ['table'])
  })

  test(
    'memory per chunk stays below 2 bytes, false answers below 1 %, whatever the number',
    { timeout: 600_000 },
    async () => {
      await using folder = await dataFolder()
      const total = count(10_000_000, 1_000_000)
      const parts = 10
      const runs = range(0, parts).map((part) => {
        const path = join(folder.path, `table${part}`)
        using _table = tableFile(path, (part * total) / parts, ((part + 1) * total) / parts)
        return runOf(join(folder.path, `run${part}`), path, total / parts, part)
      })
      const memory = () => runs.reduce((sum, each) => sum + each.memoryBytes, 0)
      assert.ok(memory() <= 2 * total, 'before the merge')
      const start = performance.now()
      mergeRuns(join(folder.path, 'merged'), runs)
      const mergeMs = performance.now() - start
      for (const each of runs) each[Symbol.dispose]()
      using merged = ChunkRun.open(join(folder.path, 'merged'))
      assert.equal(merged.recordCount, total)
      assert.equal(merged.blobCount, parts)
      const perChunk = merged.memoryBytes / total
      let passed = 0
      const asked = 200_000
      for (let number = 0; number < asked; number++) {
        if (merged.mayHave(syntheticDigest(total + number))) passed++
      }
      const step = Math.floor(total / 5000)
      for (let number = 0; number < total; number += step) {
        const found = merged.find(syntheticDigest(number))
        assert.equal(found?.record.wholeOffset, number * 4096)
        assert.equal(found?.blob, digestOf(Buffer.from([Math.floor((number * parts) / total)])))
        assert.ok(merged.mayHave(syntheticDigest(number)))
      }
      const { size } = await stat(merged.path)
      evidence('chunk-index', {
        chunks: total,
        memoryBytesEach: perChunk.toFixed(3),
        diskBytesEach: (size / total).toFixed(1),
        falseAnswers: `${((passed / asked) * 100).toFixed(3)}%`,
        mergeSeconds: (mergeMs / 1000).toFixed(1),
      })
      assert.ok(perChunk <= 2, `${perChunk} bytes`)
      assert.ok(passed / asked < 0.01, `${passed} of ${asked}`)
    },
  )

  function runOf(path: string, tablePath: string, chunks: number, blob = 0): ChunkRun {
    const fd = openSync(tablePath, 'r')
    try {
      const cursor = new TableCursor(fd, 0, chunks, 0, tablePath)
      writeRun(path, [cursor], chunks, digestToRaw(digestOf(Buffer.from([blob]))))
    } finally {
      closeSync(fd)
    }
    return ChunkRun.open(path)
  }
})

describe('chunk filter', () => {
  test('never denies what was added', () => {
    for (const size of [0, 1, 42, 43, 1000]) {
      const filter = ChunkFilter.forChunks(size)
      for (let number = 0; number < size; number++) filter.add(syntheticDigest(number), 0)
      for (let number = 0; number < size; number++) {
        assert.ok(filter.mayHave(syntheticDigest(number), 0))
      }
      if (size === 0) assert.equal(filter.mayHave(syntheticDigest(0), 0), false)
    }
  })
})

function syntheticDigest(number: number): Buffer {
  return rawDigestOf(Buffer.from(`synthetic ${number}`))
}
