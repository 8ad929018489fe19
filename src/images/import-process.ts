/**
 * The import process: started by `runImport` with an IPC channel, works off one task and ends. It lowers its
 * own priority, so that its CPU never delays a read; when its parent is gone it cleans up and ends as well.
 */
import { setPriority } from 'node:os'

import { toErrorRecord } from '../core/index.ts'
import { openStore } from '../store/index.ts'
import type { FromImportProcess, ImportTask, ToImportProcess } from './import-messages.ts'
import { importErofs } from './import/import-erofs.ts'

/** Below every server thread, above what the system runs when idle. */
const NICE = 10

const cancelled = new AbortController()

function send(message: FromImportProcess): void {
  // The parent may be gone: then nobody wants to know.
  if (process.connected) process.send?.(message)
}

async function work(task: ImportTask): Promise<void> {
  try {
    await using store = await openStore({ dataDir: task.dataDir, mode: 'member' })
    const outcome = await importErofs({
      store,
      domain: task.domain,
      devices: task.devices,
      signal: cancelled.signal,
      onProgress: (progress) => {
        send({ type: 'progress', ...progress })
      },
    })
    send({ type: 'done', outcome })
  } catch (error) {
    send({ type: 'failed', error: toErrorRecord(error) })
  }
  // The channel is what keeps the process alive.
  if (process.connected) process.disconnect()
}

setPriority(NICE)
// A Ctrl-C reaches the whole group: the parent decides what becomes of its imports.
process.on('SIGINT', () => undefined)
process.on('SIGTERM', () => {
  cancelled.abort()
})
process.on('disconnect', () => {
  cancelled.abort()
})
process.on('message', (message: ToImportProcess) => {
  if (message.type === 'cancel') cancelled.abort()
  else void work(message)
})
