/**
 * The queue of imports: each runs in a niced process of its own, so that neither its CPU nor its disk
 * reads delay a client. A few run at once, the others wait; ended jobs are remembered for a while.
 */
import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { constants, setPriority } from 'node:os'

import type { ErrorRecord } from '../core/index.ts'
import { AppError, fromErrorRecord, siblingModule, toErrorRecord } from '../core/index.ts'
import type { Job } from './http/schemas.ts'

const MAX_WAITING = 256
const MAX_REMEMBERED = 1000
/** A cancelled import that does not end by itself is killed after this long. */
const CANCEL_GRACE_MS = 5000

export interface ImportTask {
  /** Shown as the job's reference. */
  readonly ref: string
  /** Sent to the import process as it is. */
  readonly start: Record<string, unknown>
  /** Publishes the result; runs in the main thread. @returns the job's report */
  readonly publish: (done: Record<string, unknown>) => Promise<Job['report']>
  /** Runs once, whatever happened. */
  readonly cleanup: () => Promise<void>
}

export interface JobsOptions {
  /** Imports that run at once. */
  readonly concurrency: number
  readonly onChange: (job: Job) => void
  readonly onLog: (fields: Record<string, unknown>, message: string) => void
}

interface Entry {
  job: Job
  readonly task: ImportTask
  child?: ChildProcess
  cancelled: boolean
  readonly ended: PromiseWithResolvers<void>
}

export class Jobs {
  readonly #options: JobsOptions
  readonly #entries = new Map<string, Entry>()
  readonly #waiting: Entry[] = []
  #running = 0
  #closed = false

  constructor(options: JobsOptions) {
    this.#options = options
  }

  /** @throws ERR_JOBS_EXHAUSTED */
  add(task: ImportTask): Job {
    if (this.#closed || this.#waiting.length >= MAX_WAITING) {
      throw new AppError(
        'ERR_JOBS_EXHAUSTED',
        `${this.#waiting.length} imports wait already, the limit is ${MAX_WAITING}`,
      )
    }
    const job: Job = {
      id: randomUUID(),
      kind: 'import',
      ref: task.ref,
      state: 'queued',
      phase: 'waiting',
      doneBytes: 0,
      totalBytes: 0,
      createdAt: new Date().toISOString(),
    }
    const entry: Entry = { job, task, cancelled: false, ended: Promise.withResolvers() }
    this.#entries.set(job.id, entry)
    this.#waiting.push(entry)
    this.#startWaiting()
    return entry.job
  }

  list(): Job[] {
    return [...this.#entries.values()].map((entry) => entry.job).toReversed()
  }

  /** Waits up to `waitMs` for the job's end. @throws ERR_JOB_NOT_FOUND */
  async get(id: string, waitMs = 0): Promise<Job> {
    const entry = this.#find(id)
    if (waitMs > 0 && entry.job.finishedAt === undefined) {
      const timer = Promise.withResolvers<void>()
      const handle = setTimeout(timer.resolve, waitMs)
      await Promise.race([entry.ended.promise, timer.promise])
      clearTimeout(handle)
    }
    return entry.job
  }

  /** Ends a waiting or running job; one that has ended stays as it is. @throws ERR_JOB_NOT_FOUND */
  async cancel(id: string): Promise<Job> {
    const entry = this.#find(id)
    if (entry.job.finishedAt !== undefined) return entry.job
    entry.cancelled = true
    const at = this.#waiting.indexOf(entry)
    if (at >= 0) {
      this.#waiting.splice(at, 1)
      await this.#end(entry, { state: 'cancelled', error: cancelledError() })
    } else {
      stopChild(entry.child)
    }
    await entry.ended.promise
    return entry.job
  }

  /** Cancels everything and waits until no import process is left. */
  async close(): Promise<void> {
    this.#closed = true
    const open = [...this.#entries.values()].filter((entry) => entry.job.finishedAt === undefined)
    await Promise.all(open.map((entry) => this.cancel(entry.job.id)))
  }

  #find(id: string): Entry {
    const entry = this.#entries.get(id)
    if (!entry) throw new AppError('ERR_JOB_NOT_FOUND', `no job '${id}'`)
    return entry
  }

  #startWaiting(): void {
    while (this.#running < this.#options.concurrency) {
      const entry = this.#waiting.shift()
      if (!entry) return
      this.#running++
      void this.#run(entry)
    }
  }

