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

/** Bytes that are reachable. */
export interface HeldMemory {
  readonly heapBytes: number
  /** Outside of the heap: what buffers hold, nearly all of it. */
  readonly bufferBytes: number
}

/**
 * What is reachable now. Memory outside of the heap is given back behind a collection, some turns later: it collects
 * again until there is nothing left to give.
 */
export async function settledMemory(): Promise<HeldMemory> {
  let least = heldMemory()
  for (let i = 0; i < MAX_COLLECTIONS; i++) {
    await nextTurn()
    const { heapBytes, bufferBytes } = heldMemory()
    least = {
      heapBytes: Math.min(least.heapBytes, heapBytes),
      bufferBytes: Math.min(least.bufferBytes, bufferBytes),
    }
  }
  return least
}

function heldMemory(): HeldMemory {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return { heapBytes: heapUsed, bufferBytes: external }
}
