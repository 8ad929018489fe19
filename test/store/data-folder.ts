/** Folders and stores for the tests of src/store: made under the system's temporary folder, removed with the test. */
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import type { Store, StoreOptions } from '../../src/store/index.ts'
import { openStore } from '../../src/store/index.ts'
import { Random, spreadSeed } from '../random.ts'

/** Of the generator's numbers: it has 32 bits. */
const RANGE = 2 ** 32

export interface DataFolder extends AsyncDisposable {
  readonly path: string
}

export async function dataFolder(base: string = tmpdir()): Promise<DataFolder> {
  const path = await mkdtemp(join(base, 'commonpage-store-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

export interface TestStore extends AsyncDisposable {
  readonly store: Store
  readonly dataDir: string
  readonly warnings: Record<string, unknown>[]
}

/** A new store whose warnings are kept. */
export async function testStore(options: Partial<StoreOptions> = {}): Promise<TestStore> {
  const folder = await dataFolder()
  const warnings: Record<string, unknown>[] = []
  const logger = {
    info: () => undefined,
    warn: (fields: Record<string, unknown>) => void warnings.push(fields),
  }
  const dataDir = options.dataDir ?? folder.path
  const store = await openStore({ mode: 'owner', logger, ...options, dataDir })
  return {
    store,
    dataDir,
    warnings,
    async [Symbol.asyncDispose]() {
      await store.close()
      await folder[Symbol.asyncDispose]()
    },
  }
}

/** Paths of all files below a folder, relative to it, sorted. */
export async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .toSorted()
}

/** Numbers in [0, 1): the same seed gives the same test everywhere. */
export function seeded(seed: number): () => number {
  const random = new Random(spreadSeed(seed))
  return () => random.next(RANGE) / RANGE
}

/** The counts that the issues name, or fewer of the same kind. */
export function count(full: number, reduced: number): number {
  return process.env['COMMONPAGE_FULL'] === '1' ? full : reduced
}
