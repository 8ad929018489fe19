/**
 * A server under everything at once for a while: hundreds of connections of both protocols, hot and cold, fast
 * and slow, on images several times the cache, while other images are imported, tagged and removed. Every byte
 * is compared with its source; memory stays inside the bound and flat; afterwards nothing is held. The bound is for
 * the server's process: those that import come on top, one at a time for a domain, and what they took is told.
 *
 * SOAK_SEED replays a run. SOAK_SECONDS and SOAK_CONNECTIONS change its size.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import { forgetPeak, peakResidentBytes, residentBytes } from '../resident-memory.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'
import { NbdClient } from './soak/nbd-client.ts'
import type { SoakPlan, Source } from './soak/plan.ts'
import { STOP } from './soak/plan.ts'
import type { TallyReport } from './soak/tally.ts'
import { Random, seededBytes } from '../random.ts'

const MIB = 1024 * 1024
const FULL = process.env['COMMONPAGE_FULL'] === '1'
const SEED = Number(process.env['SOAK_SEED'] ?? 20_260_101)
const SECONDS = Number(process.env['SOAK_SECONDS'] ?? (FULL ? 1800 : 4))
const CONNECTIONS = Number(process.env['SOAK_CONNECTIONS'] ?? (FULL ? 500 : 100))
/** Images that come and go at the same time. */
const CHURNS = 2
const CACHE_MIB = FULL ? 128 : 64
const IMAGE_MIB = FULL ? 256 : 48
/** cache size + 25 % + 250 MiB */
const RSS_LIMIT_MIB = CACHE_MIB * 1.25 + 250
/** Judged where the second half is long enough to say something; what it may gain by where it is as long as it must be. */
const MIN_FLAT_SECONDS = 300
const MAX_DRIFT_MIB = SECONDS >= 1800 ? 8 : 16
/** Images that come and go in a minute: half as many as beside a second load on the same two cores. */
const MIN_IMPORTS_A_MINUTE = 12
/** Requests that are answered while an image is imported, and what is compared in a second, however slow the readers. */
const MIN_BESIDE_IMPORT = 100
const MIN_COMPARED_MIB_A_SECOND = 10
const SAMPLE_MS = FULL ? 1000 : 100
/** Connections are opened and closed so often after the load, to see that each leaves nothing behind. */
const WAVES = 16
/** The heaps of a server that has run for seconds only still grow: so many waves are not judged. */
const FIRST_WAVES = 8
const MAX_WAVES_MIB = 8

