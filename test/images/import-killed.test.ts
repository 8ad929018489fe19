/**
 * Import processes that are killed at any instant, as the kernel does when memory runs out: what was there before
 * stays, nothing half done is visible, what was staged can be removed, and the same import works afterwards.
 */
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { siblingModule } from '../../src/core/index.ts'
import type { FromImportProcess, ToImportProcess } from '../../src/images/import-messages.ts'
import type { ImportPhase } from '../../src/images/index.ts'
import { importErofs } from '../../src/images/index.ts'
import { loadFixture, randomNumbers, sha256 } from '../erofs/fixtures.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, testStore } from '../store/data-folder.ts'
import { DOMAIN, importBytes, readBack } from './harness.ts'

const PHASES: readonly ImportPhase[] = ['reading', 'writing', 'verifying', 'publishing']
/** Several times what a phase of so small an import takes. */
const MAX_DELAY_MS = 60
const SOURCE_BYTES = 24_000_000

/** Starts an import and kills it some time after it has entered a phase. @returns its pid */
async function killedImport(
  store: TestStore,
  path: string,
  wanted: ImportPhase,
  afterMs: number,
): Promise<number> {
  const child = fork(siblingModule(import.meta.url, '../../src/images/import-process'), {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const entered = Promise.withResolvers<void>()
  child.on('message', (message: FromImportProcess) => {
    if (message.type !== 'progress' || message.phase === wanted) entered.resolve()
  })
  const ended = once(child, 'close')
  const { dataDir } = store
  const start: ToImportProcess = {
    type: 'start',
    work: 'import-erofs',
    dataDir,
    domain: DOMAIN,
    devices: [{ path }],
  }
  child.send(start)
  await entered.promise
  await delay(afterMs)
  child.kill('SIGKILL')
  await ended
  return child.pid ?? assert.fail()
}

/** Every blob has the bytes of its name, and an index. */
async function assertWholeBlobs(store: TestStore, checked: Set<string>): Promise<void> {
  const { blobs } = store.store.domain(DOMAIN)
  for await (const page of blobs.list()) {
    for (const { digest } of page) {
      if (checked.has(digest)) continue
      checked.add(digest)
      const path = (await blobs.localPath(digest)) ?? assert.fail()
      assert.equal(`sha256:${sha256(await readFile(path))}`, digest)
      await (await blobs.openIndex(digest)).verify()
    }
  }
}

test('an import killed at any instant leaves the store as it was, but for whole blobs and maps', async () => {
  await using store = await testStore()
  const domain = store.store.domain(DOMAIN)
  const { devices } = loadFixture('plain')
  const before = await importBytes(store, devices)
  await domain.refs.compareAndSwap('base', 'latest', 0, { image: before.digest })
  const random = randomNumbers(77)
  const path = join(store.dataDir, 'killed')
  const uploads = join(store.dataDir, 'domains', DOMAIN, 'uploads')
  const checked = new Set<string>()
  let leftStaged = 0
  for (let round = 0; round < count(50, 6); round++) {
    const bytes = createHash('shake256', { outputLength: SOURCE_BYTES })
      .update(`killed ${round}`)
      .digest()
    await writeFile(path, bytes)
    const phase = PHASES[round % PHASES.length] ?? 'writing'
    const pid = await killedImport(store, path, phase, random(MAX_DELAY_MS))

    if ((await readdir(uploads)).length > 0) leftStaged++
    await domain.removeStagedBy(pid + 1)
    await domain.removeStagedBy(pid)
    assert.deepEqual(await readdir(uploads), [])
    const { refs } = await domain.refs.list()
    assert.deepEqual(
      refs.map(({ name, ref }) => [name, ref.image]),
      [['base', before.digest]],
    )
    assert.deepEqual(
      await readBack(store, before.digest),
      devices.map((device) => Buffer.from(device)),
    )
    await assertWholeBlobs(store, checked)

    const again = await importErofs({ store: store.store, domain: DOMAIN, devices: [{ path }] })
    assert.deepEqual(await readBack(store, again.digest), [bytes])
  }
  assert.ok(leftStaged > 0, 'no round was killed while something was staged')
  assert.deepEqual(store.warnings, [])
})
