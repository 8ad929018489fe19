/**
 * `npm run bench`: runs the load benchmarks one after the other (bench/load/nbd-*.ts, http-*.ts and find-*.ts; their JSON
 * goes to bench/results) and writes their tables to docs/evidence/bench.md. With names, only those:
 * `npm run bench -- nbd-hits`, and the page stays as it is. Exit code 1: one failed, or missed a target.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { basename, join, relative } from 'node:path'

import { EXIT_TARGET_MISSED } from '../bench/load/report.ts'
import { writeEvidence } from './evidence.ts'
import { provision } from './provision.ts'
import { ROOT } from './steps.ts'

interface Outcome {
  /** The tables that it printed. */
  readonly tables: string
  readonly missed: boolean
}

/** Streams the benchmark's own talk to stderr. @returns undefined if it failed */
async function runScenario(file: string): Promise<Outcome | undefined> {
  const child = spawn(process.execPath, [file], { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] })
  let tables = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    tables += text
    process.stdout.write(text)
  })
  await once(child, 'close')
  const missed = child.exitCode === EXIT_TARGET_MISSED
  return missed || child.exitCode === 0 ? { tables, missed } : undefined
}

const scenarios = globSync('bench/load/{find,http,nbd}-*.ts', { cwd: ROOT }).toSorted()
const names = process.argv.slice(2)
const chosen =
  names.length === 0 ? scenarios : scenarios.filter((file) => names.includes(basename(file, '.ts')))
if (chosen.length === 0) {
  console.error(
    `no such benchmark; there are: ${scenarios.map((file) => basename(file, '.ts')).join(', ')}`,
  )
  process.exitCode = 2
}

const advice = chosen.length === 0 ? [] : provision()
const sections: string[] = []
const failed: string[] = []
const missed: string[] = []
for (const file of chosen) {
  const name = basename(file, '.ts')
  const outcome = await runScenario(join(ROOT, file))
  if (outcome === undefined) failed.push(name)
  else sections.push(outcome.tables.trim(), '')
  if (outcome?.missed === true) missed.push(name)
}
if (names.length === 0 && failed.length === 0) {
  const file = writeEvidence('bench', 'The last benchmark run', [
    'Written by `npm run bench`. Ratios compare servers that were measured in turn on the same machine; absolute',
    'figures do not carry over to another one.',
    '',
    ...sections,
  ])
  console.log(`written: ${relative(ROOT, file)}`)
}
for (const name of failed) console.log(`✖ ${name} failed; to repeat it: npm run bench -- ${name}`)
for (const name of missed)
  console.log(`✖ ${name} missed a target; to repeat it: npm run bench -- ${name}`)
for (const line of advice) console.log(line)
if (failed.length + missed.length > 0) process.exitCode = 1
