import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { cpSync } from 'node:fs'
import { chmod, mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { digestOf, MIB } from '../../src/core/index.ts'
import type { Store } from '../../src/store/index.ts'
import { openStore } from '../../src/store/index.ts'
import { SpaceLedger } from '../../src/store/space-ledger.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { count, dataFolder, filesBelow, testStore } from './data-folder.ts'
import { importOnce } from './import-scenario.ts'
import { evidence } from '../evidence.ts'

/** Debian's user and group without rights. */
const NOBODY = 65_534

const CHILD = fileURLToPath(new URL('./crash-child.ts', import.meta.url))

async function* stream(...pieces: Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) yield await Promise.resolve(piece)
}

/** A child that does `scenario` and is killed after its `step`-th change of the disk (never: Infinity). */
async function crash(dataDir: string, scenario: string, step: number) {
  const child = fork(CHILD, [dataDir, scenario, String(step)], { stdio: 'inherit' })
  const said: unknown[] = []
  child.on('message', (message) => said.push(message))
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
  return { said, killed: signal === 'SIGKILL', code }
}

describe('opening a data directory', () => {
  test('makes one that is missing', async () => {
    await using folder = await dataFolder()
    const dataDir = join(folder.path, 'a/b')
    await using store = await openStore({ dataDir, mode: 'owner' })
    assert.deepEqual(await store.domains(), [])
    assert.equal(await readFile(join(dataDir, 'commonpage.json'), 'utf8'), '{"format":1}\n')
    assert.ok(((await store.freeBytes()) ?? 0) > 0)
  })

  test('a second owner is refused, in this process and in another, until the first closes', async () => {
    await using fixture = await testStore()
    const open = () => openStore({ dataDir: fixture.dataDir, mode: 'owner' })
    await assert.rejects(open(), (error) => {
      assert.ok(hasCode('ERR_STORE_LOCKED')(error))
      assert.ok(error.message.includes(fixture.dataDir), 'the directory is named')
      return true
    })
    const other = await crash(fixture.dataDir, 'open', Infinity)
    assert.deepEqual(other.said, ['ERR_STORE_LOCKED'])
    await fixture.store.close()
    const third = await crash(fixture.dataDir, 'open', Infinity)
    assert.deepEqual(third.said, ['opened'])
    await (await open()).close()
  })

  test('kill -9 releases the lock', async () => {
    await using folder = await dataFolder()
    const child = fork(CHILD, [folder.path, 'hold', 'Infinity'], { stdio: 'inherit' })
    const [said] = (await once(child, 'message')) as [unknown]
    assert.equal(said, 'opened')
    const open = () => openStore({ dataDir: folder.path, mode: 'owner' })
    await assert.rejects(open(), hasCode('ERR_STORE_LOCKED'))
    child.kill('SIGKILL')
    await once(child, 'exit')
    await (await open()).close()
  })

  test('a member opens beside the owner, and only what is a store', async () => {
    await using fixture = await testStore()
    await using member = await openStore({ dataDir: fixture.dataDir, mode: 'member' })
    const blob = await member.domain('acme').blobs.putStream(stream(Buffer.from('bytes')))
    assert.ok(await fixture.store.domain('acme').blobs.head(blob.digest))
    await assert.rejects(
      member.domain('acme').refs.compareAndSwap('a', 'b', 0, { image: blob.digest }),
      hasCode('ERR_STORE_MEMBER'),
    )
    await using folder = await dataFolder()
    await assert.rejects(
      openStore({ dataDir: folder.path, mode: 'member' }),
      hasCode('ERR_STORE_FORMAT'),
    )
  })

  test('a folder of something else, another format, a torn format file are refused', async () => {
    await using folder = await dataFolder()
    const open = () => openStore({ dataDir: folder.path, mode: 'owner' })
    await writeFile(join(folder.path, 'thesis.doc'), '')
    await assert.rejects(open(), hasCode('ERR_STORE_FORMAT'))
    assert.deepEqual(await readdir(folder.path), ['thesis.doc'])
    for (const text of ['{"format":2}', '{"for', '', 'null', '[]']) {
      await writeFile(join(folder.path, 'commonpage.json'), text)
      await assert.rejects(open(), hasCode('ERR_STORE_FORMAT'))
    }
    await writeFile(join(folder.path, 'commonpage.json'), '{"format":1}')
    await (await open()).close()
  })

  test('unfinished work is swept by the owner, not by a member', async () => {
    await using folder = await dataFolder()
    const uploads = join(folder.path, 'domains/acme/uploads')
    await (await openStore({ dataDir: folder.path, mode: 'owner' })).close()
    await mkdir(join(uploads, 'folder'), { recursive: true })
    await writeFile(join(uploads, 'torn'), 'half')
    await writeFile(join(uploads, 'folder/torn'), 'half')
    await (await openStore({ dataDir: folder.path, mode: 'member' })).close()
    assert.equal((await readdir(uploads)).length, 2)
    await (await openStore({ dataDir: folder.path, mode: 'owner' })).close()
    assert.deepEqual(await readdir(uploads), [])
  })

  test('a domain must be a domain', async () => {
    await using fixture = await testStore()
    for (const name of ['', '..', 'a/b', 'A', '_x', 'x'.repeat(65)]) {
      assert.throws(() => fixture.store.domain(name), hasCode('ERR_STORE_KEY_INVALID'))
    }
  })

  test('a place that can have no children, a file, a folder below a file: refused in bounded time', async () => {
    await using folder = await dataFolder()
    const file = join(folder.path, 'file')
    await writeFile(file, 'a file')
    const cases = [
      [
        '/proc/nope',
        'ERR_STORE_WRITE_FAILED',
        /\/proc\/nope.*no such file or directory \(ENOENT\)/,
      ],
      ['/proc/nope/deeper', 'ERR_STORE_WRITE_FAILED', /\/proc\/nope\/deeper/],
      [file, 'ERR_STORE_FORMAT', /is a file, a directory was expected/],
      [join(file, 'below', 'it'), 'ERR_STORE_FORMAT', /file is a file/],
    ] as const
    for (const [dataDir, code, text] of cases) {
      await assert.rejects(openStore({ dataDir, mode: 'owner' }), (error) => {
        assert.ok(hasCode(code)(error))
        assert.match(error.message, text)
        assert.match(error.hint ?? '', /--data/)
        return true
      })
    }
    const deep = join(folder.path, 'a', 'b', 'c')
    await using store = await openStore({ dataDir: deep, mode: 'owner' })
    assert.equal(store.dataDir, deep)
  })

  test('a lock that cannot be taken says why in words', async () => {
    await using folder = await dataFolder()
    await mkdir(join(folder.path, 'lock.db'))
    await assert.rejects(openStore({ dataDir: folder.path, mode: 'owner' }), (error) => {
      assert.ok(hasCode('ERR_STORE_WRITE_FAILED')(error))
      assert.match(error.message, /lock\.db: unable to open database file \(SQLite 14\)/)
      return true
    })
  })

  test('nothing is written where nothing may be', async () => {
    await using folder = await dataFolder()
    await chmod(folder.path, 0o500)
    const dataDir = join(folder.path, 'data')
    // root may write everywhere: it becomes somebody else for the moment
    const isRoot = process.geteuid?.() === 0
    if (isRoot) process.seteuid?.(NOBODY)
    try {
      await assert.rejects(openStore({ dataDir, mode: 'owner' }), hasCode('ERR_STORE_WRITE_FAILED'))
    } finally {
      if (isRoot) process.seteuid?.(0)
    }
  })
})

