/** Imports as jobs that clients can look at, wait for and cancel. Ended jobs are remembered for a while. */
import { randomUUID } from 'node:crypto'

import { AppError, isAppError, toErrorRecord } from '../core/index.ts'
import type { Job } from './http/index.ts'
import type { ImportProcesses } from './import-processes.ts'

/** Some 4 KiB each. */
const MAX_REMEMBERED = 256

type Outcome = 'done' | 'failed' | 'cancelled'

export interface ImportTask<T> {
  /** Shown as the job's reference. */
  readonly ref: string
  /** Sent to the import process as it is. */
  readonly start: Readonly<Record<string, unknown>>
  /** Publishes what the process made; runs in the main thread. @returns the job's report */
  readonly publish: (result: T) => Promise<Job['report']>
  /** Runs once when the process has ended, however: on a full disk, publishing needs the room that this gives back. */
  readonly cleanup: () => Promise<void>
}

/** The part of a logger that is used here. */
export interface JobLogger {
  info(fields: Record<string, unknown>, message: string): void
  warn(fields: Record<string, unknown>, message: string): void
  error(fields: Record<string, unknown>, message: string): void
}

export interface JobsOptions {
  readonly processes: Pick<ImportProcesses, 'run'>
  readonly logger: JobLogger
}

interface Entry {
  job: Job
  readonly stop: AbortController
  readonly ended: PromiseWithResolvers<void>
}

export class Jobs {
  readonly #options: JobsOptions
  readonly #entries = new Map<string, Entry>()
  readonly #ended: Record<Outcome, number> = { done: 0, failed: 0, cancelled: 0 }
  #closed = false

  constructor(options: JobsOptions) {
    this.#options = options
  }

  /** Jobs that ended in this run, by how. */
  get ended(): Readonly<Record<Outcome, number>> {
    return this.#ended
  }

  /** After `close` a job is cancelled before it starts. */
  add<T>(task: ImportTask<T>): Job {
    const entry: Entry = {
      job: {
        id: randomUUID(),
        kind: 'import',
        ref: task.ref,
        state: 'queued',
        phase: 'waiting',
        doneBytes: 0,
        totalBytes: 0,
        createdAt: new Date().toISOString(),
      },
      stop: new AbortController(),
      ended: Promise.withResolvers(),
    }
    this.#entries.set(entry.job.id, entry)
    if (this.#closed) entry.stop.abort()
    void this.#run(entry, task)
    return entry.job
  }

  /** Newest first. */
  list(): Job[] {
    return [...this.#entries.values()].map((entry) => entry.job).toReversed()
  }

  /** Waits up to `waitMs` for the job's end. @throws ERR_JOB_NOT_FOUND */
  async get(id: string, waitMs = 0): Promise<Job> {
    const entry = this.#find(id)
    if (waitMs > 0 && entry.job.finishedAt === undefined) {
      const late = Promise.withResolvers<void>()
      const timer = setTimeout(late.resolve, waitMs)
      await Promise.race([entry.ended.promise, late.promise])
      clearTimeout(timer)
    }
    return entry.job
  }

  /** Ends a waiting or running job; one that has ended stays as it is. @throws ERR_JOB_NOT_FOUND */
  async cancel(id: string): Promise<Job> {
    const entry = this.#find(id)
    entry.stop.abort()
    await entry.ended.promise
    return entry.job
  }

  /** Cancels everything, what is added from now on as well, and waits for it. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#entries.keys()].map((id) => this.cancel(id)))
  }

  #find(id: string): Entry {
    const entry = this.#entries.get(id)
    if (!entry) throw new AppError('ERR_JOB_NOT_FOUND', `no job '${id}'`)
    return entry
  }

  async #run<T>(entry: Entry, task: ImportTask<T>): Promise<void> {
    try {
      const result = await this.#process(entry, task)
      update(entry, { phase: 'publishing' })
      const report = await task.publish(result)
      this.#end(entry, 'done', {
        doneBytes: entry.job.totalBytes,
        ...(report === undefined ? {} : { report }),
      })
    } catch (error) {
      const outcome = isAppError(error) && error.code === 'ERR_ABORTED' ? 'cancelled' : 'failed'
      const { code, message, hint } = outcome === 'cancelled' ? CANCELLED : toErrorRecord(error)
      this.#end(entry, outcome, {
        error: { code, message, ...(hint === undefined ? {} : { hint }) },
      })
      this.#logEnd(entry.job, error)
      return
    }
    this.#logEnd(entry.job)
  }

  /** A bad image is its sender's mistake; an error without a code is ours. */
  #logEnd(job: Job, error?: unknown): void {
    const { logger } = this.#options
    const fields = { event: `import.${job.state}`, job: job.id, ref: job.ref }
    if (job.error === undefined) {
      logger.info({ ...fields, bytes: job.doneBytes }, 'an image was imported')
    } else if (job.state === 'cancelled') {
      logger.info({ ...fields, code: job.error.code }, job.error.message)
    } else if (isAppError(error) && error.code !== 'ERR_INTERNAL') {
      logger.warn({ ...fields, code: job.error.code }, job.error.message)
    } else {
      logger.error({ ...fields, code: job.error.code, err: error }, job.error.message)
    }
  }

  async #process<T>(entry: Entry, task: ImportTask<T>): Promise<T> {
    const { processes, logger } = this.#options
    try {
      return await processes.run<T>(task.start, {
        signal: entry.stop.signal,
        onStart: () => update(entry, { state: 'running', phase: 'starting' }),
        onProgress: ({ phase, doneBytes, totalBytes }) =>
          update(entry, { phase, doneBytes, totalBytes }),
      })
    } finally {
      await task.cleanup().catch((error: unknown) => {
        logger.error(
          { event: 'import.cleanup_failed', job: entry.job.id, err: error },
          'an upload was not removed',
        )
      })
    }
  }

  #end(entry: Entry, state: Outcome, change: Partial<Job>): void {
    this.#ended[state]++
    update(entry, { ...change, state, phase: state, finishedAt: new Date().toISOString() })
    entry.ended.resolve()
    for (const [id, old] of this.#entries) {
      if (this.#entries.size <= MAX_REMEMBERED) break
      if (old.job.finishedAt !== undefined) this.#entries.delete(id)
    }
  }
}

const CANCELLED = {
  code: 'ERR_JOB_CANCELLED',
  message: 'the import was cancelled; nothing of it is kept',
  hint: undefined,
}

function update(entry: Entry, change: Partial<Job>): void {
  entry.job = { ...entry.job, ...change }
}
