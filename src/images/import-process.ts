/**
 * The import process: started with an IPC channel, works off one task and ends. It lowers its own priority,
 * so that its CPU never delays a read; SIGTERM cancels it, and when its parent is gone it ends by itself. In
 * both cases it first removes what is unfinished.
 */
import { constants, setPriority } from 'node:os'

import { toErrorRecord } from '../core/index.ts'
import { openStore } from '../store/index.ts'
import { importOci } from './build/import-oci.ts'
import { importTar } from './build/import-tar.ts'
import type { FileReport, FromImportProcess, ToImportProcess } from './import-messages.ts'
import { digestFile, storeFile } from './import/hash-file.ts'
import type { ImportSummary } from './import/store-image.ts'
import { importErofs } from './import/import-erofs.ts'
import type { ImportProgress } from './import/progress.ts'

const cancelled = new AbortController()

function send(message: FromImportProcess): void {
  // When the parent is gone, nobody wants to know: without a callback, a broken channel would be an uncaught error.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}

async function perform(task: ToImportProcess): Promise<ImportSummary | FileReport> {
  await using store = await openStore({ dataDir: task.dataDir, mode: 'member' })
  const onProgress = (progress: ImportProgress): void => {
    send({ type: 'progress', ...progress })
  }
  const options = { ...task, store, signal: cancelled.signal, onProgress }
  switch (options.work) {
    case 'import-erofs':
      return await importErofs(options)
    case 'import-tar':
      return await importTar(options)
    case 'import-oci':
      return await importOci(options)
    case 'blob':
      return await storeFile(options)
    case 'digest':
      return await digestFile(options)
  }
}

async function run(task: ToImportProcess): Promise<void> {
  try {
    send({ type: 'done', report: await perform(task) })
  } catch (error) {
    send({ type: 'failed', error: toErrorRecord(error) })
  }
  // The channel is all that keeps the process alive; what was sent is flushed first.
  if (process.connected) process.disconnect()
}

setPriority(constants.priority.PRIORITY_LOW)
// A Ctrl-C reaches the whole group: the parent decides what becomes of its imports.
process.on('SIGINT', () => undefined)
for (const end of ['SIGTERM', 'disconnect'] as const) {
  process.on(end, () => {
    cancelled.abort()
  })
}
process.once('message', (task: ToImportProcess) => {
  void run(task)
})
