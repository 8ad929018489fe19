/**
 * What a miss costs over the bare read: 4 KiB at random, depth 1, of an image four times as large as the cache, from
 * a server that has been serving for a while; beside it the same disk read without a server (16 KiB past the
 * kernel's page cache, as a frame is filled), and the same request as a hit.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MIB } from '../../src/core/index.ts'
import { runOk } from '../../test/e2e/server-process.ts'
import type { Contender } from './contenders.ts'
import { commonpage } from './contenders.ts'
import { readAll } from './hit-loads.ts'
import { benchImage } from './image.ts'
import { median, seedArgs } from './load.ts'
import { verdict, writeReport } from './report.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 3)
const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)

/** The smallest that there is. */
const CACHE_BYTES = 64 * MIB
const READ_BYTES = 4096
const FRAME_BYTES = 16_384
/** The code is compiled by then: a fresh server costs half as much again. */
const WARM_UP_SECONDS = 10
const TARGET_OVER_BARE_MICROSECONDS = 150

interface FioLatency {
  readonly jobs: readonly {
    readonly read: { readonly clat_ns: { readonly percentile: Readonly<Record<string, number>> } }
  }[]
}

/** Microseconds within which `percent` of random reads are answered. */
async function latency(
  engine: readonly string[],
  blockBytes: number,
  percent: number,
  runtime: number,
  seed: number,
): Promise<number> {
  const out = await runOk('fio', [
    '--name=miss',
    ...engine,
    '--rw=randread',
    `--bs=${blockBytes}`,
    '--time_based',
    `--runtime=${runtime}`,
    '--norandommap',
    ...seedArgs(seed),
    '--thread',
    `--percentile_list=${percent}`,
    '--output-format=json',
  ])
  const { jobs } = JSON.parse(out.slice(out.indexOf('{'))) as FioLatency
  const [value] = Object.values(jobs[0]?.read.clat_ns.percentile ?? {})
  if (value === undefined) throw new Error('fio reported no percentile')
  return value / 1000
}

const overNbd = ({ url }: Contender) => ['--ioengine=nbd', `--uri=${url}`, '--iodepth=1']

await using image = await benchImage(files)
const folder = await mkdtemp(join(tmpdir(), 'commonpage-bench-'))
try {
  const onDisk = join(folder, 'image.erofs')
  await runOk('cp', [image.path, onDisk])
  const cacheArgs = ['--cache-size', `${CACHE_BYTES}`]
  await using cold = await commonpage({ image: onDisk, front: 'nbd', args: cacheArgs })
  await using warm = await commonpage({ image: image.path, front: 'nbd' })
  await readAll(warm, image.sizeBytes)
  const bareFile = ['--ioengine=psync', '--direct=1', `--filename=${onDisk}`]
  // The fastest reads are those that hit: the median of the others lies as much higher.
  const hits = CACHE_BYTES / image.sizeBytes
  const medianMiss = 50 * (1 + hits)
  await latency(overNbd(cold), READ_BYTES, 50, WARM_UP_SECONDS, 1)
  const bare: number[] = []
  const miss: number[] = []
  const hit: number[] = []
  for (let round = 0; round < rounds; round++) {
    const seed = round + 2
    bare.push(await latency(bareFile, FRAME_BYTES, 50, seconds, seed))
    miss.push(await latency(overNbd(cold), READ_BYTES, medianMiss, seconds, seed))
    hit.push(await latency(overNbd(warm), READ_BYTES, 50, seconds, seed))
  }
  const row = { bareRead: median(bare), hit: median(hit), miss: median(miss) }
  writeReport('nbd-miss', { rounds, seconds, imageBytes: image.sizeBytes, unit: 'µs' }, [row])
  const over = row.miss - row.bareRead
  process.stdout.write(`## NBD, what a miss costs

| p50 µs, depth 1 | bare read of a frame | hit | miss | miss over the bare read | ≤ ${TARGET_OVER_BARE_MICROSECONDS} |
| --- | ---: | ---: | ---: | ---: | --- |
| 4 KiB | ${row.bareRead.toFixed(0)} | ${row.hit.toFixed(0)} | ${row.miss.toFixed(0)} | ${over.toFixed(0)} | ${verdict(over <= TARGET_OVER_BARE_MICROSECONDS)} |
`)
} finally {
  await rm(folder, { recursive: true, force: true })
}
