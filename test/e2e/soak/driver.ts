/**
 * Entry of the soak's client process: opens the connections, compares every byte, and reports what it saw. It
 * runs apart from the test, so that neither its memory nor its turns of the loop are taken for the server's.
 */
import { setMaxListeners } from 'node:events'

import { churn } from './churn.ts'
import { httpReader } from './http-readers.ts'
import { Load } from './load.ts'
import { nbdReader } from './nbd-readers.ts'
import type { SoakPlan } from './plan.ts'

process.once('message', (plan: SoakPlan) => void run(plan))

async function run(plan: SoakPlan): Promise<void> {
  setMaxListeners(0)
  const load = await Load.open(plan)
  process.once('message', () => load.stop())
  const half = plan.connections >> 1
  const clients: Promise<void>[] = []
  for (let i = 0; i < half; i++) clients.push(nbdReader(load, i), httpReader(load, i))
  for (let i = 0; i < plan.churns; i++) clients.push(churn(load, i))
  await Promise.all(clients)
  process.send?.(load.tally.report())
  process.disconnect()
}
