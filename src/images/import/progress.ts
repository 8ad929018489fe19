/**
 * How far an import is, said at most ten times a second, and the points where it lets other events in: a
 * cancel could never arrive in a process that only computes.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

import { AppError } from '../../core/index.ts'

export type ImportPhase =
  'unpacking' | 'building' | 'reading' | 'writing' | 'verifying' | 'publishing'

export interface ImportProgress {
  readonly phase: ImportPhase
  /** Bytes of the archive or the devices that the phase has worked off. */
  readonly doneBytes: number
  readonly totalBytes: number
}

const REPORT_INTERVAL_MS = 100

export class ProgressMeter {
  readonly #totalBytes: number
  readonly #report: ((progress: ImportProgress) => void) | undefined
  readonly #signal: AbortSignal | undefined
  #phase: ImportPhase = 'reading'
  #doneBytes = 0
  #lastReport = 0

  constructor(
    totalBytes: number,
    report: ((progress: ImportProgress) => void) | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.#totalBytes = totalBytes
    this.#report = report
    this.#signal = signal
  }

  enter(phase: ImportPhase): void {
    this.#phase = phase
    this.#doneBytes = 0
    this.#say()
  }

  /** Works off a generator of steps in bytes. @throws ERR_ABORTED between two steps */
  async run<T>(steps: Generator<number, T, void>): Promise<T> {
    for (;;) {
      const step = steps.next()
      if (step.done === true) return step.value
      if (!this.advance(step.value)) continue
      await nextTurn()
      this.check()
    }
  }

  /** So many bytes more are worked off. @returns true when it said so: a good moment for a pause */
  advance(bytes: number): boolean {
    this.#doneBytes += bytes
    if (performance.now() - this.#lastReport < REPORT_INTERVAL_MS) return false
    this.#say()
    return true
  }

  /** @throws ERR_ABORTED when the import was cancelled */
  check(): void {
    if (this.#signal?.aborted === true)
      throw new AppError('ERR_ABORTED', 'the import was cancelled')
  }

  #say(): void {
    this.#lastReport = performance.now()
    this.#report?.({
      phase: this.#phase,
      doneBytes: this.#doneBytes,
      totalBytes: this.#totalBytes,
    })
  }
}
