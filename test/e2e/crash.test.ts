/**
 * A server that is killed with SIGKILL, alone or with its import processes, while clients import, tag and remove;
 * and started again on the same data. What it acknowledged is there, byte for byte; what it did not was done or was
 * not, never half. `COMMONPAGE_SEED` repeats a run's choices (not its timing).
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'

import { evidence } from '../evidence.ts'
import { count, dataFolder } from '../store/data-folder.ts'
import type { Change, Interrupted } from './crash/history.ts'
import { CHANGES, History } from './crash/history.ts'
import type { Totals } from './crash/life.ts'
import { Life } from './crash/life.ts'

const SEED = Number(process.env['COMMONPAGE_SEED'] ?? 3)
const KILLS = count(200, 4)
/** Servers that are killed again and again, each on data of its own; two keep both cores busy. */
const LIVES = count(2, 1)
/** What the kills of a life are aimed at, in turn. Imports take a hundred times as long as the others. */
const AIMS: readonly Change[] = ['import', 'move', 'import', 'removal', 'import', 'import']
/** Requests that a kill left without an answer, of each kind: less than half of what was seen. Four kills say little. */
const MIN_INTERRUPTED: Readonly<Record<Change, number>> = {
  import: count(100, 1),
  move: count(10, 0),
  removal: count(10, 0),
}
/** Of all of them, so many at least had been made, though nobody was told. */
const MIN_MADE = count(10, 0)

test('killed at seeded instants, started again: nothing is lost, nothing is half made', async () => {
  await using folder = await dataFolder()
  const lives = await Promise.all(
    Array.from({ length: LIVES }, async (_, number) => {
      const life = new Life(join(folder.path, `life-${number}`), SEED + number)
      for (let kill = 0; kill < KILLS / LIVES; kill++) {
        await life.round(AIMS[kill % AIMS.length] ?? 'import').catch((cause: unknown) => {
          throw new Error(`life ${number}, kill ${kill}, seed ${SEED}`, { cause })
        })
      }
      await life.end()
      return life
    }),
  )
  const sum = (of: keyof Totals) => lives.reduce((total, { totals }) => total + totals[of], 0)
  const interrupted = (change: Change, end: keyof Interrupted) =>
    lives.reduce((total, life) => total + life.interrupted[change][end], 0)
  evidence('e2e.crash', {
    kills: sum('kills'),
    killedWithImports: sum('withImports'),
    acknowledged: sum('acknowledged'),
    ...Object.fromEntries(
      CHANGES.flatMap((change) => [
        [`${change}sInterruptedMade`, interrupted(change, 'made')],
        [`${change}sInterruptedNotMade`, interrupted(change, 'notMade')],
      ]),
    ),
    imagesRead: sum('imagesRead'),
    seed: SEED,
  })
  assert.equal(sum('kills'), KILLS)
  assert.ok(sum('acknowledged') > KILLS, 'the servers had no time to do anything')
  for (const change of CHANGES) {
    const hit = interrupted(change, 'made') + interrupted(change, 'notMade')
    const least = MIN_INTERRUPTED[change]
    assert.ok(hit >= least, `${hit} of kind ${change} were interrupted, expected ${least}`)
  }
  const made = CHANGES.reduce((total, change) => total + interrupted(change, 'made'), 0)
  assert.ok(made >= MIN_MADE, `${made} unanswered changes were made, expected ${MIN_MADE}`)
})

test('the comparison sees a change that was lost, invented, or neither made nor not made', () => {
  const history = new History()
  const promise = (tag: string, content: string | undefined): void => {
    history.ask(tag, 'import', content)
    history.acknowledge(tag)
  }
  promise('kept', 'a')
  promise('removed', 'b')
  promise('removed', undefined)
  history.ask('refused', 'import', 'e')
  history.withdraw('refused')
  history.ask('moved', 'move', 'c')
  promise('deleted', 'd')
  history.ask('deleted', 'removal', undefined)
  const lists: readonly (readonly [name: string, found: Record<string, string>])[] = [
    ['lost', { deleted: 'd' }],
    ['another image', { kept: 'b', deleted: 'd' }],
    ['back again', { kept: 'a', removed: 'b', deleted: 'd' }],
    ['in between', { kept: 'a', moved: 'a', deleted: 'd' }],
    ['made of nothing', { kept: 'a', deleted: 'd', refused: 'e' }],
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
  assert.deepEqual(settled, {
    import: { made: 0, notMade: 0 },
    move: { made: 1, notMade: 0 },
    removal: { made: 0, notMade: 1 },
  })
})
