/**
 * What an import costs those who read: p99 of NBD hits and of cold reads, idle and while a large image is being
 * imported by the same server, in turn. The rule is at most twice as long. Needs root, to drop the kernel's cache.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { openAsBlob } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import type { ServerProcess } from '../../test/e2e/server-process.ts'
import { runOk, startServerProcess } from '../../test/e2e/server-process.ts'
import { seededBytes } from '../../test/random.ts'
import type { Contender } from './contenders.ts'
import { cpuSeconds } from './contenders.ts'
import { benchImage } from './image.ts'
import type { Measured, NbdLoad } from './load.ts'
import { fio, medians } from './load.ts'
import type { Row } from './report.ts'
import { verdict, writeReport } from './report.ts'

const MIB = 1024 * 1024
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 5)
const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)
/** Large enough that its import outlasts a measured run; new bytes in each round, so that all of it is written. */
const IMPORT_BYTES = 1024 * MIB
const COLD_BYTES = 256 * MIB
const TARGET = 2

const LOADS: Readonly<Record<string, { readonly image: string; readonly load: NbdLoad }>> = {
  'hits, 4 KiB, depth 1': {
    image: 'bench/hot:1',
    load: { blockBytes: 4096, depth: 1, connections: 1, seconds },
  },
  'hits, 4 KiB, depth 32': {
    image: 'bench/hot:1',
    load: { blockBytes: 4096, depth: 32, connections: 1, seconds },
  },
  // Four times what the cache holds beside the hot image, so that most reads go to the disk.
  'cold, 4 KiB, depth 1': {
    image: 'bench/cold:1',
    load: { blockBytes: 4096, depth: 1, connections: 1, seconds },
  },
}

const folder = await mkdtemp(join(tmpdir(), 'commonpage-isolation-'))
try {
  await using image = await benchImage(files)
  await using server = await startServerProcess({
    data: join(folder, 'data'),
    args: ['--cache-size', '256MiB', '--no-readahead'],
  })
  await imported(server, image.path, 'bench/hot:1')
  const cold = join(folder, 'cold')
  await writeFile(cold, seededBytes(1, 4 * COLD_BYTES))
  await imported(server, cold, 'bench/cold:1')
  await rm(cold)
  const rows: Row[] = []
  const lines: string[] = []
  for (const [name, { image: ref, load }] of Object.entries(LOADS)) {
    const contender = asContender(server, ref)
    const runs = { idle: [] as Measured[], importing: [] as Measured[] }
    for (let round = 0; round < rounds; round++) {
      if (ref === 'bench/hot:1') await warm(contender)
      runs.idle.push(await coldFio(contender, { ...load, seed: 2 * round + 1 }))
      await using running = await startImport(server, round)
      if (ref === 'bench/hot:1') await warm(contender)
      runs.importing.push(await coldFio(contender, { ...load, seed: 2 * round + 2 }))
      if (running.ended()) throw new Error('the import ended before the load: nothing was measured')
    }
    const [idle, importing] = [medians(runs.idle), medians(runs.importing)]
    for (const [contenderName, figures] of [
      ['idle', idle],
      ['importing', importing],
    ] as const) {
      rows.push({ scenario: name, contender: contenderName, figures, peakBytes: 0 })
    }
    const ratio = importing.p99 / idle.p99
    const cells = [name, idle.p50, importing.p50, idle.p99, importing.p99].map((cell) =>
      typeof cell === 'number' ? cell.toFixed(0) : cell,
    )
    const rate = importing.rate / idle.rate
    const isMet = verdict(ratio <= TARGET)
    lines.push(`| ${[...cells, ratio.toFixed(2), isMet, rate.toFixed(2)].join(' | ')} |`)
  }
  writeReport('nbd-isolation', { rounds, seconds, importBytes: IMPORT_BYTES }, rows)
  process.stdout.write(
    [
      '## NBD during an import',
      '',
      `| reads | p50 idle µs | p50 importing | p99 idle | p99 importing | p99 ratio | ≤ ${TARGET} | rate ratio |`,
      '| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |',
      ...lines,
      '',
      `Load average of the machine at the end: ${loadavg()[0]?.toFixed(1)}.`,
      '',
    ].join('\n'),
  )
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function imported(server: ServerProcess, file: string, ref: string): Promise<void> {
  const result = await server.run('import', 'erofs', file, ref, '--quiet')
  if (result.code !== 0) throw new Error(`import failed: ${result.stderr}`)
}

function asContender(server: ServerProcess, ref: string): Contender {
  return {
    name: 'commonpage',
    url: server.nbdUri(ref),
    pids: () => [server.pid],
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

/** Every page of the hot image into memory. */
async function warm(contender: Contender): Promise<void> {
  const whole = { blockBytes: MIB, depth: 4, connections: 1, seconds: 1, pattern: 'read' } as const
  await fio(contender, whole)
}

/** The kernel keeps nothing of the store, and each run reads elsewhere: a cold read is one of the disk. */
async function coldFio(contender: Contender, load: NbdLoad): Promise<Measured> {
  await writeFile('/proc/sys/vm/drop_caches', '1\n')
  const before = cpuSeconds(contender)
  const measured = await fio(contender, load)
  if (cpuSeconds(contender) < before) throw new Error('the server was restarted')
  return measured
}

/** An upload first, whose bytes cost the server itself; resolves when the import process works on them. */
async function startImport(server: ServerProcess, round: number) {
  const file = join(folder, 'import')
  await writeFile(file, seededBytes(100 + round, IMPORT_BYTES))
  await runOk('sync', [])
  const response = await fetch(`${server.http}/v1/images/bench/import:${round}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/octet-stream' },
    body: await openAsBlob(file),
  })
  if (response.status !== 202) throw new Error(`import: ${response.status}`)
  const { id } = (await response.json()) as { id: string }
  let ended = false
  const job = async () => server.getJson<{ state: string; error?: unknown }>(`/v1/jobs/${id}`)
  while ((await job()).state === 'queued') await delay(10)
  const watching = (async () => {
    for (;;) {
      const { state, error } = await server.getJson<{ state: string; error?: unknown }>(
        `/v1/jobs/${id}?wait=30s`,
      )
      if (state === 'running') continue
      ended = true
      if (state === 'failed') throw new Error(`the import failed: ${JSON.stringify(error)}`)
      return
    }
  })()
  watching.catch(() => undefined)
  return {
    ended: () => ended,
    async [Symbol.asyncDispose]() {
      await fetch(`${server.http}/v1/jobs/${id}`, { method: 'DELETE' })
      await watching
    },
  }
}