describe('uploads', () => {
  test('are refused before the first byte when they do not fit', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    await assert.rejects(domain.stageUpload(2 ** 52), hasCode('ERR_STORE_FULL'))
    await using upload = await domain.stageUpload(10)
    await upload.receive(stream(Buffer.from('12345'), Buffer.from('67890')))
    assert.equal(upload.size, 10)
    assert.equal(await readFile(upload.path, 'utf8'), '1234567890')
  })

  test('that are larger than announced, or fail, leave nothing', async () => {
    await using fixture = await testStore()
    const domain = fixture.store.domain('acme')
    const large = await domain.stageUpload(9)
    await assert.rejects(
      large.receive(stream(Buffer.from('12345'), Buffer.from('67890'))),
      hasCode('ERR_STORE_TOO_LARGE'),
    )
    const aborted = await domain.stageUpload(9)
    await assert.rejects(
      aborted.receive(stream(Buffer.from('1')), AbortSignal.abort()),
      hasCode('ERR_ABORTED'),
    )
    assert.deepEqual(await filesBelow(fixture.dataDir), ['commonpage.json', 'lock.db'])
  })

  test('space is promised once, and given back once', async () => {
    const ledger = new SpaceLedger(() => Promise.resolve(1000), 100)
    const [first, second] = await Promise.allSettled([ledger.promise(600), ledger.promise(600)])
    assert.deepEqual([first.status, second.status].toSorted(), ['fulfilled', 'rejected'])
    const winner = first.status === 'fulfilled' ? first : second
    assert.ok(winner.status === 'fulfilled')
    winner.value()
    winner.value()
    assert.equal(ledger.promised, 0)
    const release = await ledger.promise(900)
    await assert.rejects(ledger.promise(1), hasCode('ERR_STORE_FULL'))
    release()
    const failing = new SpaceLedger(() => Promise.reject(new Error('statfs')), 0)
    await assert.rejects(failing.promise(1))
    assert.equal(failing.promised, 0)
  })

  test('sizes that nobody knows take half of what is available, one after the other and at once', async () => {
    const ledger = new SpaceLedger(() => Promise.resolve(17 * MIB), MIB)
    const shares = await Promise.all(Array.from({ length: 4 }, () => ledger.promiseShare()))
    assert.deepEqual(
      shares.map(({ bytes }) => bytes / MIB),
      [8, 4, 2, 1],
    )
    assert.equal((await ledger.promiseShare()).bytes, MIB, 'the last of it')
    await assert.rejects(ledger.promiseShare(), hasCode('ERR_STORE_FULL'))
    shares[0]?.release()
    assert.equal((await ledger.promiseShare()).bytes, 4 * MIB)
    const unknown = new SpaceLedger(() => Promise.resolve(undefined))
    for (let i = 0; i < 3; i++) await unknown.promiseShare()
    await unknown.promise(MIB)
    assert.ok(Number.isFinite(unknown.promised))
  })
})

