/** The control plane's changes of refs: damaged ones, lost races, and the epoch that workers compare. */
import assert from 'node:assert/strict'
import { readdir, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { Digest, Ref } from '../../src/core/index.ts'
import { Catalogue } from '../../src/server/catalogue.ts'
import type { MainControlPlaneOptions } from '../../src/server/control.ts'
import { MainControlPlane } from '../../src/server/control.ts'
import { ImportProcesses } from '../../src/server/import-processes.ts'
import { Jobs } from '../../src/server/jobs.ts'
import { Uploads } from '../../src/server/uploads.ts'
import { manifestKey } from '../../src/store/layout.ts'
import { MAX_WHOLE_GET_BYTES } from '../../src/store/storage-engine.ts'
import { DOMAIN, importBytes } from '../images/harness.ts'
import type { TestStore } from '../store/data-folder.ts'
import { testStore } from '../store/data-folder.ts'

interface Rig extends AsyncDisposable {
  readonly at: TestStore
  readonly control: MainControlPlane
  readonly uploads: Uploads
  readonly epoch: Int32Array
  readonly digests: readonly [Digest, Digest]
}

const SILENT = { info: () => undefined, warn: () => undefined, error: () => undefined }

async function rig(): Promise<Rig> {
  const at = await testStore()
  const catalogue = new Catalogue(at.store, SILENT)
  const processes = new ImportProcesses({ concurrency: 1 })
  const jobs = new Jobs({ processes, logger: SILENT })
  const uploads = new Uploads(at.store, { onError: (error) => assert.fail(String(error)) })
  const epoch = new Int32Array(new SharedArrayBuffer(4))
  const parts = { store: at.store, catalogue, jobs, processes, uploads, epoch }
  // refs need neither keeper nor reports
  const control = new MainControlPlane(parts as unknown as MainControlPlaneOptions)
  control.listening()
  const { refs } = at.store.domain(DOMAIN)
  const digests: Digest[] = []
  for (const name of ['a', 'b']) {
    const { digest } = await importBytes(at, [Buffer.alloc(5000, name)])
    await refs.compareAndSwap(name, '1', 0, { image: digest })
    digests.push(digest)
  }
  const [a, b] = digests
  assert.ok(a && b)
  return {
    at,
    control,
    uploads,
    epoch,
    digests: [a, b],
    async [Symbol.asyncDispose]() {
      await jobs.close()
      await uploads[Symbol.asyncDispose]()
      await processes[Symbol.asyncDispose]()
      await at[Symbol.asyncDispose]()
    },
  }
}

function ref(name: string): Ref {
  return { domain: DOMAIN, name, tag: '1' }
}

const NOT_JSON = 8

/** Makes the files of a tag so many zeros. */
async function damage(at: TestStore, name: string, bytes: number): Promise<void> {
  const folder = join(at.dataDir, 'domains', DOMAIN, 'refs', name)
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      await writeFile(join(entry.parentPath, entry.name), '')
      await truncate(join(entry.parentPath, entry.name), bytes)
    }
}

