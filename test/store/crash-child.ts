/**
 * A process that tests start and kill: `crash-child.ts DATA SCENARIO STEP`. `import` kills itself with
 * SIGKILL after its STEP-th change of the disk and says before what was acknowledged; `open` says whether it could open
 * the store; `hold` keeps it open.
 */
import { isAppError } from '../../src/core/index.ts'
import { openStore } from '../../src/store/index.ts'
import { importOnce } from './import-scenario.ts'

const [dataDir = '', scenario = '', stepText = ''] = process.argv.slice(2)
let left = Number(stepText)

function say(message: string): void {
  process.send?.(message)
}

try {
  if (scenario === 'import') {
    await importOnce(dataDir, say, () => {
      if (--left === 0) process.kill(process.pid, 'SIGKILL')
    })
  } else {
    const store = await openStore({ dataDir, mode: 'owner' })
    say('opened')
    if (scenario === 'hold') setInterval(() => undefined, 60_000)
    else await store.close()
  }
} catch (error) {
  say(isAppError(error) ? error.code : String(error))
}
if (scenario !== 'hold') process.disconnect()