describe('crashes', () => {
  /** What must hold of whatever a crash left: everything listed is whole, nothing else is left. */
  async function checkWhole(store: Store, dataDir: string): Promise<string[]> {
    const domain = store.domain('acme')
    const seen: string[] = []
    for await (const page of domain.blobs.list()) {
      for (const { digest } of page) {
        await (await domain.blobs.openIndex(digest)).verify()
        const hex = digest.slice(7)
        const path = join(dataDir, 'domains/acme/blobs/sha256', hex.slice(0, 2), hex)
        assert.equal(digestOf(await readFile(path)), digest)
        seen.push('blob')
      }
    }
    for await (const device of domain.maps.list()) {
      seen.push(`map ${(await domain.maps.require(device)).generation}`)
    }
    for await (const manifest of domain.manifests.list()) {
      await domain.manifests.require(manifest)
      seen.push('manifest')
    }
    const { refs, damaged } = await domain.refs.list()
    assert.deepEqual(damaged, [])
    seen.push(...refs.map(({ name, tag, ref }) => `ref ${name}:${tag} ${ref.generation}`))
    const left = (await filesBelow(dataDir)).filter((name) => name.includes('/uploads/'))
    assert.deepEqual(left, [], 'uploads are empty')
    return seen
  }

  const ALL = ['blob', 'map 1', 'manifest', 'ref app:latest 2']

  /** Opens what a crash left, checks it, and finishes the work. */
  async function recover(dataDir: string, acknowledged: readonly string[]): Promise<string> {
    const store = await openStore({ dataDir, mode: 'owner' })
    const seen = await checkWhole(store, dataDir)
    await store.close()
    for (const one of acknowledged) {
      const changedAgain = one === 'ref app:latest 1' && seen.includes('ref app:latest 2')
      assert.ok(seen.includes(one) || changedAgain, `${one} was acknowledged`)
    }
    await importOnce(dataDir)
    await using again = await openStore({ dataDir, mode: 'owner' })
    assert.deepEqual(await checkWhole(again, dataDir), ALL)
    return seen.join(', ')
  }

  test('after each change of the disk in turn: what is there is whole, acknowledged work stays, a repeat completes', async () => {
    await using folder = await dataFolder()
    const dataDir = join(folder.path, 'data')
    const acknowledged: string[] = []
    const crashes: { path: string; acknowledged: string[] }[] = []
    await importOnce(
      dataDir,
      (what) => void acknowledged.push(what),
      () => {
        const path = join(folder.path, String(crashes.length))
        // Not the lock: closing any descriptor of it would release this process's own.
        cpSync(dataDir, path, { recursive: true, filter: (name) => !name.endsWith('lock.db') })
        crashes.push({ path, acknowledged: [...acknowledged] })
      },
    )
    const outcomes = new Set<string>()
    for (const one of crashes) outcomes.add(await recover(one.path, one.acknowledged))
    evidence('store.crashes', { points: crashes.length, outcomes: outcomes.size })
    assert.ok(crashes.length > 30)
    assert.deepEqual([...outcomes].at(-1), ALL.join(', '))
  })

  test('kill -9 at some of them', async () => {
    const stride = count(1, 12)
    for (let step = stride; ; step += stride) {
      await using folder = await dataFolder()
      const run = await crash(folder.path, 'import', step)
      await recover(folder.path, run.said.map(String))
      if (!run.killed) break
    }
  })
})
