/**
 * A running server: makes the shared memory, starts the threads, opens the store, and takes everything
 * down in order. The main thread runs this and the control plane, and serves no data itself.
 */
import { availableParallelism } from 'node:os'

import type { FrameSize } from '../cache/index.ts'
import { createCacheMemory } from '../cache/index.ts'
import { AppError, createCounterMemory, formatDuration, formatSize } from '../core/index.ts'
import { NBD_COUNTER_NAMES } from 'nbd-server-ts'
import { openStore } from '../store/index.ts'
import { clearSocketPath, requireFree } from './addresses.ts'
import type { ListenAddress, ServerConfig } from './config.ts'
import { Catalogue } from './catalogue.ts'
import { createConnectionGate } from './connection-gate.ts'
import { MainControlPlane } from './control.ts'
import { controlHandlers } from './control-client.ts'
import { collectAfterStart, keepHeapsSmall } from './heaps.ts'
import { HTTP_COUNTER_COLUMNS } from './http/counters.ts'
import { ImageRegistry, metadataBudgets } from './image-registry.ts'
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

/** A thread that does not answer is given up this long after the time to drain is over. */
const DRAIN_GRACE_MS = 2000

/**
 * Runs a server until its signal is aborted; everything is closed when this returns.
 * @throws ERR_STORE_LOCKED, ERR_SERVER_LISTEN, ERR_SERVER_THREAD, ERR_SERVER_DRAIN, ERR_CACHE_TOO_SMALL
 */
export async function runServer(
  config: ServerConfig,
  options: RunServerOptions = {},
): Promise<void> {
  const started = performance.now()
  keepHeapsSmall()
  const log: LogOptions = {
    level: [config.logLevel, process.env['COMMONPAGE_LOG'] ?? ''].join(','),
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
  await using threads = new Threads(memory, (error) => {
    logger.fatal({ event: 'server.thread_died', code: error.code, err: error }, error.message)
    death.reject(error)
  })
  threads.startFill(store.dataDir, log)
  const counters = createFrontCounters(config.workers)
  const { keeper } = threads
  const registry = new ImageRegistry({
    store,
    keeper,
    frameSize: memory.frameSize,
    workers: config.workers,
    budgets: metadataBudgets(config.cacheSize),
    releaseIdle: () => threads.releaseIdle(),
  })
  const catalogue = new Catalogue(store, loggers.child('images:list'))
  const epoch = new Int32Array(new SharedArrayBuffer(4))
  const importLog = loggers.child('images:import')
  await using uploads = new Uploads(store, {
    onError: (error) =>
      importLog.error({ event: 'upload.cleanup_failed', err: error }, 'an upload was not removed'),
  })
  await using processes = new ImportProcesses({
    concurrency: Math.max(1, Math.floor(availableParallelism() / 2)),
    onCrash: async (pid, { domain }) => {
      try {
        await store.domain(String(domain)).removeStagedBy(pid)
      } catch (error) {
        const fields = { event: 'import.cleanup_failed', pid, domain, err: error }
        importLog.error(fields, 'what a broken import had staged was not removed')
      }
    },
  })
  const jobs = new Jobs({ processes, logger: importLog })
  const gates = {
    nbdGate: createConnectionGate(config.maxConnections, config.maxConnectionsPerPeer),
    httpGate: createConnectionGate(config.maxConnections, config.maxConnectionsPerPeer),
  }
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
    httpGate: gates.httpGate,
    uploads,
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
      ...gates,
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
  collectAfterStart()
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
  const cut = await Promise.race([drain(threads, jobs, config.drainTimeoutMs), death.promise])
  const summary = reports.summary()
  logger.info(
    { event: 'server.stopped', ...summary },
    `served ${formatSize(summary.servedBytes)} in ${formatDuration(summary.uptimeMs)}`,
  )
  options.onStopped?.(summary)
  if (cut !== undefined) {
    logger.error(
      { event: 'server.drain_cut', cut },
      `cut after ${formatDuration(config.drainTimeoutMs)}`,
    )
    throw new AppError(
      'ERR_SERVER_DRAIN',
      `not finished after ${formatDuration(config.drainTimeoutMs)}, and cut: ${cut}`,
      { hint: '--drain-timeout gives clients more time' },
    )
  }
}

/** Lets clients finish and cancels imports. @returns what had to be cut, in words */
async function drain(threads: Threads, jobs: Jobs, timeoutMs: number): Promise<string | undefined> {
  const late = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => late.resolve(undefined), timeoutMs + DRAIN_GRACE_MS)
  const drained = Promise.all([threads.drain(timeoutMs), jobs.close()])
  const [cut] = (await Promise.race([drained, late.promise])) ?? []
  clearTimeout(timer)
  if (cut === undefined) return 'threads or imports that did not end'
  const { nbdConnections, httpConnections } = cut
  if (nbdConnections + httpConnections === 0) return undefined
  return `${nbdConnections} NBD and ${httpConnections} HTTP connections`
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
  await requireFree(http, '--http')
  await requireFree(nbd, '--nbd')
  if (nbdSocket !== undefined) await clearSocketPath(nbdSocket)
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
