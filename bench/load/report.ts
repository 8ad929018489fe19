/** One JSON file a run in bench/results, and Markdown rows with ratios for people. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'

import type { Measured } from './load.ts'

export interface Row {
  readonly scenario: string
  readonly contender: string
  readonly figures: Measured
  readonly peakBytes: number
}

export interface Report<R = Row> {
  readonly schema: 1
  readonly name: string
  readonly date: string
  readonly git: string
  readonly node: string
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly params: Readonly<Record<string, unknown>>
  readonly rows: readonly R[]
}

const RESULTS = new URL('../results/', import.meta.url)

export function writeReport<R>(
  name: string,
  params: Readonly<Record<string, unknown>>,
  rows: readonly R[],
): Report<R> {
  const report: Report<R> = {
    schema: 1,
    name,
    date: new Date().toISOString(),
    git: execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      cwd: import.meta.dirname,
    }).trim(),
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    params,
    rows,
  }
  mkdirSync(RESULTS, { recursive: true })
  writeFileSync(new URL(`${name}.json`, RESULTS), `${JSON.stringify(report, undefined, 2)}\n`)
  return report
}

/** What ours ÷ the rival's has to be. */
export interface Target {
  readonly rival: string
  /** Requests a second, at least. */
  readonly rate?: number
  /** CPU seconds for a byte, at most. */
  readonly cpu?: number
}

/** Exit code of a benchmark that ran and missed a target. */
export const EXIT_TARGET_MISSED = 3

/** The cell of a table that says whether a target is met; the process ends with EXIT_TARGET_MISSED if one is not. */
export function verdict(isMet: boolean): 'yes' | 'no' {
  if (!isMet) process.exitCode = EXIT_TARGET_MISSED
  return isMet ? 'yes' : 'no'
}

/** A table with one line a scenario: our figures, ours ÷ each rival's, and whether that is what it has to be. */
export function markdown(
  report: Report,
  targets: Readonly<Record<string, Target | undefined>> = {},
): string {
  const rivals = [...new Set(report.rows.map((row) => row.contender))].filter(
    (name) => name !== 'commonpage',
  )
  const head = [
    'scenario',
    'req/s',
    'MB/s',
    'p50 µs',
    'p99 µs',
    'CPU s/GB',
    ...rivals.flatMap((name) => [`÷ ${name}`, `CPU ÷ ${name}`]),
    ...(Object.keys(targets).length > 0 ? ['target', 'met'] : []),
  ]
  const lines = [`| ${head.join(' | ')} |`, `| --- |${' ---: |'.repeat(head.length - 1)}`]
  for (const row of report.rows) {
    if (row.contender !== 'commonpage') continue
    const { figures } = row
    const cells = [
      row.scenario,
      figures.rate.toFixed(0),
      (figures.bytesPerSecond / 1e6).toFixed(0),
      figures.p50.toFixed(0),
      figures.p99.toFixed(0),
      figures.cpuSecondsPerGB.toFixed(2),
      ...rivals.flatMap((name) => {
        const other = figuresOf(report, row.scenario, name)
        if (!other) return ['–', '–']
        return [
          (figures.rate / other.rate).toFixed(2),
          (figures.cpuSecondsPerGB / other.cpuSecondsPerGB).toFixed(2),
        ]
      }),
      ...(Object.keys(targets).length > 0 ? judged(report, row, targets[row.scenario]) : []),
    ]
    lines.push(`| ${cells.join(' | ')} |`)
  }
  const peaks = new Map<string, number>()
  for (const row of report.rows)
    peaks.set(row.contender, Math.max(peaks.get(row.contender) ?? 0, row.peakBytes))
  const peakText = [...peaks]
    .map(([name, bytes]) => `${name} ${(bytes / 2 ** 20).toFixed(0)} MiB`)
    .join(', ')
  return `${lines.join('\n')}\n\nPeak memory: ${peakText}.\n`
}

function figuresOf(report: Report, scenario: string, contender: string): Measured | undefined {
  return report.rows.find((row) => row.scenario === scenario && row.contender === contender)
    ?.figures
}

/** Cells for the target and for whether it is met. */
function judged(report: Report, { scenario, figures }: Row, target: Target | undefined): string[] {
  if (target === undefined) return ['–', '–']
  const { rival, rate, cpu } = target
  const other = figuresOf(report, scenario, rival)
  if (other === undefined) throw new Error(`${scenario}: ${rival} was not measured`)
  const told: string[] = []
  let isMet = true
  if (rate !== undefined) {
    told.push(`≥ ${rate.toFixed(1)} × ${rival}`)
    isMet &&= figures.rate >= rate * other.rate
  }
  if (cpu !== undefined) {
    told.push(`CPU ≤ ${cpu.toFixed(1)} ×`)
    isMet &&= figures.cpuSecondsPerGB <= cpu * other.cpuSecondsPerGB
  }
  return [told.join(', '), verdict(isMet)]
}
