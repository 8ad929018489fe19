/** What all clients of the soak share: the sources in memory, the tally, chance, and the end. */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

import { Random } from '../../random.ts'
import type { SoakPlan, Source } from './plan.ts'
import { Tally } from './tally.ts'

export interface LoadedSource extends Source {
  readonly bytes: Buffer
}

export class Load {
  readonly plan: SoakPlan
  readonly tally = new Tally()
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

  /** What a client does between its rounds: nothing, for a moment. */
  async think(random: Random): Promise<void> {
    const { thinkMs } = this.plan
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
