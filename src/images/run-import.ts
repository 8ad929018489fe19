/**
 * Starts an import process and speaks with it: one task, its progress, its result. The caller decides how
 * many run at once and what becomes of the result.
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'

import { AppError, fromErrorRecord, siblingModule } from '../core/index.ts'
import { imageError } from './errors.ts'
import type { FromImportProcess, ImportTask, ToImportProcess } from './import-messages.ts'
import type { ImportOutcome } from './import/import-erofs.ts'
import type { ImportProgress } from './import/progress.ts'

export interface RunImportOptions extends ImportTask {
  /** Cancels: the process removes what is unfinished, then the promise rejects with ERR_ABORTED. */
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: ImportProgress) => void
}

/** What is kept of a process's last words. */
const MAX_STDERR_BYTES = 4096
/** A cancelled process that has not ended by then is killed; the store's next start removes what it left. */
const CANCEL_DEADLINE_MS = 10_000

/** @throws what `importErofs` throws; ERR_IMPORT_PROCESS when the process ended without a result */
export async function runImport(options: RunImportOptions): Promise<ImportOutcome> {
  const { dataDir, domain, format, devices, signal, onProgress } = options
  if (signal?.aborted === true) throw new AppError('ERR_ABORTED', 'the import was cancelled')
  const child = fork(siblingModule(import.meta.url, './import-process'), {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  const cancel = (): void => {
    cancelChild(child)
  }
  try {
    signal?.addEventListener('abort', cancel, { once: true })
    const result = resultOf(child, onProgress)
    tell(child, { type: 'start', dataDir, domain, format, devices })
    return await result
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}

/** Settles when the process has ended: by then its files are gone. */
function resultOf(
  child: ChildProcess,
  onProgress: RunImportOptions['onProgress'],
): Promise<ImportOutcome> {
  const { promise, resolve, reject } = Promise.withResolvers<ImportOutcome>()
  let answer: Exclude<FromImportProcess, { type: 'progress' }> | undefined
  let lastWords = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-MAX_STDERR_BYTES)
  })
  child.on('message', (message: FromImportProcess) => {
    if (message.type === 'progress') onProgress?.(message)
    else answer = message
  })
  child.on('error', (cause) => {
    reject(imageError('ERR_IMPORT_PROCESS', 'the import process could not be started', { cause }))
  })
  child.on('close', (code, signalName) => {
    if (answer?.type === 'done') resolve(answer.outcome)
    else if (answer?.type === 'failed') reject(fromErrorRecord(answer.error))
    else {
      const end = signalName === null ? `with code ${code}` : `by ${signalName}`
      reject(
        imageError('ERR_IMPORT_PROCESS', `the import process ended ${end} before it had a result`, {
          details: { stderr: lastWords },
        }),
      )
    }
  })
  return promise
}

function cancelChild(child: ChildProcess): void {
  tell(child, { type: 'cancel' })
  const deadline = setTimeout(() => child.kill('SIGKILL'), CANCEL_DEADLINE_MS)
  deadline.unref()
  child.once('close', () => {
    clearTimeout(deadline)
  })
}

function tell(child: ChildProcess, message: ToImportProcess): void {
  // A child that is gone says so by `close`.
  if (child.connected) child.send(message, () => undefined)
}
