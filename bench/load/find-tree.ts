/**
 * Walks a mounted tree: `find -ls` of 40,000 entries through nbdfuse and the kernel's EROFS, ours against nbdkit's
 * file plugin. Metadata only, so it is one dependent read after another: latency decides. Warm: the server has the
 * bytes in memory, and has been serving for a while. Cold: a new server, and nothing of its files in the kernel's page cache. Needs root.
 *
 * The kernel is cold in every run: its pages of the export belong to nbdfuse's file system and to the loop device's
 * binding, its inodes and entries to the mount, and all three are new.
 */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { copyFile, mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { mountExport } from '../../test/e2e/kernel-mount.ts'
import { runOk } from '../../test/e2e/server-process.ts'
import { Random } from '../../test/random.ts'
import type { Contender } from './contenders.ts'
import { coldContenders, commonpage, cpuSeconds, nbdkitFile, peakBytes } from './contenders.ts'
import type { NbdLoad } from './load.ts'
import { fio, median } from './load.ts'
import { verdict, writeReport } from './report.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 7)
const entries = Number(process.env['BENCH_ENTRIES'] ?? 40_000)
const TARGET_RATIO = 1.0
/** As nbdfuse reads: for a server that has been serving for a while. A walk alone is 190 reads. */
const WARM_UP: NbdLoad = { blockBytes: 131_072, depth: 1, connections: 1, seconds: 5 }

const ENTRIES_PER_FOLDER = 40
const FOLDERS_PER_FOLDER = 20
/** Most files of real trees are small; as inline tails they lie between the inodes. */
const LARGEST_FILE = 1200

interface Run {
  readonly seconds: number
  readonly cpuSeconds: number
}

interface Row extends Run {
  readonly scenario: string
  readonly contender: string
  readonly runs: readonly Run[]
  readonly peakBytes: number
}

/** Exactly `count` entries below `root`, the same every time: one folder, link or file after the other. */
function makeSmallTree(root: string, count: number): void {
  const random = new Random(20_261_123)
  const folders = [root]
  mkdirSync(root)
  let folder = root
  for (let made = 0; made < count; made++) {
    if (made % ENTRIES_PER_FOLDER === 0) {
      const above = folders[Math.floor((folders.length - 1) / FOLDERS_PER_FOLDER)] ?? root
      folder = join(above, `folder-${made}`)
      mkdirSync(folder)
      folders.push(folder)
    } else if (random.once(12)) {
      symlinkSync(`../target-${random.next(1000)}`, join(folder, `link-${made}`))
    } else {
      writeFileSync(join(folder, `file-${made}.txt`), random.bytes(random.next(LARGEST_FILE)))
    }
  }
}

/** A new mount of what the contender serves, and the time of `find` in it. */
async function findOnce(contender: Contender): Promise<Run> {
  await using mounted = await mountExport(contender.url)
  const cpuBefore = cpuSeconds(contender)
  const started = performance.now()
  await runOk('sh', ['-c', 'find "$1" -ls > /dev/null', '-', mounted.path])
  const seconds = (performance.now() - started) / 1000
  return { seconds, cpuSeconds: cpuSeconds(contender) - cpuBefore }
}

async function countEntries(contender: Contender): Promise<number> {
  await using mounted = await mountExport(contender.url)
  const out = await runOk('sh', ['-c', 'find "$1" -mindepth 1 -ls | wc -l', '-', mounted.path])
  return Number(out)
}

class Measurements {
  readonly #runs = new Map<string, Run[]>()
  readonly #peaks = new Map<string, number>()

  async add(contender: Contender): Promise<void> {
    const { name } = contender
    const run = await findOnce(contender)
    this.#runs.set(name, [...(this.#runs.get(name) ?? []), run])
    this.#peaks.set(name, Math.max(this.#peaks.get(name) ?? 0, peakBytes(contender)))
  }

  rows(scenario: string): Row[] {
    return [...this.#runs].map(([contender, runs]) => ({
      scenario,
      contender,
      seconds: median(runs.map((run) => run.seconds)),
      cpuSeconds: median(runs.map((run) => run.cpuSeconds)),
      runs,
      peakBytes: this.#peaks.get(contender) ?? 0,
    }))
  }
}

async function warm(image: string): Promise<Row[]> {
  await using ours = await commonpage({ image, front: 'nbd' })
  await using rival = await nbdkitFile(image)
  for (const contender of [ours, rival]) {
    const found = await countEntries(contender)
    if (found !== entries) throw new Error(`${contender.name}: ${found} entries, not ${entries}`)
    await fio(contender, WARM_UP)
  }
  const measurements = new Measurements()
  for (let round = 0; round < rounds; round++) {
    for (const contender of [ours, rival]) await measurements.add(contender)
  }
  return measurements.rows('warm')
}

async function cold(image: string, folder: string): Promise<Row[]> {
  const onDisk = join(folder, 'image.erofs')
  await copyFile(image, onDisk)
  const data = join(folder, 'data')
  const measurements = new Measurements()
  for await (const contender of coldContenders(onDisk, data, rounds)) {
    await measurements.add(contender)
  }
  return measurements.rows('cold')
}

function table(rows: readonly Row[]): string {
  const lines = [
    `| find -ls | ours s | nbdkit s | nbdkit ÷ ours | ≥ ${TARGET_RATIO.toFixed(1)} | our CPU s | nbdkit CPU s |`,
    '| --- | ---: | ---: | ---: | --- | ---: | ---: |',
  ]
  for (const [scenario, both] of Map.groupBy(rows, (row) => row.scenario)) {
    const ours = both.find((row) => row.contender === 'commonpage')
    const rival = both.find((row) => row.contender === 'nbdkit')
    if (ours === undefined || rival === undefined) continue
    const ratio = rival.seconds / ours.seconds
    const cells = [
      scenario,
      ours.seconds.toFixed(3),
      rival.seconds.toFixed(3),
      ratio.toFixed(2),
      verdict(ratio >= TARGET_RATIO),
      ours.cpuSeconds.toFixed(2),
      rival.cpuSeconds.toFixed(2),
    ]
    lines.push(`| ${cells.join(' | ')} |`)
  }
  return lines.join('\n')
}

const inMemory = await mkdtemp('/dev/shm/commonpage-find-')
const onDisk = await mkdtemp(join(tmpdir(), 'commonpage-find-'))
try {
  const tree = join(inMemory, 'tree')
  const image = join(inMemory, 'image.erofs')
  makeSmallTree(tree, entries)
  await runOk('mkfs.erofs', ['-T', '1700000000', image, tree])
  await rm(tree, { recursive: true })
  const rows = [...(await warm(image)), ...(await cold(image, onDisk))]
  const imageBytes = (await stat(image)).size
  writeReport('find-tree', { rounds, entries, imageBytes }, rows)
  process.stdout.write(`## A tree of ${entries} entries on a new mount\n\n${table(rows)}\n\n`)
} finally {
  await rm(inMemory, { recursive: true, force: true })
  await rm(onDisk, { recursive: true, force: true })
}
