/**
 * A server that is killed with SIGKILL, alone or with its import processes, while clients import, tag and remove;
 * and started again on the same data. What it acknowledged is there, byte for byte; what it did not was done or was
 * not, never half. `COMMONPAGE_SEED` repeats a run's choices (not its timing).
 */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, readdirSync, watch } from 'node:fs'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { readImageRecord } from '../../src/images/index.ts'
import { openStore } from '../../src/store/index.ts'
import { sha256 } from '../erofs/fixtures.ts'
import { evidence } from '../evidence.ts'
import { count, dataFolder, filesBelow } from '../store/data-folder.ts'
import type { ImportedImage } from './crash/client.ts'
import { CrashClient, DOMAIN, listImages, relatedImage, servedContent } from './crash/client.ts'
import { History } from './crash/history.ts'
import type { ServerProcess } from './server-process.ts'
import { startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'

const SEED = Number(process.env['COMMONPAGE_SEED'] ?? 3)
const KILLS = count(200, 4)
/** Servers that are killed again and again, each on data of its own; two keep both cores busy. */
const LIVES = count(2, 1)
const CLIENTS = ['a', 'b']
/** An import makes about 20 changes in the folder of uploads, a tag 2: two imports with what is between them. */
const MAX_CHANGES = 60
/** Then so much longer at most: also what happens in no folder is interrupted. */
const MAX_DELAY_MS = 40
/** A server that does nothing for so long will not. */
const CHANGES_DEADLINE_MS = 60_000
/** Of the images that no tag names any more, so many are read after each start, and all at the end. */
const READ_AGAIN = 4
/** Files below the data directory that are no blob, map, record or ref. */
const NO_OBJECT = /^(?:commonpage\.json|lock\.db|domains\/[^/]+\/index\/(?:lock\.db|[^/]+\.run))$/

interface Totals {
  kills: number
  withImports: number
  acknowledged: number
  /** Unanswered changes that were made, and that were not. */
  made: number
  notMade: number
  imagesRead: number
}

class Life {
  readonly totals: Totals = {
    kills: 0,
    withImports: 0,
    acknowledged: 0,
    made: 0,
    notMade: 0,
    imagesRead: 0,
  }
  readonly #data: string
  readonly #random: Random
  readonly #history = new History()
  readonly #wholeBlobs = new Set<string>()
  #interrupted: ImportedImage[] = []
  #lastGroup: number | undefined

  constructor(data: string, seed: number) {
    this.#data = data
    this.#random = new Random(seed)
  }

  /** Starts, checks what the death before left, works, and dies. */
  async round(): Promise<void> {
    await using server = await this.#start()
    await this.#check(server, READ_AGAIN)
    const clients = CLIENTS.map((name) => this.#client(server, name))
    for (const { tag, image } of this.#interrupted) {
      await clients.find((client) => tag.startsWith(client.name))?.importImage(tag, image)
    }
    const working = clients.map((client) => client.work())
    const killed = this.#kill(server)
    await Promise.all([killed, ...working])
    this.#interrupted = clients.flatMap((client) => client.interrupted ?? [])
    for (const client of clients) this.totals.acknowledged += client.acknowledged
  }

  /** The last start: everything ever promised, and everything that is on the disk. */
  async end(): Promise<void> {
    {
      await using server = await this.#start()
      await this.#check(server, Infinity)
      await this.#client(server, 'a').importImage('a-last', relatedImage(this.#random))
      assert.equal(await server.stop(), 0)
    }
    await assertCompleteStore(this.#data)
  }

  #start(): Promise<ServerProcess> {
    const args = ['--workers', '1', '--cache-size', '64MiB']
    // Half of a start is compiling what the start before compiled.
    const env = { NODE_COMPILE_CACHE: join(this.#data, '..', 'compile-cache') }
    return startServerProcess({ data: this.#data, ownGroup: true, args, env })
  }

  #client(server: ServerProcess, name: string): CrashClient {
    return new CrashClient({
      http: server.http,
      name,
      random: new Random(this.#random.next(2 ** 31)),
      history: this.#history,
    })
  }

  async #check({ http }: ServerProcess, others: number): Promise<void> {
    if (this.#lastGroup !== undefined) await groupEnded(this.#lastGroup)
    const uploads = join(this.#data, 'domains', DOMAIN, 'uploads')
    if (existsSync(uploads)) assert.deepEqual(await readdir(uploads), [], 'unfinished work is left')
    const found = await listImages(http)
    const settled = this.#history.settle(
      new Map([...found].map(([ref, { content }]) => [ref, content])),
    )
    this.totals.made += settled.made
    this.totals.notMade += settled.notMade
    const expected = new Map<string, string>()
    for (const { digest, content } of found.values()) expected.set(digest, content)
    const untagged = this.#history.images().filter(([digest]) => !expected.has(digest))
    for (const [digest, content] of untagged.slice(-others)) expected.set(digest, content)
    for (const [digest, content] of expected) {
      assert.equal(await servedContent(http, digest), content, `the bytes of ${digest}`)
      this.totals.imagesRead++
    }
    await this.#checkBlobs()
  }

  /** Each blob once: they never change. */
  async #checkBlobs(): Promise<void> {
    for (const path of await filesBelow(this.#data)) {
      const [, hex] = /\/blobs\/sha256\/..\/([0-9a-f]{64})$/.exec(path) ?? []
      if (hex === undefined || this.#wholeBlobs.has(hex)) continue
      assert.equal(sha256(await readFile(join(this.#data, path))), hex)
      assert.ok(existsSync(join(this.#data, `${path}.idx`)), `${path} has no index`)
      this.#wholeBlobs.add(hex)
    }
  }

  async #kill(server: ServerProcess): Promise<void> {
    const random = this.#random
    const withImports = random.next(4) > 0
    await this.#changes(1 + random.next(MAX_CHANGES))
    await delay(random.next(MAX_DELAY_MS))
    process.kill(withImports ? -server.pid : server.pid, 'SIGKILL')
    await server.stop()
    this.#lastGroup = server.pid
    this.totals.kills++
    if (withImports) this.totals.withImports++
  }

  /** Resolves with the n-th change in the folder where everything begins: progress, whatever the machine's load. */
  async #changes(n: number): Promise<void> {
    const uploads = join(this.#data, 'domains', DOMAIN, 'uploads')
    mkdirSync(uploads, { recursive: true })
    let left = n
    const reached = Promise.withResolvers<void>()
    const watcher = watch(uploads, () => {
      if (--left === 0) reached.resolve()
    })
    const late = setTimeout(() => reached.reject(new Error('no progress')), CHANGES_DEADLINE_MS)
    await reached.promise
    clearTimeout(late)
    watcher.close()
  }
}

/** No process of a group runs any more; one whose parent died may remain as a zombie. */
async function groupEnded(group: number): Promise<void> {
  while (readdirSync('/proc').some((pid) => /^\d+$/.test(pid) && runsIn(pid, group))) {
    await delay(2)
  }
}

function runsIn(pid: string, group: number): boolean {
  try {
    // proc(5): state and process group come after the name, which is in parentheses.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state, , pgrp] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return Number(pgrp) === group && state !== 'Z' && state !== 'X'
  } catch {
    return false // it ended meanwhile
  }
}

/** Read without a server: every object is whole and complete, and there is nothing else. */
async function assertCompleteStore(dataDir: string): Promise<void> {
  await using store = await openStore({ dataDir, mode: 'owner' })
  const domain = store.domain(DOMAIN)
  const known = new Set<string>()
  for await (const page of domain.blobs.list()) {
    for (const { digest } of page) {
      await (await domain.blobs.openIndex(digest)).verify()
      known.add(digest)
    }
  }
  for await (const image of domain.manifests.list()) {
    for (const device of (await readImageRecord(domain, image)).devices) {
      const { map } = await domain.maps.require(device.sha256)
      for (const { digest } of map.blobs) assert.ok(known.has(digest), `${image} misses ${digest}`)
    }
  }
  const objects = new RegExp(`^domains/${DOMAIN}/(?:blobs|maps|manifests|refs)/`)
  const others = (await filesBelow(dataDir)).filter((path) => !objects.test(path))
  assert.deepEqual(
    others.filter((path) => !NO_OBJECT.test(path)),
    [],
  )
}

test('killed at seeded instants, started again: nothing is lost, nothing is half made', async () => {
  await using folder = await dataFolder()
  const totals = await Promise.all(
    Array.from({ length: LIVES }, async (_, number) => {
      const life = new Life(join(folder.path, `life-${number}`), SEED + number)
      for (let kill = 0; kill < KILLS / LIVES; kill++) {
        await life.round().catch((cause: unknown) => {
          throw new Error(`life ${number}, kill ${kill}, seed ${SEED}`, { cause })
        })
      }
      await life.end()
      return life.totals
    }),
  )
  const sum = (of: keyof Totals) => totals.reduce((total, one) => total + one[of], 0)
  evidence('e2e.crash', {
    kills: sum('kills'),
    killedWithImports: sum('withImports'),
    acknowledged: sum('acknowledged'),
    unansweredMade: sum('made'),
    unansweredNotMade: sum('notMade'),
    imagesRead: sum('imagesRead'),
    seed: SEED,
  })
  assert.equal(sum('kills'), KILLS)
  assert.ok(sum('acknowledged') > KILLS, 'the servers had no time to do anything')
})

test('the comparison sees a change that was lost, invented, or neither made nor not made', () => {
  const history = new History()
  const promise = (tag: string, content: string | undefined): void => {
    history.ask(tag, content)
    history.acknowledge(tag)
  }
  promise('kept', 'a')
  promise('removed', 'b')
  promise('removed', undefined)
  history.ask('moved', 'c')
  promise('deleted', 'd')
  history.ask('deleted', undefined)
  const lists: readonly (readonly [name: string, found: Record<string, string>])[] = [
    ['lost', { deleted: 'd' }],
    ['another image', { kept: 'b', deleted: 'd' }],
    ['back again', { kept: 'a', removed: 'b', deleted: 'd' }],
    ['in between', { kept: 'a', moved: 'a', deleted: 'd' }],
    ['invented', { kept: 'a', unknown: 'a' }],
  ]
  for (const [name, found] of lists) {
    assert.throws(() => history.settle(new Map(Object.entries(found))), assert.AssertionError, name)
  }
  const settled = history.settle(
    new Map([
      ['kept', 'a'],
      ['moved', 'c'],
      ['deleted', 'd'],
    ]),
  )
  assert.deepEqual(settled, { made: 1, notMade: 1 })
})
