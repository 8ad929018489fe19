/** The import process as its parent sees it: messages, priority, cancelling, and what happens when the parent is gone. */
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { constants, getPriority } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { siblingModule } from '../../src/core/index.ts'
import type { FromImportProcess, ImportProcessWork } from '../../src/images/import-messages.ts'
import { loadFixture, sha256 } from '../erofs/fixtures.ts'
import type { TestStore } from '../store/data-folder.ts'
import { filesBelow, testStore } from '../store/data-folder.ts'
import { DOMAIN, readBack } from './harness.ts'

const LARGE_BYTES = 200_000_000

interface Started {
  readonly child: ChildProcess
  readonly messages: FromImportProcess[]
  /** The last message and the exit code, once the process has ended. */
  readonly ended: Promise<{ last: FromImportProcess | undefined; code: number | null }>
}

function start(work: ImportProcessWork): Started {
  const child = fork(siblingModule(import.meta.url, '../../src/images/import-process'), {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const messages: FromImportProcess[] = []
  child.on('message', (message: FromImportProcess) => messages.push(message))
  const ended = (async () => {
    const [code] = (await once(child, 'exit')) as [number | null]
    return { last: messages.at(-1), code }
  })()
  child.send({ type: 'start', ...work })
  return { child, messages, ended }
}

async function writeSource(store: TestStore, bytes: Uint8Array): Promise<string> {
  const path = join(store.dataDir, 'source')
  await writeFile(path, bytes)
  return path
}

function largeSource(store: TestStore): Promise<string> {
  return writeSource(store, randomFillSync(Buffer.alloc(LARGE_BYTES)))
}

/** Resolves at the first progress message of a phase. */
async function phase(started: Started, wanted: string): Promise<void> {
  for (;;) {
    const [message] = (await once(started.child, 'message')) as [FromImportProcess]
    assert.equal(message.type, 'progress', JSON.stringify(message))
    if (message.type === 'progress' && message.phase === wanted) return
  }
}

const base = (store: TestStore) => ({ dataDir: store.dataDir, domain: DOMAIN })

describe('the import process', () => {
  test('imports, says how far it is, and ends', async () => {
    await using store = await testStore()
    const [image] = loadFixture('plain').devices
    const path = await writeSource(store, image ?? assert.fail())
    const { messages, ended } = start({
      ...base(store),
      work: 'import-erofs',
      devices: [{ path }],
    })
    const { last, code } = await ended
    assert.equal(code, 0)
    assert.ok(last?.type === 'done' && 'inodes' in last.report, JSON.stringify(last))
    assert.equal(last.report.inodes, 273)
    const [back] = await readBack(store, last.report.digest)
    assert.ok(back?.equals(image ?? Buffer.alloc(0)))
    const phases = messages.flatMap((message) =>
      message.type === 'progress' ? [message.phase] : [],
    )
    assert.deepEqual([...new Set(phases)], ['reading', 'writing', 'verifying', 'publishing'])
  })

  test('an error arrives with its code', async () => {
    await using store = await testStore()
    const path = await writeSource(store, new Uint8Array(0))
    const { ended } = start({
      ...base(store),
      work: 'import-erofs',
      devices: [{ path }],
    })
    const { last, code } = await ended
    assert.equal(code, 0)
    assert.ok(last?.type === 'failed')
    assert.equal(last.error.code, 'ERR_IMPORT_EMPTY')
  })

  test('hashes and stores files as they are', async () => {
    await using store = await testStore()
    const bytes = randomFillSync(Buffer.alloc(300_000))
    const path = await writeSource(store, bytes)
    const digest = `sha256:${sha256(bytes)}`
    const expected = `sha256:${'0'.repeat(64)}` as const
    for (const [work, created] of [
      ['digest', false],
      ['blob', true],
      ['blob', false],
    ] as const) {
      const { last } = await start({ ...base(store), work, path }).ended
      assert.deepEqual(last, { type: 'done', report: { digest, sizeBytes: 300_000, created } })
      const wrong = await start({ ...base(store), work, path, expected }).ended
      assert.ok(wrong.last?.type === 'failed')
      assert.equal(wrong.last.error.code, 'ERR_STORE_DIGEST_MISMATCH')
    }
  })

  test('runs at the lowest priority, and SIGTERM cancels it without a trace', async () => {
    await using store = await testStore()
    const path = await largeSource(store)
    const before = await filesBelow(store.dataDir)
    const started = start({ ...base(store), work: 'import-erofs', devices: [{ path }] })
    await phase(started, 'writing')
    assert.equal(getPriority(started.child.pid ?? assert.fail()), constants.priority.PRIORITY_LOW)
    started.child.kill('SIGTERM')
    const { last, code } = await started.ended
    assert.equal(code, 0)
    assert.ok(last?.type === 'failed')
    assert.equal(last.error.code, 'ERR_ABORTED')
    const index = /\/index\//
    assert.deepEqual(
      (await filesBelow(store.dataDir)).filter((file) => !index.test(file)),
      before,
    )
  })

  test('ends and cleans up when its parent is gone', async () => {
    await using store = await testStore()
    const path = await largeSource(store)
    const before = await filesBelow(store.dataDir)
    const started = start({ ...base(store), work: 'import-erofs', devices: [{ path }] })
    await phase(started, 'writing')
    started.child.disconnect()
    assert.equal((await started.ended).code, 0)
    const index = /\/index\//
    assert.deepEqual(
      (await filesBelow(store.dataDir)).filter((file) => !index.test(file)),
      before,
    )
  })
})
