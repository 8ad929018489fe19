/**
 * Progress on stderr, in the form that the reader of stderr can use: one redrawn line on a terminal, a
 * line now and then in a log, JSON for programs. It only draws: what is done is told to it.
 */
import { AppError, formatDuration, formatSize } from '../../core/index.ts'
import { visibleWidth } from './text.ts'

export const PROGRESS_MODES = ['auto', 'tty', 'plain', 'json', 'none'] as const
export type ProgressMode = (typeof PROGRESS_MODES)[number]

/** At most ten redraws a second: more only flickers and costs CPU. */
const REDRAW_MS = 100
const PLAIN_EVERY_MS = 5000
const PLAIN_EVERY_SHARE = 0.1
/** So that a fast transfer does not fill a log with ten lines at once. */
const PLAIN_LEAST_MS = 1000
/** The rate is that of the last seconds, not of the whole transfer. */
const RATE_WINDOW_MS = 5000
const CLEAR_LINE = '\r\u001b[2K'

export interface ProgressOptions {
  readonly mode: ProgressMode
  readonly stream: {
    write(text: string): unknown
    readonly isTTY?: boolean
    readonly columns?: number
  }
  /** Milliseconds. */
  readonly now?: () => number
}

interface Sample {
  readonly at: number
  readonly bytes: number
}

export class Progress {
  readonly #mode: Exclude<ProgressMode, 'auto'>
  readonly #stream: ProgressOptions['stream']
  readonly #now: () => number
  #label = ''
  #part = ''
  #total = 0
  #done = 0
  #startedAt = 0
  #drawnAt = 0
  #drawnShare = 0
  #drawnWidth = 0
  #samples: Sample[] = []

  constructor(options: ProgressOptions) {
    const automatic = options.stream.isTTY === true ? 'tty' : 'plain'
    this.#mode = options.mode === 'auto' ? automatic : options.mode
    this.#stream = options.stream
    this.#now = options.now ?? (() => performance.now())
  }

  /** Begins a step. `totalBytes` 0: unknown yet. */
  start(label: string, totalBytes: number): void {
    this.#label = label
    this.#startedAt = this.#now()
    this.#drawnAt = this.#mode === 'tty' ? -REDRAW_MS : this.#startedAt
    this.#beginPart('', totalBytes)
    this.#samples = [{ at: this.#startedAt, bytes: 0 }]
  }

  /**
   * The step goes on with another part of its work, whose bytes count from 0. When it began is not known,
   * so its rate counts from the first update on.
   */
  enter(part: string): void {
    if (part !== this.#part) this.#beginPart(part, this.#total)
  }

  update(doneBytes: number, totalBytes = this.#total): void {
    const now = this.#now()
    this.#done = doneBytes
    this.#total = totalBytes
    const newest = this.#samples.at(-1)
    if (newest === undefined || now - newest.at >= REDRAW_MS) {
      this.#samples.push({ at: now, bytes: doneBytes })
      while ((this.#samples[1]?.at ?? now) < now - RATE_WINDOW_MS) this.#samples.shift()
    }
    if (this.#due(now)) this.#draw(now)
  }

  /** Ends the step; terminals keep its last line, logs get one with the average rate. */
  finish(): void {
    const now = this.#now()
    const elapsed = now - this.#startedAt
    const average = elapsed > 0 ? (this.#done / elapsed) * 1000 : 0
    const summary = `${this.#label}: ${formatSize(this.#done)} in ${formatDuration(elapsed)} (${formatSize(Math.round(average))}/s)`
    switch (this.#mode) {
      case 'tty':
        this.#stream.write(`${CLEAR_LINE}${summary}\n`)
        this.#drawnWidth = 0
        break
      case 'plain':
        this.#stream.write(`${summary}\n`)
        break
      case 'json':
        this.#writeJson(now)
        break
      case 'none':
        break
    }
  }

  /** Takes the unfinished line off the terminal, before an error is printed. */
  clear(): void {
    if (this.#mode === 'tty' && this.#drawnWidth > 0) this.#stream.write(CLEAR_LINE)
    this.#drawnWidth = 0
  }

  #beginPart(part: string, totalBytes: number): void {
    this.#part = part
    this.#total = totalBytes
    this.#done = 0
    this.#drawnShare = 0
    this.#samples = []
  }

  #due(now: number): boolean {
    const since = now - this.#drawnAt
    switch (this.#mode) {
      case 'tty':
        return since >= REDRAW_MS
      case 'json':
        return since >= PLAIN_LEAST_MS
      case 'plain':
        return (
          since >= PLAIN_EVERY_MS ||
          (since >= PLAIN_LEAST_MS && this.#share() - this.#drawnShare >= PLAIN_EVERY_SHARE)
        )
      case 'none':
        return false
    }
  }

  #draw(now: number): void {
    this.#drawnAt = now
    this.#drawnShare = this.#share()
    if (this.#mode === 'json') {
      this.#writeJson(now)
      return
    }
    const rate = this.#rate(now)
    const secondsLeft = this.#secondsLeft(rate) ?? 0
    const parts = [
      this.#total > 0 ? `${Math.floor(this.#share() * 100)}%` : undefined,
      this.#total > 0
        ? `${formatSize(this.#done)} of ${formatSize(this.#total)}`
        : formatSize(this.#done),
      rate === undefined ? undefined : `${formatSize(Math.round(rate))}/s`,
      secondsLeft > 0 ? `${formatDuration(secondsLeft * 1000)} left` : undefined,
    ]
    const step = this.#part === '' ? this.#label : `${this.#label} (${this.#part})`
    const line = `${step}: ${parts.filter((part) => part !== undefined).join(', ')}`
    if (this.#mode === 'plain') {
      this.#stream.write(`${line}\n`)
      return
    }
    const columns = this.#stream.columns ?? 80
    const shown = visibleWidth(line) < columns ? line : line.slice(0, Math.max(0, columns - 1))
    this.#stream.write(`${CLEAR_LINE}${shown}`)
    this.#drawnWidth = visibleWidth(shown)
  }

  #writeJson(now: number): void {
    const rate = this.#rate(now)
    const etaSeconds = this.#secondsLeft(rate)
    const event = {
      step: this.#label,
      ...(this.#part === '' ? {} : { part: this.#part }),
      doneBytes: this.#done,
      totalBytes: this.#total,
      ...(rate === undefined ? {} : { bytesPerSecond: Math.round(rate) }),
      ...(etaSeconds === undefined ? {} : { etaSeconds }),
    }
    this.#stream.write(`${JSON.stringify(event)}\n`)
  }

  #share(): number {
    return this.#total > 0 ? Math.min(1, this.#done / this.#total) : 0
  }

  /** Bytes per second over the window; unknown while that is too short to tell. */
  #rate(now: number): number | undefined {
    const oldest = this.#samples[0]
    if (oldest === undefined || now - oldest.at < REDRAW_MS) return undefined
    return ((this.#done - oldest.bytes) / (now - oldest.at)) * 1000
  }

  #secondsLeft(rate: number | undefined): number | undefined {
    if (this.#total === 0 || rate === undefined || rate <= 0) return undefined
    return Math.ceil((this.#total - this.#done) / rate)
  }
}

/** @throws ERR_CLI_USAGE */
export function parseProgressMode(text: string): ProgressMode {
  const mode = PROGRESS_MODES.find((candidate) => candidate === text)
  if (mode !== undefined) return mode
  throw new AppError(
    'ERR_CLI_USAGE',
    `--progress is '${text}', expected one of ${PROGRESS_MODES.join(', ')}`,
  )
}
