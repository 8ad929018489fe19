/** What all clients of the soak share: the sources in memory, the tally, chance, and the end. */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

import { Random } from '../../random.ts'
import type { SoakPlan, Source } from './plan.ts'
import { Tally } from './tally.ts'

/** An import that has taken so long gets no processor beside the readers, who want all of it. */
const PATIENCE_MS = 3000

export interface LoadedSource extends Source {
  readonly bytes: Buffer
}

export class Load {
  readonly plan: SoakPlan
  readonly tally = new Tally()
  readonly #sources: Readonly<Record<'images' | 'files', readonly LoadedSource[]>>
  readonly #end = new AbortController()
  /** Imports that the readers rest for. */
  #favoured = 0
  #rest = Promise.withResolvers<void>()

  private constructor(plan: SoakPlan, images: LoadedSource[], files: LoadedSource[]) {
    this.plan = plan
    this.#sources = { images, files }
    this.#rest.resolve()
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

  /**
   * Waits for an import. They run when nobody else wants the processor, which on a machine that the readers fill is
   * hardly ever: from PATIENCE_MS on, the readers rest between their rounds until it is done.
   */
  async patiently<T>(work: Promise<T>): Promise<T> {
    let favoured = false
    const timer = setTimeout(() => {
      favoured = true
      this.tally.rests++
      if (this.#favoured++ === 0) this.#rest = Promise.withResolvers()
    }, PATIENCE_MS)
    try {
      return await work
    } finally {
      clearTimeout(timer)
      if (favoured && --this.#favoured === 0) this.#rest.resolve()
    }
  }

  /** What a client does between its rounds: nothing, for a moment. */
  async think(random: Random): Promise<void> {
    const { thinkMs } = this.plan
    await this.#rest.promise
    if (this.stopping) return
    await delay(random.next(2 * thinkMs + 1), undefined, { signal: this.#end.signal }).catch(
      () => undefined,
    )
  }
}

async function loadAll(sources: readonly Source[]): Promise<LoadedSource[]> {
  return Promise.all(
    sources.map(async (source) => ({ ...source, bytes: await readFile(source.file) })),
  )
}
