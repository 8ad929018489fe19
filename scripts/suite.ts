/**
 * Runs test files with node:test and sums the result over two groups: files that may share the machine, and
 * files that want it for themselves. Output streams in node's own format; the closing counts, which other
 * programs read, are left to the caller so that they can come last.
 */
import { globSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import type { TestEvent } from 'node:test/reporters'

import { ROOT } from './steps.ts'

/** A file that hangs must not hold the whole run. */
const FILE_TIMEOUT_MS = 600_000
/** At full counts: the soak alone takes 30 minutes. */
const FULL_FILE_TIMEOUT_MS = 2_700_000
/** Tests against other programs, browsers and packages: they use both cores or fixed resources. */
const SERIAL_FOLDERS = /^test\/(?:interop|e2e|project|docs)\//
/** A file elsewhere asks for the machine with this word in its opening comment. */
const SERIAL_MARK = '@serial'
const OPENING_CHARACTERS = 2_000
const EVIDENCE = /^evidence: ([\w.-]+) (.+)$/

export interface SkippedTest {
  readonly name: string
  readonly file: string
  readonly reason: string
}

export interface SuiteResult {
  readonly counts: Readonly<Record<CountName, number>>
  readonly durationMs: number
  readonly skipped: readonly SkippedTest[]
  readonly failedFiles: readonly string[]
  /** Figures that tests printed as `evidence: NAME KEY=VALUE …`, in order. */
  readonly evidence: readonly (readonly [name: string, value: string])[]
}

const COUNT_NAMES = ['tests', 'suites', 'pass', 'fail', 'cancelled', 'skipped', 'todo'] as const
type CountName = (typeof COUNT_NAMES)[number]

/** Every test file below the given files or folders (relative to the project), sorted. */
export function findTestFiles(paths: readonly string[]): string[] {
  const patterns = paths.map((path) =>
    path.endsWith('.ts') ? path : `${path.replace(/\/$/, '')}/**/*.test.ts`,
  )
  return [...new Set(globSync(patterns, { cwd: ROOT }))].toSorted()
}

export async function runSuite(files: readonly string[]): Promise<SuiteResult> {
  const collected = new Collected()
  const started = performance.now()
  const printer = new spec()
  printer.pipe(process.stdout, { end: false })
  const source = Readable.from(events(files, collected))
  source.pipe(printer)
  await finished(printer)
  return collected.result(performance.now() - started)
}

async function* events(
  files: readonly string[],
  collected: Collected,
): AsyncGenerator<TestEvent, void> {
  const serial = files.filter(isSerial)
  const parallel = files.filter((file) => !serial.includes(file))
  for (const [group, concurrency] of [
    [parallel, availableParallelism()],
    [serial, 1],
  ] as const) {
    if (group.length === 0) continue
    const absolute = group.map((file) => join(ROOT, file))
    const timeout = process.env['COMMONPAGE_FULL'] === '1' ? FULL_FILE_TIMEOUT_MS : FILE_TIMEOUT_MS
    const stream = run({ files: absolute, concurrency, timeout, cwd: ROOT })
    for await (const event of stream as AsyncIterable<TestEvent>) {
      collected.add(event)
      if (!isClosingCount(event)) yield event
    }
  }
}

function isSerial(file: string): boolean {
  if (SERIAL_FOLDERS.test(file)) return true
  return readFileSync(join(ROOT, file), 'utf8').slice(0, OPENING_CHARACTERS).includes(SERIAL_MARK)
}

/** The counts that run() sends as diagnostics when a group ends. */
function isClosingCount(event: TestEvent): boolean {
  if (event.type !== 'test:diagnostic' || event.data.nesting !== 0) return false
  const name = event.data.message.split(' ')[0] ?? ''
  return name === 'duration_ms' || (COUNT_NAMES as readonly string[]).includes(name)
}

class Collected {
  readonly #counts: Record<CountName, number> = {
    tests: 0,
    suites: 0,
    pass: 0,
    fail: 0,
    cancelled: 0,
    skipped: 0,
    todo: 0,
  }
  readonly #skipped: SkippedTest[] = []
  readonly #failedFiles = new Set<string>()
  readonly #evidence: [string, string][] = []

  add(event: TestEvent): void {
    switch (event.type) {
      case 'test:diagnostic':
        if (isClosingCount(event)) this.#addCount(event.data.message)
        else this.#addEvidence(event.data.message)
        break
      case 'test:stdout':
        for (const line of event.data.message.split('\n')) this.#addEvidence(line)
        break
      case 'test:pass':
        if (event.data.skip !== undefined) {
          const reason = event.data.skip
          this.#skipped.push({
            name: event.data.name,
            file: shown(event.data.file),
            reason: typeof reason === 'string' ? reason : 'no reason given',
          })
        }
        break
      case 'test:fail':
        this.#failedFiles.add(shown(event.data.file))
        break
      default:
    }
  }

  result(durationMs: number): SuiteResult {
    return {
      counts: this.#counts,
      durationMs,
      skipped: this.#skipped,
      failedFiles: [...this.#failedFiles].toSorted(),
      evidence: this.#evidence,
    }
  }

  #addCount(message: string): void {
    const [name = '', value] = message.split(' ')
    const known = COUNT_NAMES.find((count) => count === name)
    if (known !== undefined) this.#counts[known] += Number(value)
  }

  #addEvidence(line: string): void {
    const match = EVIDENCE.exec(line.trim())
    if (match !== null) this.#evidence.push([match[1] ?? '', match[2] ?? ''])
  }
}

function shown(file: string | undefined): string {
  return file === undefined ? 'unknown file' : relative(ROOT, file)
}

/** Skips with the same reason in one line each, so that many look like few. */
export function describeSkips(skipped: readonly SkippedTest[]): string[] {
  const byReason = Map.groupBy(skipped, ({ reason }) => reason)
  return [...byReason].map(([reason, tests]) => {
    const files = [...new Set(tests.map(({ file }) => file))].toSorted()
    return `﹣ ${tests.length} skipped: ${reason} (${files.join(', ')})`
  })
}

/** Node's own closing lines. */
export function closingLines(result: SuiteResult): string[] {
  return [
    ...COUNT_NAMES.map((name) => `ℹ ${name} ${result.counts[name]}`),
    `ℹ duration_ms ${result.durationMs.toFixed(3)}`,
  ]
}
