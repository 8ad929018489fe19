import assert from 'node:assert/strict'
import { mkdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import type { Digest } from '../../src/core/index.ts'
import { digestOf, isAppError } from '../../src/core/index.ts'
import type { StorageEngine } from '../../src/store/index.ts'
import { LocalEngine, MAX_MANIFEST_BYTES, MapBuilder, MapStore } from '../../src/store/index.ts'
import { readError } from '../../src/store/errors.ts'
import { manifestKey, mapKey, refKey } from '../../src/store/layout.ts'
import { decodeRef, encodeRef } from '../../src/store/ref-store.ts'
import { MAX_WHOLE_GET_BYTES } from '../../src/store/storage-engine.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { count, testStore } from './data-folder.ts'

const DEVICE = digestOf(Buffer.from('a device'))
const IMAGE = digestOf(Buffer.from('an image'))

/** A map of `size` zeros. */
function mapOf(size: number): Buffer {
  const builder = new MapBuilder()
  builder.addZeros(size)
  return builder.encode([], { parsedAsErofs: false, logicalBytes: 0, inodeCount: 0 })
}

describe('maps', () => {
  test('the newest generation is the map; an equal one is not written again', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    assert.equal(await maps.get(DEVICE), undefined)
    await assert.rejects(maps.require(DEVICE), hasCode('ERR_STORE_MAP_MISSING'))
    assert.equal(await maps.put(DEVICE, mapOf(1)), 1)
    assert.equal(await maps.put(DEVICE, mapOf(1)), 1)
    for (let size = 2; size <= 11; size++) assert.equal(await maps.put(DEVICE, mapOf(size)), size)
    assert.equal((await maps.require(DEVICE)).map.size, 11, 'generations are numbers, 11 > 9')
    assert.deepEqual(await maps.generations(DEVICE), [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert.equal(await maps.delete(DEVICE, 11), true)
    assert.equal((await maps.require(DEVICE)).generation, 10)
    const devices: Digest[] = []
    for await (const device of maps.list()) devices.push(device)
    assert.deepEqual(devices, [DEVICE])
  })

  test('a damaged generation is passed over and reported; none valid is an error', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    for (const size of [1, 2, 3]) await maps.put(DEVICE, mapOf(size))
    const file = (generation: number) => join(fixture.dataDir, mapKey('acme', DEVICE, generation))
    await writeFile(file(3), (await readFile(file(3))).subarray(0, 140))
    await writeFile(file(2), Buffer.alloc(0))
    assert.equal((await maps.require(DEVICE)).generation, 1)
    assert.deepEqual(
      fixture.warnings.map(({ event, generation }) => [event, generation]),
      [
        ['store.map.damaged', 3],
        ['store.map.damaged', 2],
      ],
    )
    assert.equal(await maps.put(DEVICE, mapOf(4)), 4, 'a number is never used twice')
    for (const generation of [1, 4]) await writeFile(file(generation), 'x')
    await assert.rejects(maps.get(DEVICE), hasCode('ERR_STORE_CORRUPT'))
    await writeFile(`${file(1)}.bak`, 'no generation')
    assert.deepEqual(await maps.generations(DEVICE), [4, 3, 2, 1])
  })

  test('a generation that cannot be read is passed over; one that nobody had files left to open is not', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    for (const size of [1, 2]) await maps.put(DEVICE, mapOf(size))
    const engine = new LocalEngine({ dataDir: fixture.dataDir, changesRefs: false })
    const logger = { info: () => undefined, warn: () => undefined }
    const failing = (code: string) => {
      const get: StorageEngine['get'] = (key, range, target) => {
        if (key !== mapKey('acme', DEVICE, 2)) return engine.get(key, range, target)
        return Promise.reject(readError(Object.assign(new Error(code), { code }), key))
      }
      const proxy = new Proxy(engine, {
        get: (of, name) => {
          if (name === 'get') return get
          const value: unknown = Reflect.get(of, name)
          return typeof value === 'function' ? value.bind(of) : value
        },
      })
      return new MapStore(proxy, 'acme', logger)
    }
    for (const code of ['EIO', 'EACCES']) {
      assert.equal((await failing(code).require(DEVICE)).generation, 1)
    }
    await assert.rejects(failing('EMFILE').require(DEVICE), hasCode('ERR_STORE_READ_FAILED'))
  })

  test('what is no map is not stored', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    await assert.rejects(maps.put(DEVICE, Buffer.alloc(200)), hasCode('ERR_STORE_CORRUPT'))
    assert.deepEqual(await maps.generations(DEVICE), [])
  })

  test('writers of one device at once each get a generation of their own', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    const generations = await Promise.all(
      Array.from({ length: 6 }, (_, index) => maps.put(DEVICE, mapOf(index + 1))),
    )
    assert.deepEqual(new Set(generations), new Set([1, 2, 3, 4, 5, 6]))
  })

  test('a map is read into the memory that is given for it', async () => {
    await using fixture = await testStore()
    const { maps } = fixture.store.domain('acme')
    await maps.put(DEVICE, mapOf(5))
    const allocate = (bytes: number) => new Uint8Array(new SharedArrayBuffer(bytes))
    const { map, bytes } = await maps.require(DEVICE, { allocate })
    assert.ok(bytes.buffer instanceof SharedArrayBuffer)
    assert.equal(map.extents.buffer, bytes.buffer)
  })
})

