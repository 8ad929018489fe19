/**
 * Bytes that V8 allocates for one call: the growth of the used heap over a batch that is too small to start a
 * collection. Exact but for what the process does beside it, so the median of several batches is taken.
 */
import { collectGarbage } from '../collect-garbage.ts'

/** Calls until V8 has compiled what is measured with its last compiler. */
const WARM_UP_CALLS = 5000
const BATCHES = 9
/** How large a batch may be is tried with so many small ones. */
const TRIALS = 5
const TRIAL_CALLS = 32
/** A batch may allocate this much: V8 collects when its first semi-space of 1 MiB is full. */
const BATCH_BYTES = 256 * 1024
const MAX_BATCH_CALLS = 2000

/** @returns bytes; a call that allocates nothing measures below 0.5, because measuring itself allocates a little */
export function allocatedBytes(call: () => void): number {
  for (let i = 0; i < WARM_UP_CALLS; i++) call()
  // The least of some: what the process does beside one of them would make all batches small, and measuring costly.
  const trials = Array.from({ length: TRIALS }, () => batch(call, TRIAL_CALLS))
  const each = Math.max(Math.min(...trials), 1)
  const calls = Math.max(4, Math.min(MAX_BATCH_CALLS, Math.floor(BATCH_BYTES / each)))
  const batches = Array.from({ length: BATCHES }, () => batch(call, calls))
  return batches.toSorted((a, b) => a - b)[BATCHES >> 1] ?? NaN
}

function batch(call: () => void, calls: number): number {
  collectGarbage()
  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < calls; i++) call()
  return (process.memoryUsage().heapUsed - before) / calls
}
