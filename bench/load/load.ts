/** The load: fio's NBD engine and wrk, one measured run each, with the server's CPU time beside the rate. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { runOk } from '../../test/e2e/server-process.ts'
import type { Contender } from './contenders.ts'
import { cpuSeconds } from './contenders.ts'

export interface Measured {
  /** Requests a second. */
  readonly rate: number
  readonly bytesPerSecond: number
  /** Microseconds. */
  readonly p50: number
  readonly p99: number
  /** Of the server, for each 10^9 bytes that it served. */
  readonly cpuSecondsPerGB: number
}

export interface NbdLoad {
  readonly blockBytes: number
  readonly depth: number
  readonly connections: number
  readonly seconds: number
  readonly pattern?: 'randread' | 'read'
  /** Read so many bytes of the export and no more; each block once. For cold reads. */
  readonly onceBytes?: number
  /** Of the random offsets; the same unless said, so that contenders read alike. */
  readonly seed?: number
}

interface FioRead {
  readonly iops: number
  readonly bw_bytes: number
  readonly io_bytes: number
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> }
}

export async function fio(contender: Contender, load: NbdLoad): Promise<Measured> {
  const before = cpuSeconds(contender)
  const once =
    load.onceBytes === undefined
      ? ['--time_based', `--runtime=${load.seconds}`, '--norandommap']
      : [`--io_size=${load.onceBytes}`]
  const out = await runOk('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${contender.url}`,
    `--rw=${load.pattern ?? 'randread'}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--numjobs=${load.connections}`,
    '--thread',
    '--group_reporting',
    ...seedArgs(load.seed ?? 42),
    '--output-format=json',
    ...once,
  ])
  const cpu = cpuSeconds(contender) - before
  const parsed = JSON.parse(out.slice(out.indexOf('{'))) as { jobs: { read: FioRead }[] }
  const read = parsed.jobs[0]?.read
  if (!read) throw new Error('fio reported no job')
  const percentiles = read.clat_ns.percentile ?? {}
  return {
    rate: read.iops,
    bytesPerSecond: read.bw_bytes,
    p50: (percentiles['50.000000'] ?? 0) / 1000,
    p99: (percentiles['99.000000'] ?? 0) / 1000,
    cpuSecondsPerGB: cpu / (read.io_bytes / 1e9),
  }
}

/** fio takes a seed only when it is told not to repeat its own. */
export function seedArgs(seed: number): string[] {
  return ['--randrepeat=0', `--randseed=${seed}`]
}

export interface HttpLoad {
  readonly rangeBytes: number
  readonly connections: number
  readonly seconds: number
  readonly sizeBytes: number
}

/** wrk with random ranges, aligned to their length, from a fixed seed. */
export async function wrk(contender: Contender, folder: string, load: HttpLoad): Promise<Measured> {
  const script = join(folder, `range-${load.rangeBytes}.lua`)
  writeFileSync(
    script,
    `math.randomseed(42)
local last = ${Math.floor(load.sizeBytes / load.rangeBytes) - 1}
function request()
  local at = math.random(0, last) * ${load.rangeBytes}
  return wrk.format("GET", nil, { ["Range"] = "bytes=" .. at .. "-" .. (at + ${load.rangeBytes - 1}) })
end
function done(summary, latency)
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.read + summary.errors.connect))
end
`,
  )
  const before = cpuSeconds(contender)
  const out = await runOk('wrk', [
    '-t1',
    `-c${load.connections}`,
    `-d${load.seconds}s`,
    '-s',
    script,
    contender.url,
  ])
  const cpu = cpuSeconds(contender) - before
  const match = /RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)/.exec(out)
  if (!match) throw new Error(`wrk said: ${out}`)
  const [requests = 0, durationUs = 1, bytes = 0, p50 = 0, p99 = 0, errors = 0] = match
    .slice(1)
    .map(Number)
  if (errors > 0) throw new Error(`${contender.name}: ${errors} failed requests`)
  return {
    rate: requests / (durationUs / 1e6),
    bytesPerSecond: bytes / (durationUs / 1e6),
    p50,
    p99,
    cpuSecondsPerGB: cpu / (bytes / 1e9),
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2
}

/** The median of each figure, which need not be of the same run. */
export function medians(runs: readonly Measured[]): Measured {
  const of = (key: keyof Measured): number => median(runs.map((run) => run[key]))
  return {
    rate: of('rate'),
    bytesPerSecond: of('bytesPerSecond'),
    p50: of('p50'),
    p99: of('p99'),
    cpuSecondsPerGB: of('cpuSecondsPerGB'),
  }
}