describe('manifests', () => {
  test('are named by their bytes and checked when they are read', async () => {
    await using fixture = await testStore()
    const { manifests } = fixture.store.domain('acme')
    const bytes = Buffer.from('{"devices":[]}')
    const digest = await manifests.put(bytes)
    assert.equal(digest, digestOf(bytes))
    assert.equal(await manifests.put(bytes), digest)
    assert.deepEqual(Buffer.from(await manifests.require(digest)), bytes)
    assert.equal(await fixture.store.domain('other').manifests.get(digest), undefined)
    await assert.rejects(manifests.require(IMAGE), hasCode('ERR_STORE_MANIFEST_MISSING'))
    await writeFile(join(fixture.dataDir, manifestKey('acme', digest)), '{"devices":[1]}')
    await assert.rejects(manifests.get(digest), hasCode('ERR_STORE_CORRUPT'))
    assert.equal(await manifests.delete(digest), true)
    assert.equal(await manifests.get(digest), undefined)
  })

  test('are listed in order from anywhere, and are not large', async () => {
    await using fixture = await testStore()
    const { manifests } = fixture.store.domain('acme')
    const all: Digest[] = []
    for (let index = 0; index < 12; index++) all.push(await manifests.put(Buffer.from(`${index}`)))
    all.sort()
    const list = async (options = {}) => Array.fromAsync(manifests.list(options))
    assert.deepEqual(await list(), all)
    assert.deepEqual(await list({ after: all[4] }), all.slice(5))
    const large = Buffer.alloc(MAX_MANIFEST_BYTES + 1)
    await assert.rejects(manifests.put(large), hasCode('ERR_STORE_TOO_LARGE'))
  })
})

