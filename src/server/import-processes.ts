/**
 * Import processes: each runs one piece of heavy work (cut and store an image, hash an upload) at the lowest
 * priority, so that neither its CPU nor its disk reads delay a client. A few run at once, the others wait
 * their turn. None outlives the owner of this object.
 */
import type { ChildProcess } from 'node:child_process'
import { execFile, fork } from 'node:child_process'
import { constants, setPriority } from 'node:os'

import type { ErrorRecord } from '../core/index.ts'
import { AppError, fromErrorRecord, siblingModule } from '../core/index.ts'

const MAX_WAITING = 256
/** A process that was told to stop, or has given its result, and does not end is killed after this long. */
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
  readonly lane: string | undefined
  readonly start: () => void
}

export interface ImportProcessesOptions {
  /** Processes at once. */
  readonly concurrency: number
  /** What is run: the import process unless a test says otherwise. */
  readonly module?: URL
  readonly stopGraceMs?: number
  /** Called when a process ended by a signal or an exit code, so that it did not tidy up; with its start message. */
  readonly onCrash?: (pid: number, start: Readonly<Record<string, unknown>>) => Promise<void>
}

export class ImportProcesses implements AsyncDisposable {
  readonly #concurrency: number
  readonly #module: URL
  readonly #stopGraceMs: number
  readonly #onCrash: ImportProcessesOptions['onCrash']
  readonly #waiting: Waiting[] = []
  /** Domains that an image is imported into now. */
  readonly #lanes = new Set<string>()
  readonly #close = new AbortController()
  readonly #ends = new Set<Promise<unknown>>()
  #running = 0

  constructor(options: ImportProcessesOptions) {
    this.#concurrency = options.concurrency
    this.#module = options.module ?? siblingModule(import.meta.url, '../images/import-process')
    this.#stopGraceMs = options.stopGraceMs ?? STOP_GRACE_MS
    this.#onCrash = options.onCrash
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
    const signal = AbortSignal.any([
      this.#close.signal,
      ...(options.signal === undefined ? [] : [options.signal]),
    ])
    const lane = laneOf(start)
    await this.#turn(lane, signal)
    const running = this.#runProcess(start, { ...options, signal })
    this.#ends.add(running)
    try {
      return (await running) as T
    } finally {
      this.#ends.delete(running)
      this.#give(lane)
    }
  }

  /** Cancels what runs and waits; resolves when no process is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#close.abort()
    await Promise.allSettled(this.#ends)
  }

  #isFree(lane: string | undefined): boolean {
    return this.#running < this.#concurrency && (lane === undefined || !this.#lanes.has(lane))
  }

  #take(lane: string | undefined): void {
    this.#running++
    if (lane !== undefined) this.#lanes.add(lane)
  }

  /** Gives a place back, and lets those go on who wait for it. */
  #give(lane: string | undefined): void {
    this.#running--
    if (lane !== undefined) this.#lanes.delete(lane)
    for (;;) {
      const next = this.#waiting.findIndex((entry) => this.#isFree(entry.lane))
      if (next < 0) return
      for (const entry of this.#waiting.splice(next, 1)) entry.start()
    }
  }

  /** Resolves with a place taken. */
  async #turn(lane: string | undefined, signal: AbortSignal): Promise<void> {
    if (signal.aborted) throw cancelled()
    if (this.#isFree(lane)) {
      this.#take(lane)
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
      lane,
      start: () => {
        signal.removeEventListener('abort', cancel)
        this.#take(lane)
        turn.resolve()
      },
    }
    const cancel = (): void => {
      this.#waiting.splice(this.#waiting.indexOf(entry), 1)
      turn.reject(cancelled())
    }
    this.#waiting.push(entry)
    signal.addEventListener('abort', cancel, { once: true })
    await turn.promise
  }

  async #runProcess(
    start: Readonly<Record<string, unknown>>,
    { signal, onStart, onProgress }: RunProcessOptions & { readonly signal: AbortSignal },
  ): Promise<unknown> {
    if (signal.aborted) throw cancelled()
    onStart?.()
    const child = fork(this.#module, {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
      env: { ...process.env, UV_THREADPOOL_SIZE: '2' },
    })
    const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    const result = outcome(child, signal, onProgress)
    const stop = (): void => stopChild(child, this.#stopGraceMs)
    signal.addEventListener('abort', stop, { once: true })
    try {
      if (child.pid !== undefined) {
        lowerPriority(child.pid)
        child.send({ type: 'start', ...start })
      }
      return await result
    } finally {
      signal.removeEventListener('abort', stop)
      if (child.connected) child.disconnect()
      if (isAlive(child)) await endInTime(child, exited, this.#stopGraceMs)
      if (child.pid !== undefined && child.exitCode !== 0) {
        await this.#onCrash?.(child.pid, start)
      }
    }
  }
}

/**
 * Images of one domain are imported one after the other: two that are written at the same time do not find each
 * other's chunks, and would share nothing.
 */
function laneOf(start: Readonly<Record<string, unknown>>): string | undefined {
  return start['work'] === 'import' ? String(start['domain']) : undefined
}

function outcome(
  child: ChildProcess,
  signal: AbortSignal,
  onProgress: RunProcessOptions['onProgress'],
): Promise<unknown> {
  const result = Promise.withResolvers<unknown>()
  child.on('message', (message: Readonly<Record<string, unknown>>) => {
    if (message['type'] === 'progress') onProgress?.(message as unknown as ProcessProgress)
    else if (message['type'] === 'done') result.resolve(message['report'])
    else if (message['type'] === 'failed')
      result.reject(fromErrorRecord(message['error'] as ErrorRecord))
  })
  // Not started (no memory, no process left), or its channel broke because it ended.
  child.on('error', (cause) => {
    result.reject(
      new AppError('ERR_IMPORT_PROCESS', 'the import process could not be run', { cause }),
    )
  })
  child.on('exit', (code, killedBy) => {
    if (signal.aborted) result.reject(cancelled())
    const why = killedBy === null ? `exit code ${code}` : `signal ${killedBy}`
    const hint = killedBy === 'SIGKILL' ? { hint: 'the machine may be short of memory' } : {}
    result.reject(
      new AppError(
        'ERR_IMPORT_PROCESS',
        `the import process ended with ${why} and no result`,
        hint,
      ),
    )
  })
  return result.promise
}

function isAlive(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

function cancelled(): AppError {
  return new AppError('ERR_ABORTED', 'the operation was cancelled')
}

function stopChild(child: ChildProcess, graceMs: number): void {
  if (!isAlive(child)) return
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  timer.unref()
  child.once('exit', () => clearTimeout(timer))
}

/** Its channel is closed, so it has nothing left to do. */
async function endInTime(
  child: ChildProcess,
  exited: Promise<void>,
  graceMs: number,
): Promise<void> {
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  await exited
  clearTimeout(timer)
}

/**
 * Lowest niceness, and where `chrt` is (util-linux) the policy SCHED_IDLE: a reader's thread that wakes up takes the
 * processor at once, and the disk serves the process last, because its I/O class follows from its policy.
 */
function lowerPriority(pid: number): void {
  try {
    setPriority(pid, constants.priority.PRIORITY_LOW)
  } catch {
    return // it ended already, or the platform forbids it: the import works at normal priority
  }
  // Without the program, or the right to it, niceness has to do.
  execFile('chrt', ['--idle', '--all-tasks', '--pid', '0', String(pid)], () => undefined)
}
