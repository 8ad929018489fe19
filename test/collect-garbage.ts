/** Memory as a test can hold it against a bound: what is reachable, after a full garbage collection. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Runs a full garbage collection now. */
export function collectGarbage(): void {
  collect()
}

const MAX_COLLECTIONS = 10

/**
 * Bytes that are reachable, in and outside of the heap. Memory outside of it is given back behind a collection, some
 * turns later: it collects again until there is nothing left to give.
 */
export async function settledBytes(): Promise<number> {
  let least = heldBytes()
  for (let i = 0; i < MAX_COLLECTIONS; i++) {
    await nextTurn()
    least = Math.min(least, heldBytes())
  }
  return least
}

/** The same, without waiting for what is on its way back. */
export function heldBytes(): number {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