describe('refs', () => {
  test('change only from the generation that the change was decided on', async () => {
    await using fixture = await testStore()
    const { refs } = fixture.store.domain('acme')
    const conflict = hasCode('ERR_STORE_REF_CONFLICT')
    assert.equal(await refs.resolve('a/b', 'latest'), undefined)
    await assert.rejects(refs.compareAndSwap('a/b', 'latest', 1, { image: IMAGE }), conflict)
    await assert.rejects(refs.delete('a/b', 'latest', 0), conflict)
    const first = await refs.compareAndSwap('a/b', 'latest', 0, { image: IMAGE })
    assert.equal(first.generation, 1)
    assert.deepEqual(await refs.resolve('a/b', 'latest'), first)
    await assert.rejects(refs.compareAndSwap('a/b', 'latest', 0, { image: IMAGE }), conflict)
    const second = await refs.compareAndSwap('a/b', 'latest', 1, { image: IMAGE, oci: DEVICE })
    assert.deepEqual(await refs.resolve('a/b', 'latest'), second)
    await assert.rejects(refs.delete('a/b', 'latest', 1), conflict)
    await refs.delete('a/b', 'latest', 2)
    assert.equal(await refs.resolve('a/b', 'latest'), undefined)
    await assert.rejects(refs.delete('a/b', 'latest', 2), conflict)
    const nothing = refs.compareAndSwap('a/b', 'latest', 0, {})
    await assert.rejects(nothing, hasCode('ERR_INVALID_ARGUMENT'))
  })

  test('a hundred changes at once: each that is acknowledged is a generation of its own', async () => {
    await using fixture = await testStore()
    const { refs } = fixture.store.domain('acme')
    const change = async (): Promise<number> => {
      for (;;) {
        const generation = (await refs.resolve('app', 'latest'))?.generation ?? 0
        try {
          return (await refs.compareAndSwap('app', 'latest', generation, { image: IMAGE }))
            .generation
        } catch (error) {
          if (!isAppError(error) || error.code !== 'ERR_STORE_REF_CONFLICT') throw error
        }
      }
    }
    const total = count(100, 15)
    const generations = await Promise.all(Array.from({ length: total }, change))
    assert.deepEqual(
      generations.toSorted((a, b) => a - b),
      Array.from({ length: total }, (_, index) => index + 1),
    )
  })

  test('names with slashes, tags that look like names, lists by prefix and page', async () => {
    await using fixture = await testStore()
    const { refs } = fixture.store.domain('acme')
    const names = ['a', 'a/b', 'a/b/c', 'a-b', 'ab', 'z']
    const tags = ['latest', '_tags', 'V1', 'v1', '1.0']
    for (const name of names) {
      for (const tag of tags) await refs.compareAndSwap(name, tag, 0, { image: IMAGE })
    }
    const all: string[] = []
    let after: string | undefined
    do {
      const page = await refs.list({ limit: 7, ...(after === undefined ? {} : { after }) })
      assert.ok(page.refs.length <= 7)
      all.push(...page.refs.map(({ name, tag }) => `${name}/_tags/${tag}`))
      after = page.next
    } while (after !== undefined)
    const expected = names.flatMap((name) => tags.map((tag) => `${name}/_tags/${tag}`)).toSorted()
    assert.deepEqual(all, expected)
    const within = await refs.list({ prefix: 'a/b', limit: 1000 })
    assert.deepEqual(
      within.refs.map(({ name, tag }) => `${name}/_tags/${tag}`),
      expected.filter((one) => one.startsWith('a/b')),
    )
    assert.deepEqual((await fixture.store.domain('other').refs.list()).refs, [])
    for (const [name, tag] of [
      ['a/_tags', 'x'],
      ['../x', 'x'],
      ['a', '../x'],
      ['a', ''],
      ['', 'x'],
    ] as const) {
      await assert.rejects(refs.resolve(name, tag), hasCode('ERR_STORE_KEY_INVALID'))
    }
  })

  test('a torn ref is an error by itself, is left out of lists and said, and can be replaced', async () => {
    await using fixture = await testStore()
    const { refs } = fixture.store.domain('acme')
    await refs.compareAndSwap('good', 'latest', 0, { image: IMAGE })
    for (const text of ['', '{"image":', '{}', 'null', '[]', '{"generation":1,"updatedAt":"x"}']) {
      const file = join(fixture.dataDir, refKey('acme', 'torn', 'latest'))
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, text)
      await assert.rejects(refs.resolve('torn', 'latest'), hasCode('ERR_STORE_CORRUPT'))
      const page = await refs.list()
      assert.deepEqual(
        page.refs.map(({ name }) => name),
        ['good'],
      )
      assert.deepEqual(page.damaged, ['torn:latest'])
      const repaired = await refs.compareAndSwap('torn', 'latest', 0, { image: IMAGE })
      assert.equal(repaired.generation, 1)
    }
    assert.equal(fixture.warnings[0]?.['event'], 'store.ref.damaged')
  })

  test('a ref that cannot be read is left out of lists and said, and can be replaced and removed', async () => {
    await using fixture = await testStore()
    const { refs } = fixture.store.domain('acme')
    const file = join(fixture.dataDir, refKey('acme', 'bad', 'latest'))
    const huge = async () => {
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, '')
      await truncate(file, MAX_WHOLE_GET_BYTES + 1)
    }
    // A loop is an error of the operating system (ELOOP), as a bad sector is; it is no file to list.
    const loop = async () => {
      await mkdir(dirname(file), { recursive: true })
      await symlink('latest', file)
    }
    await refs.compareAndSwap('good', 'latest', 0, { image: IMAGE })
    for (const [damage, code, listed] of [
      [huge, 'ERR_STORE_CORRUPT', ['bad:latest']],
      [loop, 'ERR_STORE_READ_FAILED', []],
    ] as const) {
      await damage()
      await assert.rejects(refs.resolve('bad', 'latest'), hasCode(code))
      const page = await refs.list()
      assert.deepEqual(
        page.refs.map(({ name }) => name),
        ['good'],
      )
      assert.deepEqual(page.damaged, listed)
      const stale = refs.compareAndSwap('bad', 'latest', 1, { image: IMAGE })
      await assert.rejects(stale, hasCode('ERR_STORE_REF_CONFLICT'))
      await refs.delete('bad', 'latest', 0)
      assert.equal(await refs.resolve('bad', 'latest'), undefined)
      await damage()
      const repaired = await refs.compareAndSwap('bad', 'latest', 0, { image: IMAGE })
      assert.deepEqual(await refs.resolve('bad', 'latest'), repaired)
      await refs.delete('bad', 'latest', 1)
    }
  })

  test('codec: round trip; any other text is a record in bounds or ERR_STORE_CORRUPT', () => {
    const digest = fc.string().map((text) => digestOf(Buffer.from(text)))
    const record = fc
      .record(
        { image: digest, oci: digest, generation: fc.integer({ min: 1 }), updatedAt: fc.string() },
        { requiredKeys: ['generation', 'updatedAt'], noNullPrototype: true },
      )
      .filter(({ image, oci }) => image !== undefined || oci !== undefined)
    const refuses = (bytes: Uint8Array) => {
      try {
        const { image, oci, generation } = decodeRef(bytes, 'a ref')
        assert.ok(generation >= 1 && (image ?? oci) !== undefined)
      } catch (error) {
        assert.ok(isAppError(error) && error.code === 'ERR_STORE_CORRUPT')
      }
    }
    fc.assert(
      fc.property(record, fc.json(), fc.nat(), fc.nat(255), (one, json, at, byte) => {
        const bytes = encodeRef(one)
        assert.deepEqual(decodeRef(bytes, 'a ref'), one)
        for (let length = 0; length < bytes.byteLength - 1; length += 7) {
          assert.throws(
            () => decodeRef(bytes.subarray(0, length), 'a ref'),
            hasCode('ERR_STORE_CORRUPT'),
          )
        }
        refuses(Buffer.from(json))
        bytes[at % bytes.byteLength] = byte
        refuses(bytes)
      }),
      { seed: 6, numRuns: count(5000, 300) },
    )
  })
})
