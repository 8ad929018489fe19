/**
 * What every storage engine must do, whatever it is made of. An engine's own test calls
 * `storageEngineContract` with a way to make an empty one.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { access, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { AppError } from '../../src/core/index.ts'
import { isAppError } from '../../src/core/index.ts'
import type { StorageEngine } from '../../src/store/index.ts'

/** An empty engine that may change refs, and its removal. */
export interface EngineFixture extends AsyncDisposable {
  readonly engine: StorageEngine
}

const BASE = 'domains/acme'

export function hasCode(code: string) {
  return (error: unknown): error is AppError => {
    assert.ok(isAppError(error), String(error))
    assert.equal(error.code, code)
    return true
  }
}

async function keysOf(engine: StorageEngine, prefix: string, options = {}): Promise<string[]> {
  const keys: string[] = []
  for await (const page of engine.list(prefix, options)) keys.push(...page.map(({ key }) => key))
  return keys
}

async function stage(engine: StorageEngine, key: string, bytes: Uint8Array): Promise<string> {
  const path = join(await engine.stagingFolder(key), `staged-${randomBytes(8).toString('hex')}`)
  await writeFile(path, bytes)
  return path
}

export function storageEngineContract(title: string, create: () => Promise<EngineFixture>): void {
  describe(`storage engine contract: ${title}`, () => {
    describe('objects', () => {
      test('a key that is not there', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/blobs/sha256/00/none`
        assert.equal(await engine.get(key), undefined)
        assert.equal(await engine.get(key, { offset: 0, length: 1 }), undefined)
        assert.equal(await engine.head(key), undefined)
        assert.equal(await engine.delete(key), false)
        assert.equal(await engine.getVersioned(key), undefined)
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [])
      })

      test('put of bytes, then get, head, list and delete', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/manifests/sha256/ab/abc`
        const bytes = randomBytes(10_000)
        assert.equal(await engine.put(key, bytes), 'created')
        assert.deepEqual(Buffer.from((await engine.get(key)) ?? []), bytes)
        assert.deepEqual(await engine.head(key), { key, size: 10_000 })
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [key])
        assert.equal(await engine.delete(key), true)
        assert.equal(await engine.get(key), undefined)
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [])
      })

      test('put of a staged file consumes it', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/blobs/sha256/ab/abc`
        const bytes = randomBytes(300_000)
        const path = await stage(engine, key, bytes)
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [], 'staged files are no objects')
        assert.equal(await engine.put(key, { path }), 'created')
        assert.deepEqual(Buffer.from((await engine.get(key)) ?? []), bytes)
        await assert.rejects(access(path))
      })

      test('put of a key that is taken changes nothing and consumes a staged file', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/maps/sha256/ab/abc/1`
        await engine.put(key, Buffer.from('first'))
        assert.equal(await engine.put(key, Buffer.from('second')), 'present')
        const path = await stage(engine, key, Buffer.from('third'))
        assert.equal(await engine.put(key, { path }), 'present')
        await assert.rejects(access(path))
        assert.equal(Buffer.from((await engine.get(key)) ?? []).toString(), 'first')
      })

      test('what is prepared is not visible until it is published, and leaves nothing when it is not', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/manifests/sha256/ab/abc`
        {
          await using first = await engine.prepare(key, Buffer.from('first'))
          assert.equal(await engine.head(key), undefined)
          await using second = await engine.prepare(key, Buffer.from('second'))
          const path = await stage(engine, key, Buffer.from('third'))
          await using dropped = await engine.prepare(key, { path })
          await dropped[Symbol.asyncDispose]()
          await assert.rejects(access(path))
          assert.deepEqual(await keysOf(engine, `${BASE}/`), [])
          assert.equal(await second.publish(), 'created')
          assert.equal(await first.publish(), 'present')
        }
        assert.equal(Buffer.from((await engine.get(key)) ?? []).toString(), 'second')
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [key])
      })

      test('replace takes the place of what is there, or creates it', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/manifests/sha256/ab/abc`
        for (const text of ['damaged', 'good', 'better']) {
          const path = await stage(engine, key, Buffer.from(text))
          await using prepared = await engine.prepare(key, { path })
          await prepared.replace()
          await assert.rejects(access(path))
          assert.equal(Buffer.from((await engine.get(key)) ?? []).toString(), text)
        }
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [key])
      })

      test('settling what is there and what is not changes nothing', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/manifests/sha256/ab/abc`
        await engine.put(key, Buffer.from('there'))
        await engine.settle([key, `${BASE}/manifests/sha256/cd/none`])
        await engine.settle([])
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [key])
      })

      test('of many writers of one key exactly one creates it', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/maps/sha256/ab/abc/7`
        const bodies = Array.from({ length: 12 }, (_, index) => Buffer.from(`writer ${index}`))
        const outcomes = await Promise.all(bodies.map((body) => engine.put(key, body)))
        assert.equal(outcomes.filter((outcome) => outcome === 'created').length, 1)
        const winner = bodies[outcomes.indexOf('created')]
        assert.deepEqual(Buffer.from((await engine.get(key)) ?? []), winner)
      })

      test('an object of no bytes', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/manifests/sha256/ab/empty`
        await engine.put(key, new Uint8Array(0))
        assert.deepEqual(await engine.head(key), { key, size: 0 })
        assert.equal((await engine.get(key))?.byteLength, 0)
      })

      test('ranges, also into given memory', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/blobs/sha256/ab/abc`
        const bytes = randomBytes(5000)
        await engine.put(key, bytes)
        for (const [offset, length] of [
          [0, 5000],
          [0, 0],
          [5000, 0],
          [4999, 1],
          [17, 4000],
        ] as const) {
          const got = await engine.get(key, { offset, length })
          assert.deepEqual(Buffer.from(got ?? []), bytes.subarray(offset, offset + length))
        }
        const target = new Uint8Array(new SharedArrayBuffer(100)).fill(7)
        const got = await engine.get(key, { offset: 10, length: 90 }, target)
        assert.equal(got?.buffer, target.buffer)
        assert.deepEqual(Buffer.from(target.subarray(0, 90)), bytes.subarray(10, 100))
        assert.equal(target[90], 7, 'memory behind the range is left alone')
      })

      test('a range that is not inside the object is refused', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const key = `${BASE}/blobs/sha256/ab/abc`
        await engine.put(key, Buffer.alloc(100))
        for (const [offset, length] of [
          [0, 101],
          [100, 1],
          [101, 0],
          [-1, 5],
          [5, -1],
        ] as const) {
          await assert.rejects(engine.get(key, { offset, length }), hasCode('ERR_STORE_RANGE'))
        }
      })

      test('keys that are no keys are refused', async () => {
        await using fixture = await create()
        const { engine } = fixture
        for (const key of [
          '',
          '/',
          'domains',
          'domains/acme/blobs',
          'other/acme/blobs/x',
          'domains/acme/blobs/../../x',
          'domains/acme/blobs//x',
          'domains/acme/blobs/x/',
          'domains/acme/blobs/a b',
          'domains/acme/blobs/a\0b',
          'domains/acme/uploads/x',
          'domains/acme/index/x',
          `domains/acme/blobs/${'x'.repeat(1100)}`,
        ]) {
          await assert.rejects(
            async () => engine.put(key, Buffer.alloc(1)),
            hasCode('ERR_STORE_KEY_INVALID'),
          )
          await assert.rejects(async () => engine.get(key), hasCode('ERR_STORE_KEY_INVALID'))
        }
      })
    })

    describe('lists', () => {
      const names = ['a', 'a-b/x', 'a.b', 'a/x', 'a/y/z', 'a0', 'b/_tags/T', 'b/_tags/t', 'ab/c']
      const sorted = names.map((name) => `${BASE}/refs/${name}`).toSorted()

      async function filled(): Promise<EngineFixture> {
        const fixture = await create()
        for (const name of names) {
          // A name cannot be a key and the start of others in a directory: `a` is left to buckets.
          if (name !== 'a') await fixture.engine.put(`${BASE}/refs/${name}`, Buffer.from(name))
        }
        return fixture
      }
      const present = sorted.filter((key) => key !== `${BASE}/refs/a`)

      test('are in the order of the bytes of the keys', async () => {
        await using fixture = await filled()
        assert.deepEqual(await keysOf(fixture.engine, `${BASE}/`), present)
        assert.deepEqual(await keysOf(fixture.engine, 'domains/'), present)
      })

      test('take any prefix, also half a component', async () => {
        await using fixture = await filled()
        for (const prefix of ['refs/', 'refs/a', 'refs/a/', 'refs/a-', 'refs/b/_tags/', 'refs/q']) {
          const full = `${BASE}/${prefix}`
          const expected = present.filter((key) => key.startsWith(full))
          assert.deepEqual(await keysOf(fixture.engine, full), expected, prefix)
        }
      })

      test('continue after any key, whatever the page size', async () => {
        await using fixture = await filled()
        for (const after of [...present, `${BASE}/refs/a/`, `${BASE}/refs/zz`, 'a', 'zz']) {
          const expected = present.filter((key) => key > after)
          for (const pageSize of [1, 3, 1000]) {
            const got = await keysOf(fixture.engine, `${BASE}/refs/`, { after, pageSize })
            assert.deepEqual(got, expected, after)
          }
        }
      })

      test('have pages of the size that was asked for', async () => {
        await using fixture = await filled()
        const sizes: number[] = []
        for await (const page of fixture.engine.list(`${BASE}/`, { pageSize: 3 })) {
          sizes.push(page.length)
        }
        assert.deepEqual(sizes, [3, 3, 2])
      })

      test('groups are the next components that lead to something', async () => {
        await using fixture = await filled()
        const { engine } = fixture
        await engine.put('domains/zeta/blobs/sha256/00/x', Buffer.alloc(1))
        await engine.stagingFolder('domains/staged-only/blobs/x')
        assert.deepEqual(await engine.listGroups('domains/'), ['acme', 'zeta'])
        assert.deepEqual(await engine.listGroups(`${BASE}/refs/`), ['a-b', 'a', 'ab', 'b'])
        await engine.delete('domains/zeta/blobs/sha256/00/x')
        assert.deepEqual(await engine.listGroups('domains/'), ['acme'])
        assert.deepEqual(await engine.listGroups('domains/none/'), [])
      })
    })

    describe('refs', () => {
      const key = `${BASE}/refs/app/_tags/latest`

      test('are created, changed and deleted by version only', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const one = Buffer.from('one')
        const v1 = await engine.compareAndSwap(key, undefined, one)
        assert.ok(v1)
        assert.deepEqual((await engine.getVersioned(key))?.version, v1)
        assert.equal(await engine.compareAndSwap(key, undefined, Buffer.from('x')), undefined)
        const v2 = await engine.compareAndSwap(key, v1, Buffer.from('two'))
        assert.ok(v2)
        assert.notEqual(v2, v1)
        assert.equal(await engine.compareAndSwap(key, v1, Buffer.from('x')), undefined)
        assert.equal(await engine.compareAndSwap(key, v1, undefined), undefined)
        const now = await engine.getVersioned(key)
        assert.deepEqual(Buffer.from(now?.bytes ?? []).toString(), 'two')
        assert.ok(await engine.compareAndSwap(key, v2, undefined))
        assert.equal(await engine.getVersioned(key), undefined)
        assert.equal(await engine.compareAndSwap(key, v2, Buffer.from('x')), undefined)
        assert.deepEqual(await keysOf(engine, `${BASE}/`), [])
      })

      test('of many changes from one version exactly one is made', async () => {
        await using fixture = await create()
        const { engine } = fixture
        let version = await engine.compareAndSwap(key, undefined, Buffer.from('start'))
        for (let round = 0; round < 5; round++) {
          const bodies = Array.from({ length: 8 }, (_, index) => Buffer.from(`${round}.${index}`))
          const swaps = bodies.map((body) => engine.compareAndSwap(key, version, body))
          const outcomes = await Promise.all(swaps)
          const winners = outcomes.filter((outcome) => outcome !== undefined)
          assert.equal(winners.length, 1)
          version = winners[0]
          assert.equal((await engine.getVersioned(key))?.version, version)
        }
      })

      test('a reader beside writers sees whole values only', async () => {
        await using fixture = await create()
        const { engine } = fixture
        const values = ['a', 'b'].map((letter) => Buffer.from(letter.repeat(5000)))
        let version = await engine.compareAndSwap(key, undefined, values[0])
        const state = { writing: true }
        const reader = (async () => {
          let reads = 0
          while (state.writing) {
            const text = Buffer.from((await engine.getVersioned(key))?.bytes ?? []).toString()
            assert.match(text, /^(a{5000}|b{5000})$/)
            reads++
          }
          return reads
        })()
        for (let round = 1; round <= 40; round++) {
          version = await engine.compareAndSwap(key, version, values[round % 2])
          assert.ok(version)
        }
        state.writing = false
        assert.ok((await reader) > 0)
      })
    })

    test('free space is a number of bytes or unknown', async () => {
      await using fixture = await create()
      const free = await fixture.engine.freeBytes()
      assert.ok(free === undefined || (Number.isSafeInteger(free) && free >= 0))
    })
  })
}
