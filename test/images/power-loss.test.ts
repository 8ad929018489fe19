/**
 * The power is cut at every point of a recorded run of imports and tag changes. Of what was not fsynced, nothing,
 * everything or any part is on the disk: the store opens, what was acknowledged is there and whole, nothing
 * half-made can be seen, and the same imports work. The recording is strace's, from outside of the process, and holds
 * SQLite's calls as well. `COMMONPAGE_SEED` gives other mixtures.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import { count, dataFolder } from '../store/data-folder.ts'
import { checkCut } from './power-loss/check-cut.ts'
import { SEED, acknowledgedBy, cuts, isMark, recordLife, spread } from './power-loss/cuts.ts'
import type { Operation } from './power-loss/syscall-trace.ts'

/** Of all points, so many are tried; each operation matters, so the full count takes all. */
const MAX_POINTS = count(Infinity, 8)

/** What an fsync is for: a folder's names of one kind, or the bytes of what becomes an object of that kind. */
function purposeOf(operations: readonly Operation[], index: number): string | undefined {
  const operation = operations[index]
  if (operation?.op !== 'sync') return undefined
  const published = operations
    .slice(index)
    .find((one) => (one.op === 'link' || one.op === 'rename') && one.path === operation.path)
  const path = published?.op === 'link' || published?.op === 'rename' ? published.to : undefined
  const kind = /^store\/domains\/[^/]+\/(\w+)\//.exec(`${path ?? operation.path}/`)?.[1]
  if (kind === undefined || kind === 'uploads' || kind === 'index') return undefined
  const suffix = path?.endsWith('.idx') === true ? ' (index)' : ''
  return path === undefined ? `names in ${kind}` : `bytes of ${kind}${suffix}`
}

describe('power loss', { skip: missing('strace') }, () => {
  test('at every operation of imports and tag changes', async () => {
    await using folder = await dataFolder()
    const operations = await recordLife(folder, 'life')
    const isDue = spread(operations, MAX_POINTS)
    let states = 0
    for (const cut of cuts(operations, { isDue })) {
      await checkCut(cut, join(folder.path, `cut-${++states}`))
    }
    evidence('store.power_loss', { operations: operations.length, states, seed: SEED })
    const { images, tags } = acknowledgedBy(operations)
    assert.ok(images.plain !== undefined && tags['app:again'] === images.plain)
  })

  test('this check sees what is lost when an fsync is left out', async () => {
    await using folder = await dataFolder()
    const operations = await recordLife(folder, 'life')
    const purposes = new Set(operations.flatMap((_, index) => purposeOf(operations, index) ?? []))
    const kinds = ['blobs', 'maps', 'manifests', 'refs']
    const expected = [
      'bytes of blobs (index)',
      ...kinds.flatMap((one) => [`bytes of ${one}`, `names in ${one}`]),
    ]
    assert.deepEqual([...purposes].toSorted(), expected.toSorted())
    let states = 0
    for (const purpose of purposes) {
      const without = operations.filter((_, index) => purposeOf(operations, index) !== purpose)
      let noticed = false
      for (const cut of cuts(without, { isDue: isMark })) {
        noticed = await checkCut(cut, join(folder.path, `cut-${++states}`)).then(
          () => false,
          () => true,
        )
        if (noticed) break
      }
      assert.ok(noticed, `nothing was missed without the fsyncs for ${purpose}`)
    }
    evidence('store.power_loss_self_test', { fsyncsLeftOut: purposes.size, states })
  })
})