test(
  `${CONNECTIONS} connections for ${SECONDS} s: right bytes, bounded and flat memory (SOAK_SEED=${SEED})`,
  { skip: missing('mkfs.erofs') },
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-soak-'))
    try {
      const sources = await makeSources(folder)
      const start = (): Promise<ServerProcess> =>
        startServerProcess({
          data: join(folder, 'data'),
          args: ['--cache-size', `${CACHE_MIB}MiB`, '--workers', '1'],
        })
      {
        // Not the one that is measured: the first start after a change of the sources translates them, once for all
        // that follow (NODE_COMPILE_CACHE), and is 22 MiB larger when it is ready.
        await using first = await start()
        for (const { file, nbdName } of sources.images) {
          const imported = await first.run('import', 'erofs', file, nbdName, '--quiet')
          assert.equal(imported.code, 0, imported.stderr)
        }
        assert.equal(await first.stop(), 0)
      }
      await using server = await start()
      const peakIsOurs = forgetPeak(server.pid)
      const { report, samples, importsMib } = await soak(server, { ...sources, ...PACE })
      const drift = secondHalfDrift(samples)
      const sampled = Math.max(...samples)
      const peak = peakIsOurs ? peakResidentBytes(server.pid) / MIB : sampled
      const turns = report.turnMs.toSorted((a, b) => a - b)
      evidence('soak', {
        seed: SEED,
        seconds: SECONDS,
        connections: CONNECTIONS,
        requests: report.requests,
        compared_mib: Math.round(report.comparedBytes / MIB),
        differences: report.differences,
        errors: report.errors,
        imports: report.imports,
        tag_moves: report.tagMoves,
        removals: report.removals,
        requests_beside_imports: report.besideImports,
        image_median_s: ((turns[turns.length >> 1] ?? NaN) / 1000).toFixed(1),
        image_slowest_s: ((turns.at(-1) ?? NaN) / 1000).toFixed(1),
        compared_after_removal_mib: Math.round(report.comparedAfterRemoval / MIB),
        cache_mib: CACHE_MIB,
        images_mib: IMAGE_MIB * sources.images.length,
        rss_peak_mib: Math.round(peak),
        rss_peak_sampled_mib: Math.round(sampled),
        rss_limit_mib: RSS_LIMIT_MIB,
        rss_drift_second_half_mib: drift.toFixed(1),
        rss_peak_importing_mib: Math.round(importsMib),
      })
      assert.deepEqual(report.told, [])
      assert.equal(report.differences + report.errors, 0)
      assert.ok(report.comparedBytes > CACHE_MIB * MIB, 'less was compared than the cache holds')
      const expected = Math.max(CHURNS, Math.floor((SECONDS / 60) * MIN_IMPORTS_A_MINUTE))
      assert.ok(report.imports >= expected, `${report.imports} images came, not ${expected}`)
      if (FULL) {
        const beside = report.besideImports / report.imports
        assert.ok(beside >= MIN_BESIDE_IMPORT, `${beside} requests were answered beside an import`)
        const compared = report.comparedBytes / MIB / SECONDS
        assert.ok(compared >= MIN_COMPARED_MIB_A_SECOND, `${compared} MiB compared in a second`)
      }
      assert.equal(report.removals, report.imports)
      // Read whole over three connections, at once and again when the next image had come and gone.
      const afterRemoval = report.removals * PACE.churnBytes * 3 * 2
      assert.ok(report.comparedAfterRemoval >= afterRemoval, 'what was removed was not read on')
      assert.ok(peak <= RSS_LIMIT_MIB, `${peak} MiB resident, expected at most ${RSS_LIMIT_MIB}`)
      if (SECONDS >= MIN_FLAT_SECONDS) {
        assert.ok(drift <= MAX_DRIFT_MIB, `memory grew by ${drift} MiB over the second half`)
      }
      await assertNothingHeld(server)
      await assertConnectionsLeaveNothing(server, sources.images)
      assert.equal(await server.stop(), 0)
      assert.deepEqual(
        server.logs.filter((line) => Number(line['level']) >= 50),
        [],
      )
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
)

/** Long runs leave the other core something; short ones press. */
const PACE = {
  seed: SEED,
  connections: CONNECTIONS,
  churns: CHURNS,
  thinkMs: FULL ? 100 : 10,
  churnBytes: 4 * MIB,
}

type Sources = Pick<SoakPlan, 'images' | 'files' | 'sharedFile'>

/** Two EROFS images, the second with all files of the first and more, and one of bytes that are no file system. */
async function makeSources(folder: string): Promise<Sources> {
  const random = new Random(SEED)
  const tree = join(folder, 'tree')
  await mkdir(tree)
  const files: Source[] = []
  const fill = async (prefix: string, tag: string, targetBytes: number): Promise<void> => {
    for (let made = 0, i = 0; made < targetBytes; i++) {
      const size = random.next(8) === 0 ? random.next(4 * MIB) : random.next(40_000)
      const name = `${prefix}-${i}.bin`
      const file = join(tree, name)
      await writeFile(file, seededBytes(SEED + i + prefix.length * 1_000_000, size))
      files.push({
        nbdName: `${tag}/-/files/${name}`,
        httpPath: `/v1/images/${tag}/-/files/${name}`,
        file,
      })
      made += size
    }
  }
  await fill('base', 'soak/base:1', IMAGE_MIB * MIB)
  await runOk('mkfs.erofs', ['-T', '1700000000', join(folder, 'base.erofs'), tree])
  await fill('own', 'soak/derived:1', (IMAGE_MIB * MIB) / 4)
  await runOk('mkfs.erofs', ['-T', '1700000000', join(folder, 'derived.erofs'), tree])
  const sharedFile = join(folder, 'raw')
  await writeFile(sharedFile, seededBytes(SEED, IMAGE_MIB * MIB))
  const image = (ref: string, name: string): Source => ({
    nbdName: ref,
    httpPath: `/v1/images/${ref}/-/raw`,
    file: join(folder, name),
  })
  const images = [
    image('soak/base:1', 'base.erofs'),
    image('soak/derived:1', 'derived.erofs'),
    image('soak/raw:1', 'raw'),
  ]
  return { images, files: files.filter((_, i) => i % 5 === 0), sharedFile }
}

async function soak(
  server: ServerProcess,
  plan: Omit<SoakPlan, 'http' | 'nbd'>,
): Promise<{ report: TallyReport; samples: number[]; importsMib: number }> {
  const driver = fork(new URL('./soak/driver.ts', import.meta.url), {
    serialization: 'advanced',
    execArgv: [],
  })
  const reported = reportOf(driver)
  const nbd = { host: server.nbdHost, port: server.nbdPort }
  driver.send({ ...plan, http: server.http, nbd } satisfies SoakPlan)
  const samples: number[] = []
  let importsMib = 0
  const sampling = setInterval(() => {
    samples.push(residentMiB(server.pid))
    importsMib = Math.max(importsMib, childrenMiB(server.pid))
  }, SAMPLE_MS)
  try {
    await Promise.race([delay(SECONDS * 1000), reported])
    if (driver.connected) driver.send(STOP)
    return { report: await reported, samples, importsMib }
  } finally {
    clearInterval(sampling)
    driver.kill('SIGKILL')
  }
}

async function reportOf(driver: ChildProcess): Promise<TallyReport> {
  const ended = once(driver, 'exit').then(([code, signal]) => {
    throw new Error(`the driver ended with ${String(signal ?? code)} and no report`)
  })
  const [report] = (await Promise.race([once(driver, 'message'), ended])) as [TallyReport]
  ended.catch(() => undefined)
  return report
}

function residentMiB(pid: number): number {
  return residentBytes(pid) / MIB
}

/** The peaks of the processes that it has started and that run now, together. */
function childrenMiB(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').match(/\d+/g) ?? []
  return children.reduce((sum, child) => {
    try {
      return sum + peakResidentBytes(Number(child)) / MIB
    } catch {
      return sum // it ended meanwhile
    }
  }, 0)
}

/** How far a straight line through the second half of the samples rises over that half (least squares). */
function secondHalfDrift(samples: readonly number[]): number {
  const half = samples.slice(samples.length >> 1)
  const meanX = (half.length - 1) / 2
  const meanY = half.reduce((sum, value) => sum + value, 0) / half.length
  let covariance = 0
  let variance = 0
  half.forEach((value, x) => {
    covariance += (x - meanX) * (value - meanY)
    variance += (x - meanX) ** 2
  })
  return (covariance / variance) * half.length
}

/** Ends of connections are noticed a moment later: asked until it is so. */
async function assertNothingHeld(server: ServerProcess): Promise<void> {
  interface Held {
    readonly nbdConnections: number
    readonly clients: readonly unknown[]
    readonly cache: { readonly pinnedBytes: number }
  }
  const deadline = Date.now() + 10_000
  for (;;) {
    const { nbdConnections, clients, cache } = await server.getJson<Held>('/v1/stats')
    const held = { nbdConnections, clients: clients.length, pinnedBytes: cache.pinnedBytes }
    if (Date.now() > deadline || Object.values(held).every((value) => value === 0)) {
      assert.deepEqual(held, { nbdConnections: 0, clients: 0, pinnedBytes: 0 })
      return
    }
    await delay(50)
  }
}

/** Waves of connections that read a little and go: the last leaves no more memory behind than those before. */
async function assertConnectionsLeaveNothing(
  server: ServerProcess,
  images: readonly Source[],
): Promise<void> {
  const address = { host: server.nbdHost, port: server.nbdPort }
  const after: number[] = []
  for (let wave = 0; wave < WAVES; wave++) {
    const clients = await Promise.all(
      Array.from({ length: CONNECTIONS }, (_, i) =>
        NbdClient.open(address, images[i % images.length]?.nbdName ?? ''),
      ),
    )
    await Promise.all(clients.map((client, i) => client.read(4096 * i, 65_536)))
    await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
    await assertNothingHeld(server)
    after.push(residentMiB(server.pid))
  }
  const grown = (after.at(-1) ?? NaN) - (after[FIRST_WAVES - 1] ?? NaN)
  evidence('soak-waves', {
    waves: WAVES,
    connections: WAVES * CONNECTIONS,
    rss_mib: after.map((mib) => Math.round(mib)).join(','),
    rss_grown_mib: grown.toFixed(1),
  })
  assert.ok(grown <= MAX_WAVES_MIB, `connections that are gone left ${grown} MiB behind`)
}