describe('refs', () => {
  test('each change moves the epoch before it is acknowledged', async () => {
    await using rigged = await rig()
    const { control, epoch, digests } = rigged
    await control.tag(ref('a'), ref('b'))
    assert.equal(Atomics.load(epoch, 0), 1)
    assert.equal(await control.resolve(ref('a')), digests[1])
    await control.remove(ref('a'))
    assert.equal(Atomics.load(epoch, 0), 2)
    await assert.rejects(control.resolve(ref('a')), { code: 'ERR_IMAGE_NOT_FOUND' })
    await assert.rejects(control.remove(ref('a')), { code: 'ERR_IMAGE_NOT_FOUND' })
  })

  test('a damaged tag can be replaced, can be removed, and hides no other', async () => {
    await using rigged = await rig()
    const { at, control, digests } = rigged
    const listed = async () => (await control.images({})).images.map(({ name }) => name)
    for (const bytes of [NOT_JSON, MAX_WHOLE_GET_BYTES + 1]) {
      await damage(at, 'a', bytes)
      await assert.rejects(control.resolve(ref('a')), { code: 'ERR_STORE_CORRUPT' })
      assert.deepEqual(await listed(), ['b'])
      await control.tag(ref('a'), ref('b'))
      assert.equal(await control.resolve(ref('a')), digests[1])
      await damage(at, 'a', bytes)
      await control.remove(ref('a'))
      await assert.rejects(control.resolve(ref('a')), { code: 'ERR_IMAGE_NOT_FOUND' })
      await control.tag(ref('a'), ref('b'))
    }
  })

  test('an image whose record cannot be read hides no other', async () => {
    await using rigged = await rig()
    const { at, control, digests } = rigged
    await truncate(join(at.dataDir, manifestKey(DOMAIN, digests[0])), MAX_WHOLE_GET_BYTES + 1)
    assert.deepEqual(
      (await control.images({})).images.map(({ name }) => name),
      ['b'],
    )
  })

  test('a tag is not moved to an image that cannot be described; either name can be removed', async () => {
    await using rigged = await rig()
    const { at, control, digests } = rigged
    await rm(join(at.dataDir, manifestKey(DOMAIN, digests[1])))
    await assert.rejects(control.tag(ref('a'), ref('b')), { code: 'ERR_STORE_MANIFEST_MISSING' })
    assert.equal(await control.resolve(ref('a')), digests[0])
    await assert.rejects(control.image(ref('b')), { code: 'ERR_STORE_MANIFEST_MISSING' })
    await control.remove(ref('b'))
    await assert.rejects(control.image(ref('b')), { code: 'ERR_IMAGE_NOT_FOUND' })
  })

  test('many changes of one tag at once: each is made or refused by code, none is lost half way', async () => {
    await using rigged = await rig()
    const { control, epoch } = rigged
    const results = await Promise.allSettled(
      Array.from({ length: 6 }, (_, i) => control.tag(ref('new'), ref(i % 2 === 0 ? 'a' : 'b'))),
    )
    for (const result of results) {
      if (result.status === 'rejected') assert.equal(result.reason.code, 'ERR_REF_CONFLICT')
    }
    assert.ok(results.some(({ status }) => status === 'fulfilled'))
    assert.ok(rigged.digests.includes(await control.resolve(ref('new'))))
    assert.ok(Atomics.load(epoch, 0) >= 1)
  })

  test('preconditions are evaluated against what is replaced', async () => {
    await using rigged = await rig()
    const { at, control, digests } = rigged
    const [a, b] = digests.map((digest) => `"${digest}"`)
    const failed = { code: 'ERR_HTTP_PRECONDITION_FAILED' }
    await assert.rejects(control.tag(ref('a'), ref('b'), { 'if-match': b }), failed)
    await assert.rejects(control.tag(ref('a'), ref('b'), { 'if-none-match': '*' }), failed)
    await assert.rejects(control.remove(ref('a'), { 'if-match': b }), failed)
    assert.equal(await control.resolve(ref('a')), digests[0])
    await control.tag(ref('a'), ref('b'), { 'if-match': a })
    await assert.rejects(control.remove(ref('new'), { 'if-match': a }), {
      code: 'ERR_IMAGE_NOT_FOUND',
    })
    // What cannot be read counts as none, as for changes without conditions.
    await damage(at, 'a', NOT_JSON)
    await assert.rejects(control.remove(ref('a'), { 'if-match': '*' }), failed)
    await control.tag(ref('a'), ref('b'), { 'if-none-match': '*' })
    await control.remove(ref('a'), { 'if-match': b })
  })

  test('of many who create one tag if it is not there, one does', async () => {
    await using rigged = await rig()
    const { control } = rigged
    const condition = { 'if-none-match': '*' }
    const results = await Promise.allSettled(
      Array.from({ length: 6 }, () => control.tag(ref('new'), ref('a'), condition)),
    )
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1)
    for (const result of results) {
      if (result.status === 'rejected')
        assert.match(result.reason.code, /^ERR_(HTTP_PRECONDITION_FAILED|REF_CONFLICT)$/)
    }
  })

  test('nothing crosses domains', async () => {
    await using rigged = await rig()
    const other = { domain: 'other', name: 'a', tag: '1' }
    await assert.rejects(rigged.control.tag(other, ref('a')), { code: 'ERR_INVALID_ARGUMENT' })
  })
})

