/** HTTP ranges that are all hits: ours against nginx (two workers, sendfile, file in memory). */
import { basename } from 'node:path'

import type { Contender } from './contenders.ts'
import { commonpage, nginx, peakBytes } from './contenders.ts'
import { benchImage } from './image.ts'
import type { Measured } from './load.ts'
import { medians, wrk } from './load.ts'
import type { Row, Target } from './report.ts'
import { markdown, writeReport } from './report.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 3)
const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)
const connections = 16
const TARGETS: Readonly<Record<string, Target>> = {
  '4 KiB': { rival: 'nginx', rate: 0.4 },
  '64 KiB': { rival: 'nginx', rate: 0.7 },
  '1 MiB': { rival: 'nginx', rate: 1.2 },
}

await using image = await benchImage(files)
await using stack = new AsyncDisposableStack()
const contenders: Contender[] = [
  stack.use(await commonpage({ image: image.path, front: 'http' })),
  stack.use(await nginx(image.folder, basename(image.path))),
]
for (const contender of contenders) {
  const response = await fetch(contender.url)
  if (!response.ok) throw new Error(`${contender.name} answers ${response.status}`)
  await response.body?.pipeTo(new WritableStream())
}
const rows: Row[] = []
for (const [scenario, rangeBytes] of [
  ['4 KiB', 4096],
  ['64 KiB', 65_536],
  ['1 MiB', 1_048_576],
] as const) {
  const runs = new Map<Contender, Measured[]>(contenders.map((contender) => [contender, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [contender, measured] of runs) {
      measured.push(
        await wrk(contender, image.folder, {
          rangeBytes,
          connections,
          seconds,
          sizeBytes: image.sizeBytes,
        }),
      )
    }
  }
  for (const [contender, measured] of runs) {
    rows.push({
      scenario,
      contender: contender.name,
      figures: medians(measured),
      peakBytes: peakBytes(contender),
    })
  }
}
const report = writeReport(
  'http-ranges',
  { rounds, seconds, connections, imageBytes: image.sizeBytes },
  rows,
)
process.stdout.write(`## HTTP ranges, hits\n\n${markdown(report, TARGETS)}\n`)
