/**
 * NBD reads of bytes that are not in memory: ours (empty cache, new process) against nbdkit's file plugin,
 * with the kernel's page cache dropped before each run. 4 KiB at depth 1 tells the latency of a miss,
 * 1 MiB in order the throughput of filling. Needs root.
 */
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { coldContenders, peakBytes } from './contenders.ts'
import { benchImage } from './image.ts'
import type { Measured, NbdLoad } from './load.ts'
import { fio, medians } from './load.ts'
import type { Row } from './report.ts'
import { markdown, writeReport } from './report.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)

await using image = await benchImage(files)
const folder = await mkdtemp(join(tmpdir(), 'commonpage-bench-'))
try {
  const onDisk = join(folder, 'image.erofs')
  await copyFile(image.path, onDisk)
  const data = join(folder, 'data')
  const scenarios: Readonly<Record<string, NbdLoad>> = {
    'cold 4 KiB, depth 1, 4 MiB in all': {
      blockBytes: 4096,
      depth: 1,
      connections: 1,
      seconds: 0,
      onceBytes: 4 << 20,
    },
    'cold 1 MiB in order, depth 1': {
      blockBytes: 1 << 20,
      depth: 1,
      connections: 1,
      seconds: 0,
      pattern: 'read',
      onceBytes: 64 << 20,
    },
  }
  const rows: Row[] = []
  for (const [scenario, load] of Object.entries(scenarios)) {
    const runs = new Map<string, Measured[]>()
    const peaks = new Map<string, number>()
    for await (const contender of coldContenders(onDisk, data, rounds)) {
      const { name } = contender
      runs.set(name, [...(runs.get(name) ?? []), await fio(contender, load)])
      peaks.set(name, Math.max(peaks.get(name) ?? 0, peakBytes(contender)))
    }
    for (const [name, measured] of runs) {
      rows.push({
        scenario,
        contender: name,
        figures: medians(measured),
        peakBytes: peaks.get(name) ?? 0,
      })
    }
  }
  const report = writeReport('nbd-cold', { rounds, imageBytes: image.sizeBytes }, rows)
  process.stdout.write(`## NBD, cold\n\n${markdown(report)}\n`)
} finally {
  await rm(folder, { recursive: true, force: true })
}
