/**
 * Two misfortunes: a run is killed when a name is there and not certain yet; another run finds it, builds upon it,
 * acknowledges; and then the power is cut. What the second run acknowledged must not hang on the first one's luck.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'

import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import { dataFolder } from '../store/data-folder.ts'
import { checkCut } from './power-loss/check-cut.ts'
import { SEED, cuts, isMark, recordLife } from './power-loss/cuts.ts'
import { DiskModel, KEPT, writeState } from './power-loss/disk-model.ts'
import type { Operation } from './power-loss/syscall-trace.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
/** Index, blob and map of the first image; at full counts every name and folder, but for unfinished and derived ones. */
const NAMES = FULL ? /^store(?!.*\/(?:uploads|index))/ : /\/(?:blobs|maps)\//

function givesName(operation: Operation): boolean {
  if (operation.op === 'link') return NAMES.test(operation.to)
  return FULL && operation.op === 'mkdir' && NAMES.test(operation.path)
}

test(
  'power loss after a run that was killed, and another',
  { skip: missing('strace') },
  async () => {
    await using folder = await dataFolder()
    const first = await recordLife(folder, 'first')
    const untilMark = first.slice(0, first.findIndex(isMark))
    const names = untilMark.flatMap((operation, index) => (givesName(operation) ? [index] : []))
    let states = 0
    for (const [run, index] of names.entries()) {
      const earlier = first.slice(0, index + 1)
      const model = new DiskModel()
      for (const operation of earlier) model.apply(operation)
      const data = `again-${run}`
      await mkdir(join(folder.path, data))
      await writeState(model.stateAfter(KEPT), join(folder.path, data))
      const operations = await recordLife(folder, data)
      // What is promised first stands on what was found.
      const marks = operations.keys().filter((at) => isMark(operations[at]))
      const points = new Set(marks.take(FULL ? 3 : 1))
      for (const cut of cuts(operations, { earlier, isDue: (_, at) => points.has(at) })) {
        await checkCut(cut, join(folder.path, `cut-${++states}`))
      }
    }
    evidence('store.power_loss_after_kill', { runs: names.length, states, seed: SEED })
  },
)
