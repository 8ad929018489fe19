/** NBD reads that are all hits: ours against nbdkit's file plugin and qemu-nbd, nbdkit's memory plugin as the ceiling. */
import type { Contender } from './contenders.ts'
import { commonpage, nbdkitFile, nbdkitMemory, peakBytes, qemuNbd } from './contenders.ts'
import { benchImage } from './image.ts'
import type { Measured } from './load.ts'
import { fio, medians } from './load.ts'
import { HIT_LOADS, HIT_TARGETS, readAll } from './hit-loads.ts'
import type { Row } from './report.ts'
import { markdown, writeReport } from './report.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 3)
const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)

await using image = await benchImage(files)
const contenders: Contender[] = []
await using stack = new AsyncDisposableStack()
for (const start of [
  () => commonpage({ image: image.path, front: 'nbd' }),
  () => nbdkitFile(image.path),
  () => qemuNbd(image.path),
  () => nbdkitMemory(image.sizeBytes),
]) {
  contenders.push(stack.use(await start()))
}
for (const contender of contenders) await readAll(contender, image.sizeBytes)
const rows: Row[] = []
for (const [scenario, load] of Object.entries(HIT_LOADS)) {
  const runs = new Map<Contender, Measured[]>(contenders.map((contender) => [contender, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [contender, measured] of runs) measured.push(await fio(contender, load))
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
const report = writeReport('nbd-hits', { rounds, seconds, imageBytes: image.sizeBytes }, rows)
process.stdout.write(`## NBD, hits\n\n${markdown(report, HIT_TARGETS)}\n`)