describe('imports', () => {
  test('a target that could not be published is refused at once, and the upload given back', async () => {
    await using rigged = await rig()
    const { at, control, digests } = rigged
    const refused = async (target: Ref, code: string, first = () => undefined as void) => {
      const { id } = await control.beginUpload(DOMAIN, 10)
      first()
      const request = { ref: target, format: 'erofs', devices: [] } as const
      await assert.rejects(control.startImport(DOMAIN, id, request), { code })
      await assert.rejects(control.finishBlob(DOMAIN, id), { code: 'ERR_UPLOAD_NOT_FOUND' })
    }
    await refused({ domain: 'other', name: 'x', tag: '1' }, 'ERR_REF_INVALID')
    await refused({ domain: DOMAIN, name: 'x', digest: digests[0] }, 'ERR_REF_INVALID')
    await refused(ref('x'), 'ERR_SERVER_BUSY', () => control.drain())
    assert.deepEqual(await readdir(join(at.dataDir, 'domains', DOMAIN, 'uploads')), [])
    await assert.rejects(control.beginUpload(DOMAIN, 10), { code: 'ERR_SERVER_BUSY' })
    const checks = await control.readiness()
    assert.deepEqual(
      checks.filter(({ ok }) => !ok).map(({ name }) => name),
      ['serving'],
    )
  })

  test('an upload is hashed and parked, stored as a blob, or given back when its digest is wrong', async () => {
    await using rigged = await rig()
    const { at, control, uploads } = rigged
    const upload = async () => {
      const { id, path } = await control.beginUpload(DOMAIN, 4)
      await writeFile(path, 'abcd')
      return id
    }
    const parked = await control.finishBlob(DOMAIN, await upload(), { park: true })
    assert.equal(parked.sizeBytes, 4)
    const taken = uploads.takeParked(DOMAIN, parked.digest)
    assert.ok(taken)
    await taken[Symbol.asyncDispose]()
    const stored = await control.finishBlob(DOMAIN, await upload())
    assert.deepEqual({ ...stored }, { digest: parked.digest, sizeBytes: 4, created: true })
    const expected: Digest = `sha256:${'0'.repeat(64)}`
    const wrong = await upload()
    await assert.rejects(control.finishBlob(DOMAIN, wrong, { expected }), {
      code: 'ERR_STORE_DIGEST_MISMATCH',
    })
    await assert.rejects(control.finishBlob(DOMAIN, wrong), { code: 'ERR_UPLOAD_NOT_FOUND' })
    assert.deepEqual(await readdir(join(at.dataDir, 'domains', DOMAIN, 'uploads')), [])
  })

  test('a device that two imports bring, and one that an image has twice, is there for each of them', async () => {
    await using rigged = await rig()
    const { at, control } = rigged
    const upload = async (bytes: Buffer) => {
      const { id, path } = await control.beginUpload(DOMAIN, bytes.length)
      await writeFile(path, bytes)
      return id
    }
    const park = async () =>
      control.finishBlob(DOMAIN, await upload(Buffer.alloc(9000, 'device')), { park: true })
    const start = async (name: string, devices: readonly Digest[]) =>
      control.startImport(DOMAIN, await upload(Buffer.alloc(5000, name)), {
        ref: ref(name),
        format: 'erofs',
        devices,
      })
    const { digest } = await park()
    await park()
    const jobs = [await start('one', [digest]), await start('two', [digest])]
    await park()
    jobs.push(await start('twice', [digest, digest]))
    for (const { id } of jobs) {
      const { state, error } = await control.job(id, { waitMs: 60_000 })
      assert.deepEqual({ state, error }, { state: 'done', error: undefined })
    }
    assert.deepEqual(await readdir(join(at.dataDir, 'domains', DOMAIN, 'uploads')), [])
  })
})
