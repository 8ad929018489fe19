/**
 * Where the server's time goes while it serves: samples its threads with `perf` and sorts the samples into a
 * few kinds of work. It starts nothing but perf, and says undefined where perf is missing or not permitted.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Samples a second; odd, so that it does not beat with timers. */
const FREQUENCY = 1999
const MAX_REPORT_BYTES = 32 * 1024 * 1024

/** For Node of the server that is profiled: names JavaScript functions to perf through /tmp/perf-PID.map. */
export const PROFILED_NODE_ARGS = [
  '--perf-basic-prof',
  '--no-logfile-per-isolate',
  '--logfile=/dev/null',
]

/** Kinds of work in the order of tables; the first whose pattern matches `DSO SYMBOL` takes the sample. */
const KINDS: readonly (readonly [string, RegExp])[] = [
  [
    'kernel: copying payload',
    /kernel\S* (_copy_(from|to)_iter|copy_user|rep_movs|copyin|__memcpy)/,
  ],
  [
    'kernel: wake-ups, switches',
    /kernel\S* (finish_task_switch|_raw_spin_unlock_irq|try_to_wake|__schedule|schedule|pick_next|enqueue_|dequeue_|ep_|do_epoll|futex|native_write_msr|pv_native)/,
  ],
  ['kernel: TCP and the rest', /kernel/],
  ['ours: page cache', /src\/cache\//],
  ['ours: NBD', /src\/nbd\//],
  ['ours: the rest', /src\/|nbd-server-ts/],
  ['libc: copying', /libc\S* \S*mem(move|cpy|set)/],
  ['libc: the rest', /libc\S* |vdso/],
  ['Node: garbage collection', /(Scaveng|MarkCompact|Marking|Sweep|GarbageCollect|Heap::|Evacuat)/],
  ['Node: streams, timers, C++', /./],
]

export interface Profile {
  /** Kind of work → share of the samples, 0 to 1. */
  readonly kinds: ReadonlyMap<string, number>
  /** Share of the samples in the busiest thread: the data worker that serves the connections. */
  readonly busiestThread: number
}

/** Deletes what the profiled Node has left behind. */
export async function forgetNames(pid: number): Promise<void> {
  await rm(`/tmp/perf-${pid}.map`, { force: true })
}

/** Samples `pid` for `seconds`. */
export async function profile(pid: number, seconds: number): Promise<Profile | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-profile-'))
  try {
    const data = join(folder, 'perf.data')
    const args = ['record', '-q', '-e', 'cpu-clock', '-F', String(FREQUENCY), '-o', data]
    const perf = spawn('perf', [...args, '-p', String(pid), '--', 'sleep', String(seconds)], {
      stdio: 'ignore',
    })
    const failed = once(perf, 'error').then(() => true)
    if ((await Promise.race([failed, once(perf, 'close')])) === true) return undefined
    if (perf.exitCode !== 0) return undefined
    return {
      kinds: sortSamples(report(data, 'dso,symbol')),
      busiestThread: Math.max(0, ...sharesByThread(report(data, 'comm'))),
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function report(data: string, sort: string): string {
  return execFileSync('perf', ['report', '-i', data, '--stdio', '-q', '--sort', sort], {
    encoding: 'utf8',
    maxBuffer: MAX_REPORT_BYTES,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
}

/** `  97.58%  worker-0` and the like: the percentages, as parts of 1. */
function sharesByThread(text: string): number[] {
  return [...text.matchAll(/^\s*([\d.]+)%/gm)].map(([, percent]) => Number(percent) / 100)
}

/** Adds up the lines of a report: `  1.31%  [JIT] tid 7  [.] JS:*'find file:///…`. */
function sortSamples(text: string): ReadonlyMap<string, number> {
  const sums = new Map<string, number>(KINDS.map(([kind]) => [kind, 0]))
  for (const line of text.split('\n')) {
    const match = /^\s*([\d.]+)%\s+(.*?)\s+\[[.k]\]\s+(.*?)\s*$/.exec(line)
    if (match === null) continue
    const [, percent = '', object = '', symbol = ''] = match
    const where = `${object.replaceAll(' ', '-')} ${symbol}`
    const kind = KINDS.find(([, pattern]) => pattern.test(where))?.[0]
    if (kind !== undefined) sums.set(kind, (sums.get(kind) ?? 0) + Number(percent) / 100)
  }
  return sums
}

/** A column for each profile, a line for each kind of work. */
export function profileTable(profiles: ReadonlyMap<string, Profile>): string {
  const names = [...profiles.keys()]
  const lines = [
    `| % of samples | ${names.join(' | ')} |`,
    `| --- |${' ---: |'.repeat(names.length)}`,
  ]
  for (const [kind] of KINDS) {
    const cells = names.map((name) => ((profiles.get(name)?.kinds.get(kind) ?? 0) * 100).toFixed(1))
    lines.push(`| ${kind} | ${cells.join(' | ')} |`)
  }
  const threads = names.map((name) => ((profiles.get(name)?.busiestThread ?? 0) * 100).toFixed(1))
  lines.push(`| _of all this in one thread_ | ${threads.join(' | ')} |`)
  return lines.join('\n')
}
