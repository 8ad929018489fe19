/** What all clients of the soak share: the sources in memory, the tally, chance, and the end. */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

import { Random } from '../../random.ts'
import type { NbdClient } from './nbd-client.ts'
import { Pace } from './pace.ts'
import type { SoakPlan, Source } from './plan.ts'
import { Tally } from './tally.ts'

const MIB = 1024 * 1024
/** The longest pause, on average: every client reads several times even in a short run. */
const MAX_PAUSE_MS = 30_000

export interface LoadedSource extends Source {
  readonly bytes: Buffer
}

export class Load {
  readonly plan: SoakPlan
  readonly tally = new Tally()
  readonly pace = new Pace((ms) => this.tally.turnMs.push(ms))
  readonly #sources: Readonly<Record<'images' | 'files', readonly LoadedSource[]>>
  readonly #end = new AbortController()

  private constructor(plan: SoakPlan, images: LoadedSource[], files: LoadedSource[]) {
    this.plan = plan
    this.#sources = { images, files }
  }

  static async open(plan: SoakPlan): Promise<Load> {
    return new Load(plan, await loadAll(plan.images), await loadAll(plan.files))
  }

  get stopping(): boolean {
    return this.#end.signal.aborted
  }

  stop(): void {
    this.#end.abort()
  }

  random(number: number): Random {
    return new Random(this.plan.seed + 7919 * (number + 1))
  }

  pick(kind: 'images' | 'files', random: Random): LoadedSource {
    const sources = this.#sources[kind]
    const source = sources[random.next(sources.length)]
    if (source === undefined) throw new Error(`no ${kind} to read`)
    return source
  }

  /** Reads over NBD, and compares with the same place of `source`. */
  async check(
    client: NbdClient,
    source: Buffer,
    offset: number,
    length: number,
    what: string,
  ): Promise<void> {
    const got = await client.read(offset, length)
    this.tally.answered()
    this.tally.compare(what, got, source, offset)
  }

  /** What a client does between its rounds: nothing, for a moment, and longer the more it has read. */
  async think(random: Random, bytes: number): Promise<void> {
    if (this.stopping) return
    const pause = Math.min(MAX_PAUSE_MS, (bytes / MIB) * this.pace.msPerMib)
    const ms = random.next(2 * this.plan.thinkMs + 1) + random.next(2 * Math.round(pause) + 1)
    await delay(ms, undefined, { signal: this.#end.signal }).catch(() => undefined)
  }
}

async function loadAll(sources: readonly Source[]): Promise<LoadedSource[]> {
  return Promise.all(
    sources.map(async (source) => ({ ...source, bytes: await readFile(source.file) })),
  )
}
