import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { LocalEngine } from '../../src/store/index.ts'
import type { PublicationStep } from '../../src/store/publication.ts'
import { hasCode, storageEngineContract } from '../contract/storage-engine.ts'
import { dataFolder, filesBelow } from './data-folder.ts'

storageEngineContract('local directory', async () => {
  const folder = await dataFolder()
  const engine = new LocalEngine({ dataDir: folder.path, changesRefs: true })
  return {
    engine,
    async [Symbol.asyncDispose]() {
      await engine[Symbol.asyncDispose]()
      await folder[Symbol.asyncDispose]()
    },
  }
})

interface Step {
  readonly step: PublicationStep
  readonly path: string
}

async function traced() {
  const folder = await dataFolder()
  const steps: Step[] = []
  const engine = new LocalEngine({
    dataDir: folder.path,
    changesRefs: true,
    afterStep: (step, path) => void steps.push({ step, path: path.slice(folder.path.length) }),
  })
  return { folder, engine, steps, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() }
}

describe('local engine: order of what reaches the disk', () => {
  const key = 'domains/acme/blobs/sha256/ab/abc'

  test('the file before its name, the name before success, each new folder before what is in it', async () => {
    await using fixture = await traced()
    const { engine, steps, folder: root } = fixture
    const path = join(await engine.stagingFolder(key), 'staged')
    await writeFile(path, 'bytes')
    steps.length = 0
    await engine.put(key, { path })
    const link = steps.findIndex(({ step }) => step === 'link')
    const fileSync = steps.findIndex(({ step }) => step === 'fsync-file')
    assert.ok(fileSync >= 0 && fileSync < link)
    const made = steps.filter(({ step }) => step === 'make-folder').map((step) => step.path)
    const base = '/domains/acme/blobs'
    assert.deepEqual(made, [base, `${base}/sha256`, `${base}/sha256/ab`])
    for (const folder of made) {
      const at = steps.findIndex((one) => one.step === 'make-folder' && one.path === folder)
      const parent = folder.slice(0, folder.lastIndexOf('/'))
      const sync = steps.findIndex(
        (one, index) => index > at && one.step === 'fsync-folder' && one.path === parent,
      )
      assert.ok(sync > at && sync < link, `${folder} is on disk before the link`)
    }
    assert.deepEqual(steps.slice(link + 1), [
      { step: 'fsync-folder', path: `${base}/sha256/ab` },
      { step: 'unlink', path: '/domains/acme/uploads/staged' },
    ])
    assert.deepEqual(await filesBelow(root.path), [key])
  })

  test('an object that another process linked is on disk before put says present', async () => {
    await using fixture = await traced()
    const { engine, steps, folder } = fixture
    await engine.put(key, Buffer.from('bytes'))
    const other = new LocalEngine({
      dataDir: folder.path,
      changesRefs: false,
      afterStep: (step, path) => void steps.push({ step, path: path.slice(folder.path.length) }),
    })
    steps.length = 0
    assert.equal(await other.put(key, Buffer.from('bytes')), 'present')
    const synced = steps.filter(({ step }) => step === 'fsync-folder').map((step) => step.path)
    assert.ok(synced.includes('/domains/acme/blobs/sha256/ab'))
    assert.ok(synced.includes('/domains'), 'its folders as well')
    assert.deepEqual(await filesBelow(folder.path), [key])
  })

  test('settling makes the names of what is there durable, each folder once', async () => {
    await using fixture = await traced()
    const { engine, steps, folder } = fixture
    const index = `${key}.idx`
    for (const one of [key, index]) await engine.put(one, Buffer.from('bytes'))
    const other = new LocalEngine({
      dataDir: folder.path,
      changesRefs: false,
      afterStep: (step, path) => void steps.push({ step, path: path.slice(folder.path.length) }),
    })
    steps.length = 0
    await other.settle([key, index, 'domains/acme/blobs/sha256/cd/cdef'])
    const base = '/domains/acme/blobs'
    assert.deepEqual(
      steps.map((one) => [one.step, one.path]),
      ['', '/domains', '/domains/acme', base, `${base}/sha256`, `${base}/sha256/ab`].map((path) => [
        'fsync-folder',
        path,
      ]),
    )
  })

  test('a ref is written, fsynced, renamed, and its folder fsynced', async () => {
    await using fixture = await traced()
    const { engine, steps } = fixture
    const ref = 'domains/acme/refs/app/_tags/latest'
    const version = await engine.compareAndSwap(ref, undefined, Buffer.from('1'))
    steps.length = 0
    await engine.compareAndSwap(ref, version, Buffer.from('2'))
    assert.deepEqual(
      steps.map(({ step }) => step),
      ['stage', 'rename', 'fsync-folder'],
    )
  })
})

describe('local engine', () => {
  test('a member changes no refs', async () => {
    await using folder = await dataFolder()
    const engine = new LocalEngine({ dataDir: folder.path, changesRefs: false })
    await assert.rejects(
      engine.compareAndSwap('domains/acme/refs/a/_tags/b', undefined, Buffer.from('1')),
      hasCode('ERR_STORE_MEMBER'),
    )
    assert.deepEqual(await filesBelow(folder.path), [])
  })

  test('deleting and creating beside each other in one folder loses nothing', async () => {
    await using folder = await dataFolder()
    const engine = new LocalEngine({ dataDir: folder.path, changesRefs: true })
    const work = Array.from({ length: 8 }, async (_, index) => {
      const key = `domains/acme/maps/sha256/ab/abc/${index}`
      for (let round = 0; round < 20; round++) {
        assert.equal(await engine.put(key, Buffer.from(key)), 'created')
        assert.equal(await engine.delete(key), true)
      }
      await engine.put(key, Buffer.from(key))
    })
    await Promise.all(work)
    assert.equal((await filesBelow(folder.path)).length, 8)
  })

  test('files that are no keys are not listed', async () => {
    await using folder = await dataFolder()
    const engine = new LocalEngine({ dataDir: folder.path, changesRefs: true })
    const key = 'domains/acme/blobs/sha256/ab/abc'
    await engine.put(key, Buffer.from('1'))
    await writeFile(join(folder.path, 'domains/acme/blobs/sha256/ab/a copy of abc~'), '')
    await writeFile(join(folder.path, 'domains/acme/uploads/half'), '')
    const pages: string[] = []
    for await (const page of engine.list('')) pages.push(...page.map((head) => head.key))
    assert.deepEqual(pages, [key])
  })

  test('a failed write leaves nothing and is told apart from a full disk', async () => {
    await using folder = await dataFolder()
    const engine = new LocalEngine({ dataDir: folder.path, changesRefs: true })
    const key = 'domains/acme/blobs/sha256/ab/abc'
    const path = join(await engine.stagingFolder(key), 'staged')
    await writeFile(path, 'bytes')
    // A file where a folder has to be.
    await writeFile(join(folder.path, 'domains/acme/blobs'), '')
    await assert.rejects(engine.put(key, { path }), hasCode('ERR_STORE_WRITE_FAILED'))
    assert.deepEqual(await filesBelow(folder.path), ['domains/acme/blobs'])
  })
})
