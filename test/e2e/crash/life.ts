/**
 * One data directory through many deaths of its server: started, checked against what its clients know, put to work,
 * killed at an instant that a seed chooses. It counts what it saw, and judges nothing but the store.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, readdirSync, watch } from 'node:fs'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'

import { readImageRecord } from '../../../src/images/index.ts'
import { openStore } from '../../../src/store/index.ts'
import { sha256 } from '../../erofs/fixtures.ts'
import { Random } from '../../random.ts'
import { filesBelow } from '../../store/data-folder.ts'
import type { ServerProcess } from '../server-process.ts'
import { startServerProcess } from '../server-process.ts'
import type { ImportedImage } from './client.ts'
import { CrashClient, DOMAIN, listImages, NAME, relatedImage, servedContent } from './client.ts'
import type { Change } from './history.ts'
import { CHANGES, History, noChanges } from './history.ts'

const CLIENTS = ['a', 'b']
/** An import makes about 20 changes in the folder of uploads, a tag 2: two imports with what is between them. */
const MAX_CHANGES = 60
/** Then so much longer at most: also what happens in no folder is interrupted. */
const MAX_DELAY_MS = 40
/** The n-th move or removal after a start is hit: so many at most, so that there are tags to change. */
const MAX_ASKED = 3
/** A move or a removal takes a little longer: those that are not hit at their change of the folder are within that. */
const MAX_ANSWER_MS = 2
/** A server that does nothing for so long will not. */
const PROGRESS_DEADLINE_MS = 60_000
/** Of the images that no tag names any more, so many are read after each start, and all at the end. */
const READ_AGAIN = 4
/** Files below the data directory that are no blob, map, record or ref. */
const NO_OBJECT = /^(?:commonpage\.json|lock\.db|domains\/[^/]+\/index\/(?:lock\.db|[^/]+\.run))$/

export interface Totals {
  kills: number
  withImports: number
  acknowledged: number
  imagesRead: number
}

export class Life {
  readonly totals: Totals = {
    kills: 0,
    withImports: 0,
    acknowledged: 0,
    imagesRead: 0,
  }
  readonly interrupted = noChanges()
  readonly #data: string
  readonly #random: Random
  readonly #history = new History()
  readonly #wholeBlobs = new Set<string>()
  #unfinished: ImportedImage[] = []
  #onAsk: (change: Change) => void = () => undefined
  #lastGroup: number | undefined

  constructor(data: string, seed: number) {
    this.#data = data
    this.#random = new Random(seed)
  }

  /** Starts, checks what the death before left, works, and dies. */
  async round(aim: Change): Promise<void> {
    await using server = await this.#start()
    await this.#check(server, READ_AGAIN)
    const clients = CLIENTS.map((name) => this.#client(server, name))
    for (const { tag, image } of this.#unfinished) {
      await clients.find((client) => tag.startsWith(client.name))?.importImage(tag, image)
    }
    const killed = this.#kill(server, aim)
    const working = clients.map((client) => client.work())
    await Promise.all([killed, ...working])
    this.#unfinished = clients.flatMap((client) => client.interrupted ?? [])
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
      onAsk: (change) => this.#onAsk(change),
    })
  }

  async #check({ http }: ServerProcess, others: number): Promise<void> {
    if (this.#lastGroup !== undefined) await groupEnded(this.#lastGroup)
    const uploads = this.#folder('uploads')
    if (existsSync(uploads)) assert.deepEqual(await readdir(uploads), [], 'unfinished work is left')
    const found = await listImages(http)
    const settled = this.#history.settle(
      new Map([...found].map(([ref, { content }]) => [ref, content])),
    )
    for (const change of CHANGES) {
      this.interrupted[change].made += settled[change].made
      this.interrupted[change].notMade += settled[change].notMade
    }
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

  async #kill(server: ServerProcess, aim: Change): Promise<void> {
    const random = this.#random
    const withImports = random.next(4) > 0
    if (aim === 'import') {
      await this.#changes(this.#folder('uploads'), 1 + random.next(MAX_CHANGES))
      await delay(random.next(MAX_DELAY_MS))
    } else {
      await this.#asked(aim, 1 + random.next(MAX_ASKED))
      // The tags are there: what was asked is to move one, or to remove it.
      if (random.once(2)) await this.#changes(this.#folder('refs', NAME, '_tags'), 1)
      else await pause(random.next(MAX_ANSWER_MS * 1000) / 1000)
    }
    process.kill(withImports ? -server.pid : server.pid, 'SIGKILL')
    await server.stop()
    this.#lastGroup = server.pid
    this.totals.kills++
    if (withImports) this.totals.withImports++
  }

  #folder(...names: string[]): string {
    return join(this.#data, 'domains', DOMAIN, ...names)
  }

  /** Resolves with the n-th request of a kind from now on, when it is about to be sent. */
  #asked(change: Change, n: number): Promise<void> {
    let left = n
    return inTime((reached) => {
      this.#onAsk = (asked) => {
        if (asked === change && --left === 0) reached()
      }
    })
  }

  /** Resolves with the n-th change in a folder: progress, whatever the machine's load. */
  async #changes(folder: string, n: number): Promise<void> {
    mkdirSync(folder, { recursive: true })
    let left = n
    await inTime((reached) => {
      const watcher = watch(folder, () => {
        if (--left > 0) return
        watcher.close()
        reached()
      })
    })
  }
}

async function inTime(begin: (reached: () => void) => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const late = setTimeout(() => reject(new Error('no progress')), PROGRESS_DEADLINE_MS)
  begin(resolve)
  await promise
  clearTimeout(late)
}

/** A part of a millisecond, too. */
async function pause(ms: number): Promise<void> {
  for (const end = performance.now() + ms; performance.now() < end;) await turn()
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
