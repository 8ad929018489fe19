/** Uploads from admission to their end: every one gives its file and its space back exactly once. */
import assert from 'node:assert/strict'
import { access, stat } from 'node:fs/promises'
import { describe, test } from 'node:test'

import type { Digest } from '../../src/core/index.ts'
import { Uploads } from '../../src/server/uploads.ts'
import { testStore } from '../store/data-folder.ts'

const DIGEST: Digest = `sha256:${'1'.repeat(64)}`
const onError = (error: unknown): void => assert.fail(String(error))

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** Resolves when the file is gone; the test's own deadline is the limit. */
async function gone(path: string): Promise<void> {
  while (await exists(path)) await new Promise((resolve) => setImmediate(resolve))
}

describe('uploads', () => {
  test('taken once, by its own domain; an abort may come twice and too late', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError })
    const { id, staged, limitBytes } = await uploads.begin('d', 100)
    assert.equal(limitBytes, 100)
    assert.ok(await exists(staged.path))
    assert.throws(() => uploads.take('other', id), { code: 'ERR_UPLOAD_NOT_FOUND' })
    const taken = uploads.take('d', id)
    assert.throws(() => uploads.take('d', id), { code: 'ERR_UPLOAD_NOT_FOUND' })
    await uploads.abort(id)
    assert.ok(await exists(staged.path), 'it belongs to who took it')
    await taken.staged[Symbol.asyncDispose]()

    const other = await uploads.begin('d', 100)
    await uploads.abort(other.id)
    await uploads.abort(other.id)
    assert.equal(await exists(other.staged.path), false)
    assert.throws(() => uploads.take('d', other.id), { code: 'ERR_UPLOAD_NOT_FOUND' })
  })

  test('space is set aside until the end, and what does not fit is refused before its body', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError })
    const free = (await at.store.freeBytes()) ?? assert.fail()
    await assert.rejects(uploads.begin('d', free * 2), { code: 'ERR_STORE_FULL' })
    const half = await uploads.begin('d', Math.floor(free * 0.6))
    await assert.rejects(uploads.begin('d', Math.floor(free * 0.6)), { code: 'ERR_STORE_FULL' })
    await uploads.abort(half.id)
    await uploads.abort((await uploads.begin('d', Math.floor(free * 0.6))).id)
    const unknown = await uploads.begin('d', undefined)
    assert.ok(unknown.limitBytes > 0 && unknown.limitBytes < free)
    const second = await uploads.begin('d', undefined)
    assert.ok(second.limitBytes > 0 && second.limitBytes < unknown.limitBytes)
  })

  test('256 at once; refused ones hold nothing', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError })
    const begun = await Promise.allSettled(Array.from({ length: 260 }, () => uploads.begin('d', 1)))
    const refused = begun.filter((result) => result.status === 'rejected')
    assert.equal(refused.length, 4)
    for (const { reason } of refused) assert.equal(reason.code, 'ERR_UPLOADS_EXHAUSTED')
    const first = begun.find((result) => result.status === 'fulfilled')
    await uploads.abort(first?.value.id ?? '')
    await uploads.begin('d', 1)
  })

  test('a parked device is taken by digest, in its domain, as often as it was parked, from one file', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError })
    const park = async () => {
      const upload = uploads.take('d', (await uploads.begin('d', 1)).id)
      await uploads.park(upload, DIGEST)
      return upload.staged
    }
    const kept = await park()
    const equal = await park()
    assert.equal(await exists(equal.path), false)
    assert.equal(uploads.takeParked('other', DIGEST), undefined)
    const first = uploads.takeParked('d', DIGEST) ?? assert.fail()
    const second = uploads.takeParked('d', DIGEST) ?? assert.fail()
    assert.deepEqual([first.path, second.path], [kept.path, kept.path])
    assert.equal(uploads.takeParked('d', DIGEST), undefined)
    await first[Symbol.asyncDispose]()
    await first[Symbol.asyncDispose]()
    assert.ok(await exists(kept.path), 'the other import reads it')
    await second[Symbol.asyncDispose]()
    assert.equal(await exists(kept.path), false)
  })

  test('a device parked once for each time that an import names it leaves nothing behind', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError })
    const paths: string[] = []
    for (let i = 0; i < 3; i++) {
      const upload = uploads.take('d', (await uploads.begin('d', 1)).id)
      await uploads.park(upload, DIGEST)
      paths.push(upload.staged.path)
    }
    const device = uploads.takeParked('d', DIGEST, 3) ?? assert.fail()
    await device[Symbol.asyncDispose]()
    for (const path of paths) assert.equal(await exists(path), false)
    assert.equal(uploads.takeParked('d', DIGEST), undefined)
  })

  test('a parked device that nobody takes is removed in time, without another upload', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError, parkTtlMs: 10, checkMs: 5 })
    const keep = setInterval(() => undefined, 5) // the timer of uploads does not keep a process alive
    try {
      const upload = uploads.take('d', (await uploads.begin('d', 1)).id)
      await uploads.park(upload, DIGEST)
      await gone(upload.staged.path)
      assert.equal(uploads.takeParked('d', DIGEST), undefined)
    } finally {
      clearInterval(keep)
    }
  })

  test('a parked device outlasts the uploads of its domain, and is removed in time after the last', async () => {
    await using at = await testStore()
    await using uploads = new Uploads(at.store, { onError, parkTtlMs: 10, checkMs: 5 })
    const keep = setInterval(() => undefined, 5)
    try {
      const park = async (domain: string) => {
        const upload = uploads.take(domain, (await uploads.begin(domain, 1)).id)
        await uploads.park(upload, DIGEST)
        return upload.staged.path
      }
      const image = await uploads.begin('d', 1)
      const [device, other] = [await park('d'), await park('other')]
      // Both are as old: when one has expired, the other would have.
      await gone(other)
      assert.ok(await exists(device))
      uploads.take('d', image.id)
      assert.ok(await exists(device), 'time starts at the end of the upload')
      await gone(device)
      await image.staged[Symbol.asyncDispose]()
    } finally {
      clearInterval(keep)
    }
  })

  test('closing removes what is being received and what is parked', async () => {
    await using at = await testStore()
    const uploads = new Uploads(at.store, { onError })
    const receiving = await uploads.begin('d', 1)
    const parked = uploads.take('d', (await uploads.begin('d', 1)).id)
    await uploads.park(parked, DIGEST)
    assert.ok((await stat(parked.staged.path)).isFile())
    assert.deepEqual(uploads.counts, { receiving: 1, parked: 1 })
    await uploads[Symbol.asyncDispose]()
    assert.deepEqual(uploads.counts, { receiving: 0, parked: 0 })
    assert.deepEqual(
      [await exists(receiving.staged.path), await exists(parked.staged.path)],
      [false, false],
    )
  })
})
