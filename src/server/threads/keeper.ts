/** Entry of the keeper's thread. */
import { workerData } from 'node:worker_threads'

import { runKeeper } from '../../cache/index.ts'
import type { KeeperSetup } from './setup.ts'

const { memory, control } = workerData as KeeperSetup
runKeeper({ memory, port: control })
