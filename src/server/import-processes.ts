/**
 * Import processes: each runs one piece of heavy work (cut and store an image, hash an upload) at the lowest
 * priority, so that neither its CPU nor its disk reads delay a client. A few run at once, the others wait
 * their turn.
 */
import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { constants, setPriority } from 'node:os'

import type { ErrorRecord } from '../core/index.ts'
import { AppError, fromErrorRecord, siblingModule } from '../core/index.ts'

const MAX_WAITING = 256
/** A process that was told to stop and does not is killed after this long. */
const STOP_GRACE_MS = 5000

export interface ProcessProgress {
  readonly phase: string
  readonly doneBytes: number
  /** 0 while unknown. */
  readonly totalBytes: number
}

export interface RunProcessOptions {
  readonly signal?: AbortSignal
  /** It has a place and runs now. */
  readonly onStart?: () => void
  readonly onProgress?: (progress: ProcessProgress) => void
}

interface Waiting {
  readonly start: () => void
  readonly cancel: () => void
}

export class ImportProcesses {
  readonly #concurrency: number
  readonly #waiting: Waiting[] = []
  #running = 0

  constructor(concurrency: number) {
    this.#concurrency = concurrency
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * Runs a process with a start message and gives what its last message says.
   * @throws ERR_JOBS_EXHAUSTED, ERR_ABORTED, ERR_IMPORT_PROCESS, and what the process failed with
   */
  async run<T>(
    start: Readonly<Record<string, unknown>>,
    options: RunProcessOptions = {},
  ): Promise<T> {
    await this.#turn(options.signal)
    try {
      options.onStart?.()
      return (await runProcess(start, options)) as T
    } finally {
      this.#running--
      this.#waiting.shift()?.start()
    }
  }

  /** Resolves with a place taken. */
  async #turn(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted === true) throw cancelled()
    if (this.#running < this.#concurrency) {
      this.#running++
      return
    }
    if (this.#waiting.length >= MAX_WAITING) {
      throw new AppError(
        'ERR_JOBS_EXHAUSTED',
        `${MAX_WAITING} imports wait already, which is the limit`,
      )
    }
    const turn = Promise.withResolvers<void>()
    const entry: Waiting = {
      start: () => {
        this.#running++
        turn.resolve()
      },
      cancel: () => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1)
        turn.reject(cancelled())
      },
    }
    this.#waiting.push(entry)
    signal?.addEventListener('abort', entry.cancel, { once: true })
    await turn.promise
    signal?.removeEventListener('abort', entry.cancel)
  }
}

async function runProcess(
  start: Readonly<Record<string, unknown>>,
  options: RunProcessOptions,
): Promise<unknown> {
  const child = fork(siblingModule(import.meta.url, '../images/import-process'), {
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execArgv: [],
    env: { ...process.env, UV_THREADPOOL_SIZE: '2' },
  })
  const exited = once(child, 'exit')
  if (child.pid !== undefined) lowerPriority(child.pid)
  const stop = (): void => stopChild(child)
  options.signal?.addEventListener('abort', stop, { once: true })
  try {
    child.send({ type: 'start', ...start })
    return await outcome(child, options)
  } finally {
    options.signal?.removeEventListener('abort', stop)
    if (child.connected) child.disconnect()
    if (child.exitCode === null && child.signalCode === null && child.pid !== undefined)
      await exited
  }
}

function outcome(child: ChildProcess, options: RunProcessOptions): Promise<unknown> {
  const result = Promise.withResolvers<unknown>()
  child.on('message', (message: Readonly<Record<string, unknown>>) => {
    if (message['type'] === 'progress') options.onProgress?.(message as unknown as ProcessProgress)
    else if (message['type'] === 'done') result.resolve(message['report'])
    else if (message['type'] === 'failed')
      result.reject(fromErrorRecord(message['error'] as ErrorRecord))
  })
  child.on('error', (cause) => {
    result.reject(
      new AppError('ERR_IMPORT_PROCESS', 'the import process could not be run', { cause }),
    )
  })
  child.on('exit', (code, signal) => {
    if (options.signal?.aborted === true) result.reject(cancelled())
    const why = signal === null ? `exit code ${code}` : `signal ${signal}`
    result.reject(
      new AppError('ERR_IMPORT_PROCESS', `the import process ended with ${why} and no result`),
    )
  })
  return result.promise
}

function cancelled(): AppError {
  return new AppError('ERR_ABORTED', 'the operation was cancelled')
}

function stopChild(child: ChildProcess): void {
  if (child.exitCode !== null) return
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_GRACE_MS)
  timer.unref()
  child.once('exit', () => clearTimeout(timer))
}

function lowerPriority(pid: number): void {
  try {
    setPriority(pid, constants.priority.PRIORITY_LOW)
  } catch {
    return // it ended already, or the platform forbids it: the import works at normal priority
  }
}
