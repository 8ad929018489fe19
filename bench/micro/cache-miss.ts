/**
 * What a miss costs over the bare read: one page at a time, cold, at depth 1. The source is memory, so all that
 * is left is threads, decisions and the digest; a bare round trip between two threads and the digest are measured
 * beside it.
 *
 *   node bench/micro/cache-miss.ts
 */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'

import { FRAME_SIZES, RunList, SequentialState } from '../../src/cache/index.ts'
import { rawDigestOf } from '../../src/core/index.ts'
import { startCache } from './cache-rig.ts'

const READS = 4000
const WARM_UP = 1000

function percentiles(micros: number[]): string {
  const sorted = micros.slice(WARM_UP).toSorted((a, b) => a - b)
  const at = (part: number) => (sorted[Math.floor(sorted.length * part)] ?? NaN).toFixed(0)
  return `p50 ${at(0.5).padStart(4)} µs   p90 ${at(0.9).padStart(4)} µs   p99 ${at(0.99).padStart(4)} µs`
}

async function timed(measured: (i: number) => Promise<unknown>): Promise<string> {
  const micros: number[] = []
  for (let i = 0; i < READS; i++) {
    const start = performance.now()
    await measured(i)
    micros.push((performance.now() - start) * 1000)
  }
  return percentiles(micros)
}

const echo = new Worker(
  `const { parentPort } = require('node:worker_threads'); parentPort.on('message', (m) => parentPort.postMessage(m))`,
  { eval: true },
)
const roundTrip = await timed(async () => {
  echo.postMessage([1])
  await once(echo, 'message')
})
console.log(`one round trip between two threads   ${roundTrip}`)
await echo.terminate()

for (const frameSize of FRAME_SIZES) {
  const bytes = Buffer.alloc(frameSize)
  const digests = await timed(async () => {
    for (let at = 0; at < frameSize; at += 16_384) rawDigestOf(bytes.subarray(at, at + 16_384))
  })
  const rig = await startCache({ cacheBytes: 1024 * frameSize * 8, frameSize, readers: 1 })
  const context = { imageId: 0, domainNo: 1, stream: new SequentialState() }
  const before = process.cpuUsage()
  const miss = await timed(async (i) => {
    const runs = new RunList()
    runs.push(rig.blobNo, i * frameSize, 4096, 0)
    ;(await rig.reader.read(runs, context)).release()
  })
  const kib = `${frameSize / 1024} KiB`
  console.log(`digests of ${kib}                    ${digests}`)
  const { user, system } = process.cpuUsage(before)
  const cpu = `${((user + system) / READS).toFixed(0)} µs of processor time`
  console.log(`miss, frames of ${kib}               ${miss}   ${cpu}`)
  await rig.stop()
}
