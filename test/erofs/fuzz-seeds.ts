/**
 * The seeds of fuzzed images, and the tests that go through them: a range of its own for each group of images, so that
 * a seed says which group it is of. COMMONPAGE_SEED=NUMBER runs that image alone, and fails where it is no seed.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'

/** More than a group will ever need. */
const SEEDS_EACH = 1_000_003

export interface SeededGroup {
  readonly title: string
  readonly firstSeed: number
}

export function firstSeedOf(index: number): number {
  return (index + 1) * SEEDS_EACH
}

/** Registers one test for each group, or the one that COMMONPAGE_SEED asks for. */
export function seededTests<G extends SeededGroup>(
  groups: readonly G[],
  run: {
    readonly all: (group: G) => Promise<void>
    readonly one: (group: G, seed: number) => Promise<void>
  },
): void {
  const only = process.env['COMMONPAGE_SEED']
  if (only === undefined) {
    for (const group of groups) test(group.title, () => run.all(group))
    return
  }
  const seed = Number(only)
  const group = groups.find(({ firstSeed }) => seed >= firstSeed && seed < firstSeed + SEEDS_EACH)
  test(`${group?.title ?? 'of no group'}, seed ${only}`, async () => {
    const ranges = groups.map(({ title, firstSeed }) => `${firstSeed}… ${title}`).join(', ')
    const isSeed = group !== undefined && Number.isSafeInteger(seed)
    assert.ok(
      isSeed,
      `COMMONPAGE_SEED=${only} is no seed of these images; ${SEEDS_EACH} from: ${ranges}`,
    )
    await run.one(group, seed)
  })
}
