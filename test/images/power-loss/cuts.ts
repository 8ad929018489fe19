/**
 * The life of a store as a list of operations, and the states in which a disk may be when the power is cut after
 * one of them, each with what had been promised by then.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { randomNumbers } from '../../erofs/fixtures.ts'
import type { DataFolder } from '../../store/data-folder.ts'
import { count } from '../../store/data-folder.ts'
import type { DiskState, Fate } from './disk-model.ts'
import { DiskModel, HOLLOW, KEPT, LOST, fingerprint, torn } from './disk-model.ts'
import type { Acknowledged } from './scenario.ts'
import { NOTHING } from './scenario.ts'
import type { Operation } from './syscall-trace.ts'
import { record } from './syscall-trace.ts'

const SCENARIO = fileURLToPath(new URL('./scenario.ts', import.meta.url))
export const SEED = Number(process.env['COMMONPAGE_SEED'] ?? 20_261_123)
/** Ways in which what is not certain may be mixed, for each point. */
const TORN_PER_POINT = count(4, 1)

/** A cut: what the disk may hold, and what had been promised by then. */
export interface Cut {
  readonly state: DiskState
  readonly before: Acknowledged
  /** What was under way: it may be there. */
  readonly next: Acknowledged
  readonly name: string
}

/** Runs the scenario on `data`, a folder that is made if it is missing, and records it. */
export async function recordLife(folder: DataFolder, data: string): Promise<Operation[]> {
  const marks = join(folder.path, `${data}.marks`)
  await mkdir(join(folder.path, data), { recursive: true })
  return await record({
    folder: join(folder.path, data),
    marks,
    output: join(folder.path, `${data}.strace`),
    command: [process.execPath, SCENARIO, join(folder.path, data, 'store'), marks],
  })
}

/** Tags as they were said last, and every image that was ever named. */
export function acknowledgedBy(operations: readonly Operation[]): Acknowledged {
  let all = NOTHING
  for (const one of operations) {
    if (one.op !== 'mark') continue
    const { images, tags } = JSON.parse(one.text) as Acknowledged
    all = { images: { ...all.images, ...images }, tags }
  }
  return all
}

export interface CutOptions {
  /** Operations that a run before this one made, which was killed. */
  readonly earlier?: readonly Operation[]
  /** After which operations the power is cut. */
  readonly isDue: (operation: Operation, index: number) => boolean
}

/** What the disk may hold at the chosen points of a run, each state once. */
export function* cuts(operations: readonly Operation[], options: CutOptions): Generator<Cut> {
  const { earlier = [], isDue } = options
  const model = new DiskModel()
  for (const operation of earlier) model.apply(operation)
  const seen = new Set<string>()
  for (const [index, operation] of operations.entries()) {
    model.apply(operation)
    if (!isDue(operation, index)) continue
    const before = acknowledgedBy([...earlier, ...operations.slice(0, index + 1)])
    const mark = operations.slice(index + 1).find((one) => one.op === 'mark')
    const next = mark === undefined ? before : (JSON.parse(mark.text) as Acknowledged)
    for (const fate of fates(index)) {
      const state = model.stateAfter(fate)
      const key = `${fingerprint(state)} ${JSON.stringify(before)}`
      if (seen.has(key)) continue
      seen.add(key)
      yield { state, before, next, name: `operation ${index}, ${fate.name}` }
    }
  }
}

export function isMark(operation: Operation | undefined): boolean {
  return operation?.op === 'mark'
}

/** About `points` operations, evenly spread. */
export function spread(operations: readonly Operation[], points: number): CutOptions['isDue'] {
  const stride = Math.max(1, operations.length / points)
  return (_, index) => Math.floor(index / stride) !== Math.floor((index - 1) / stride)
}

function fates(index: number): Fate[] {
  const mixed = Array.from({ length: TORN_PER_POINT }, (_, turn) => {
    const seed = SEED + index * TORN_PER_POINT + turn
    const random = randomNumbers(seed)
    return torn(seed, () => random(1_000_000) / 1_000_000)
  })
  return [LOST, KEPT, HOLLOW, ...mixed]
}
