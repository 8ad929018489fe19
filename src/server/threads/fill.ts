/** Entry of a fill thread: the only place where the cache meets the store. */
import { workerData } from 'node:worker_threads'

import { runFiller } from '../../cache/index.ts'
import { LocalPageSource } from '../../store/index.ts'
import { createLoggers } from '../logger.ts'
import type { FillSetup } from './setup.ts'

const { memory, port, dataDir, log } = workerData as FillSetup
const logger = createLoggers(log).child('cache:fill')
const source = new LocalPageSource({
  dataDir,
  onFallback: (errno, file) =>
    logger.info(
      { event: 'fill.buffered', errno, file },
      'direct I/O is not possible here; pages are read through the kernel',
    ),
})
runFiller({ memory, port, source })
