/**
 * A running server: makes the shared memory, starts the threads, opens the store, and takes everything
 * down in order. The main thread runs this and the control plane, and serves no data itself.
 */
import { availableParallelism } from 'node:os'

import type { FrameSize } from '../cache/index.ts'
import { createCacheMemory } from '../cache/index.ts'
import { createCounterMemory, formatDuration, formatSize } from '../core/index.ts'
import { NBD_COUNTER_NAMES } from 'nbd-server-ts'
import { openStore } from '../store/index.ts'
import type { ListenAddress, ServerConfig } from './config.ts'
import { Catalogue } from './catalogue.ts'
import { MainControlPlane } from './control.ts'
import { controlHandlers } from './control-client.ts'
import { HTTP_COUNTER_COLUMNS } from './http/counters.ts'
import { ImageRegistry } from './image-registry.ts'
import { ImportProcesses } from './import-processes.ts'
import { Jobs } from './jobs.ts'
import type { LogOptions } from './logger.ts'
import { createLoggers } from './logger.ts'
import { Metrics } from './metrics/registry.ts'
import type { ReadyInfo, RunServerOptions } from './run-options.ts'
import type { FrontCounters } from './reports.ts'
import { Reports } from './reports.ts'
import { Threads } from './threads.ts'
import { MAIN_CALLS } from './threads/setup.ts'
import { Uploads } from './uploads.ts'
import { UsageIndex } from './usage-index.ts'
import { VERSION } from './version.ts'

/** From the first signal to the end of the process at the latest. */
const DRAIN_DEADLINE_MS = 30_000

/**
 * Runs a server until its signal is aborted; everything is closed when this returns.
 * @throws ERR_STORE_LOCKED, ERR_SERVER_LISTEN, ERR_SERVER_THREAD, ERR_CACHE_TOO_SMALL
 */
export async function runServer(
  config: ServerConfig,
  options: RunServerOptions = {},
): Promise<void> {
  const started = performance.now()
  const log: LogOptions = {
    level: process.env['COMMONPAGE_LOG'] ?? config.logLevel,
    format:
      config.logFormat === 'auto' ? (process.stdout.isTTY ? 'pretty' : 'json') : config.logFormat,
  }
  const loggers = createLoggers(log)
  const logger = loggers.child('server')
  const death = Promise.withResolvers<never>()
  death.promise.catch(() => undefined) // raced below; a death after the drain began is not a failure
  await using store = await openStore({
    dataDir: config.data,
    mode: 'owner',
    logger: loggers.child('store'),
  })
  const memory = createCacheMemory({
    cacheBytes: config.cacheSize,
    frameSize: config.frameSize as FrameSize,
    threads: config.workers,
    allowTiny: config.allowTinyCache,
  })
  await using threads = new Threads(memory, (error) => death.reject(error))
  threads.startFill(store.dataDir, log)
  const counters = createFrontCounters(config.workers)
  const { keeper } = threads
  const registry = new ImageRegistry({
    store,
    keeper,
    frameSize: memory.frameSize,
    workers: config.workers,
    cacheBytes: config.cacheSize,
  })
  const catalogue = new Catalogue(store)
  const epoch = new Int32Array(new SharedArrayBuffer(4))
  const processes = new ImportProcesses(Math.max(1, Math.floor(availableParallelism() / 2)))
  const importLog = loggers.child('images:import')
  const jobs = new Jobs({ processes, onLog: (fields, message) => importLog.warn(fields, message) })
  await using uploads = new Uploads(store)
  const reports = new Reports({
    memory,
    keeper,
    registry,
    catalogue,
    usage: new UsageIndex({ store, registry, memory, epoch }),
    jobs,
    processes,
    counters,
    workers: config.workers,
    clients: () => threads.clients(),
  })
  const control = new MainControlPlane({
    store,
    keeper,
    catalogue,
    jobs,
    processes,
    uploads,
    reports,
    epoch,
  })
  const metrics = new Metrics(() => reports.metricsSnapshot())
  for (let workerNo = 0; workerNo < config.workers; workerNo++) {
    const setup = {
      workerNo,
      config,
      nbdCounters: counters.nbd,
      httpCounters: counters.http,
      epoch: epoch.buffer,
      log,
      version: VERSION,
    }
    threads.startWorker(setup, {
      ...controlHandlers(control),
      [MAIN_CALLS.RESOLVE]: control.resolve.bind(control),
      [MAIN_CALLS.OPEN_IMAGE]: (domain: string, digest: `sha256:${string}`) =>
        registry.open(domain, digest, workerNo),
      [MAIN_CALLS.CLOSE_IMAGE]: (domain: string, digest: `sha256:${string}`) =>
        registry.close(domain, digest, workerNo),
      [MAIN_CALLS.OPEN_BLOB]: control.openBlob.bind(control),
      [MAIN_CALLS.METRICS]: () => metrics.text(),
    })
  }
  const bound = await Promise.race([listen(config, threads), death.promise])
  control.listening()
  const info: ReadyInfo = { ...bound, images: (await catalogue.tagged()).length }
  const urls = { http: `http://${addressText(info.http)}/`, nbd: `nbd://${addressText(info.nbd)}/` }
  logger.info(
    { event: 'server.ready', ...info, ...urls, cacheBytes: config.cacheSize, pid: process.pid },
    `ready in ${formatDuration(performance.now() - started)}: ${urls.http} ${urls.nbd}, cache ${formatSize(config.cacheSize)}`,
  )
  options.onReady?.(info)
  await Promise.race([aborted(options.signal), death.promise])
  logger.info(
    { event: 'server.draining' },
    'draining: no new connections, finishing what is in flight',
  )
  control.drain()
  await Promise.all([threads.drain(DRAIN_DEADLINE_MS), jobs.close()])
  const summary = reports.summary()
  logger.info(
    { event: 'server.stopped', ...summary },
    `served ${formatSize(summary.servedBytes)} in ${formatDuration(summary.uptimeMs)}`,
  )
  options.onStopped?.(summary)
}

function createFrontCounters(workers: number): FrontCounters {
  return {
    nbd: createCounterMemory(workers, NBD_COUNTER_NAMES.length),
    http: createCounterMemory(workers, HTTP_COUNTER_COLUMNS),
  }
}

async function listen(config: ServerConfig, threads: Threads): Promise<Omit<ReadyInfo, 'images'>> {
  const { http, nbd, nbdSocket } = config
  const socket = nbdSocket === undefined ? {} : { nbdSocket }
  const ports = await threads.listen({ http, nbd, ...socket })
  return {
    version: VERSION,
    http: { host: http.host, port: ports.httpPort },
    nbd: { host: nbd.host, port: ports.nbdPort },
    ...socket,
  }
}

function addressText({ host, port }: ListenAddress): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** Resolves when the signal is aborted; without a signal, never. */
function aborted(signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return Promise.withResolvers<void>().promise
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