  async #run(entry: Entry): Promise<void> {
    this.#update(entry, { state: 'running', phase: 'starting' })
    try {
      const done = await this.#runChild(entry)
      if (entry.cancelled) throw new AppError('ERR_JOB_CANCELLED', 'the import was cancelled')
      this.#update(entry, { phase: 'publishing' })
      const report = await entry.task.publish(done)
      await this.#end(entry, {
        state: 'done',
        phase: 'done',
        ...(report === undefined ? {} : { report }),
      })
    } catch (error) {
      const record = toErrorRecord(error)
      const state = entry.cancelled ? 'cancelled' : 'failed'
      await this.#end(entry, { state, error: entry.cancelled ? cancelledError() : record })
      this.#options.onLog(
        { event: `import.${state}`, job: entry.job.id, ref: entry.job.ref, code: record.code },
        record.message,
      )
    } finally {
      this.#running--
      this.#startWaiting()
    }
  }

  async #runChild(entry: Entry): Promise<Record<string, unknown>> {
    const child = fork(siblingModule(import.meta.url, '../images/import-process'), {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
      env: { ...process.env, UV_THREADPOOL_SIZE: '2' },
    })
    entry.child = child
    if (child.pid !== undefined) lowerPriority(child.pid)
    const result = Promise.withResolvers<Record<string, unknown>>()
    child.on('message', (message: Record<string, unknown>) => {
      if (message['type'] === 'progress') this.#progress(entry, message)
      else if (message['type'] === 'done') result.resolve(message)
      else if (message['type'] === 'failed')
        result.reject(fromErrorRecord(message['error'] as ErrorRecord))
    })
    child.on('error', (cause) =>
      result.reject(
        new AppError('ERR_IMPORT_PROCESS', 'the import process could not be run', { cause }),
      ),
    )
    child.on('exit', (code, signal) => {
      result.reject(
        new AppError(
          'ERR_IMPORT_PROCESS',
          `the import process ended with ${signal ?? `exit code ${code}`} and no result`,
        ),
      )
    })
    const exited = once(child, 'exit')
    child.send({ type: 'start', ...entry.task.start })
    if (entry.cancelled) stopChild(child)
    try {
      return await result.promise
    } finally {
      if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
        if (child.connected) child.disconnect()
        await exited
      }
    }
  }

  #progress(entry: Entry, message: Record<string, unknown>): void {
    this.#update(entry, {
      phase: String(message['phase']),
      doneBytes: Number(message['doneBytes']),
      totalBytes: Number(message['totalBytes']),
    })
  }

  #update(entry: Entry, change: Partial<Job>): void {
    entry.job = { ...entry.job, ...change }
    this.#options.onChange(entry.job)
  }

  async #end(entry: Entry, change: Partial<Job>): Promise<void> {
    await entry.task.cleanup().catch((error: unknown) => {
      this.#options.onLog({ event: 'import.cleanup_failed', job: entry.job.id }, String(error))
    })
    this.#update(entry, { ...change, finishedAt: new Date().toISOString() })
    entry.ended.resolve()
    this.#forgetOldest()
  }

  #forgetOldest(): void {
    for (const [id, entry] of this.#entries) {
      if (this.#entries.size <= MAX_REMEMBERED) return
      if (entry.job.finishedAt !== undefined) this.#entries.delete(id)
    }
  }
}

function cancelledError(): NonNullable<Job['error']> {
  return { code: 'ERR_JOB_CANCELLED', message: 'the import was cancelled; nothing of it is kept' }
}

function stopChild(child: ChildProcess | undefined): void {
  if (!child || child.exitCode !== null) return
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), CANCEL_GRACE_MS)
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
