/**
 * Which frame size: 16, 32 or 64 KiB, on one trace of reads, cold and then warm, at depth 1 over real threads and
 * a real file read with O_DIRECT. Small frames bring in fewer bytes nobody asked for; large ones ask the store
 * and the keeper less often.
 *
 *   node bench/micro/cache-frame-size.ts [--tree DIR] [--trace FILE] [--temp DIR]
 *
 * The blob is the tree's files in path order, each at the next 4 KiB block, as import lays them out. A trace has a
 * line `OFFSET LENGTH` per read of that blob. Without one, a program start is imitated: 15 % of the directories;
 * of each of their files the first 128 KiB, and of larger ones 30 % of the other 128 KiB windows; all in requests
 * of a Linux client with its default readahead (128 KiB at most).
 */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'

import {
  cacheStats,
  FRAME_SIZES,
  type FrameSize,
  RunList,
  SequentialState,
  sumCacheCounters,
} from '../../src/cache/index.ts'
import { formatSize, KIB, MIB, rawDigestOf } from '../../src/core/index.ts'
import { startCache } from './cache-rig.ts'

const BLOCK = 4 * KIB
const WINDOW = 128 * KIB
/** Larger trees are cut here: packing must not take longer than measuring. */
const MAX_BLOB = 512 * MIB
const ROUNDS = 3

type Read = readonly [offset: number, length: number]

/** The same for a path on every run: 0 to 1. */
function chance(...of: (string | number)[]): number {
  return createHash('sha256').update(of.join('\0')).digest().readUInt32LE() / 2 ** 32
}

/** Packs the tree into `blob` and imitates a start. */
function pack(tree: string, blob: string): Read[] {
  const out = fs.openSync(blob, 'w')
  const reads: Read[] = []
  const paths = fs.readdirSync(tree, { recursive: true, withFileTypes: true })
  const files = paths
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
  let at = 0
  for (const path of files.toSorted((a, b) => (a < b ? -1 : 1))) {
    const { size } = fs.statSync(path)
    if (size === 0 || at + size > MAX_BLOB) continue
    const bytes = fs.readFileSync(path)
    fs.writeSync(out, bytes, 0, bytes.length, at)
    if (chance(dirname(path)) < 0.15) {
      for (let from = 0; from < bytes.length; from += WINDOW) {
        const length = Math.ceil(Math.min(WINDOW, bytes.length - from) / BLOCK) * BLOCK
        if (from === 0 || chance(path, from) < 0.3) reads.push([at + from, length])
      }
    }
    at += Math.ceil(bytes.length / BLOCK) * BLOCK
  }
  // Whole frames of every size, so that O_DIRECT can read the last one.
  fs.ftruncateSync(out, Math.ceil(at / (64 * KIB)) * 64 * KIB)
  fs.fsyncSync(out)
  fs.closeSync(out)
  return reads
}

/** Digests of all 16 KiB pages, beside the blob. */
function digest(blob: string): void {
  const fd = fs.openSync(blob, 'r')
  const piece = Buffer.alloc(MIB)
  const digests: Buffer[] = []
  for (let read = 0; (read = fs.readSync(fd, piece, 0, MIB, null)) > 0;) {
    for (let at = 0; at < read; at += 16 * KIB) {
      digests.push(rawDigestOf(piece.subarray(at, Math.min(at + 16 * KIB, read))))
    }
  }
  fs.closeSync(fd)
  fs.writeFileSync(`${blob}.digests`, Buffer.concat(digests))
}

interface Result {
  readonly coldMs: number
  readonly warmMicros: number
  readonly pages: number
  readonly bytes: number
  readonly cpuMs: number
}

async function measure(
  blob: string,
  frameSize: FrameSize,
  reads: readonly Read[],
): Promise<Result> {
  const blobBytes = fs.statSync(blob).size
  const rig = await startCache({
    cacheBytes: 2 * MAX_BLOB,
    frameSize,
    readers: 1,
    blobBytes,
    file: blob,
  })
  const context = { imageId: 0, domainNo: 1, stream: new SequentialState() }
  const runs = new RunList()
  const pass = async () => {
    const start = performance.now()
    for (const [offset, length] of reads) {
      runs.clear()
      runs.push(rig.blobNo, offset, length, 0)
      const lease = rig.reader.tryRead(runs, context) ?? (await rig.reader.read(runs, context))
      lease.release()
    }
    return performance.now() - start
  }
  const cpu = process.cpuUsage()
  const coldMs = await pass()
  const { user, system } = process.cpuUsage(cpu)
  await pass()
  const warmMs = await pass()
  const { fills, fillBytes } = cacheStats(sumCacheCounters(rig.memory))
  await rig.stop()
  const cpuMs = (user + system) / 1000
  const warmMicros = (warmMs * 1000) / reads.length
  return { coldMs, warmMicros, pages: fills.demand, bytes: fillBytes, cpuMs }
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN
}

const { values } = parseArgs({
  options: {
    tree: { type: 'string', default: 'node_modules' },
    trace: { type: 'string' },
    temp: { type: 'string', default: tmpdir() },
  },
})
const folder = fs.mkdtempSync(join(values.temp, 'cache-frame-size-'))
try {
  const blob = join(folder, 'blob')
  const imitated = pack(values.tree, blob)
  digest(blob)
  const reads =
    values.trace === undefined
      ? imitated
      : fs
          .readFileSync(values.trace, 'utf8')
          .trim()
          .split('\n')
          .map((line): Read => {
            const [offset = 0, length = 0] = line.split(' ').map(Number)
            return [offset, length]
          })
  const blocks = new Set<number>()
  for (const [offset, length] of reads) {
    for (let at = offset; at < offset + length; at += BLOCK) blocks.add(Math.floor(at / BLOCK))
  }
  const asked = blocks.size * BLOCK
  console.log(
    `${reads.length} reads, ${formatSize(asked)} of ${formatSize(fs.statSync(blob).size)} asked for`,
  )
  const results = new Map<FrameSize, Result[]>(FRAME_SIZES.map((size) => [size, []]))
  for (let round = 0; round < ROUNDS; round++) {
    for (const [frameSize, list] of results) list.push(await measure(blob, frameSize, reads))
  }
  console.log('frame     brought in          pages   cold        CPU cold    warm a read')
  for (const [frameSize, list] of results) {
    const [first] = list
    if (first === undefined) continue
    console.log(
      [
        `${frameSize / KIB} KiB`.padEnd(9),
        `${formatSize(first.bytes)} (${(first.bytes / asked).toFixed(2)} x)`.padEnd(19),
        String(first.pages).padStart(5),
        `  ${median(list.map(({ coldMs }) => coldMs)).toFixed(0)} ms`.padEnd(13),
        `${median(list.map(({ cpuMs }) => cpuMs)).toFixed(0)} ms`.padEnd(11),
        `${median(list.map(({ warmMicros }) => warmMicros)).toFixed(2)} µs`,
      ].join(' '),
    )
  }
} finally {
  fs.rmSync(folder, { recursive: true })
}
