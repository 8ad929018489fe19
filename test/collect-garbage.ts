/** Memory as a test can hold it against a bound: what is reachable, after a full garbage collection. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Runs a full garbage collection now. */
export function collectGarbage(): void {
  collect()
}

/** Bytes that are reachable, in and outside of the heap. */
export function heldBytes(): number {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
