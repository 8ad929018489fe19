/**
 * Entry of a data worker: a whole front end, NBD and HTTP, over its own reader of the shared cache. It
 * decides nothing that another worker would have to know: refs, jobs and maps are main's.
 */
import { parentPort, workerData } from 'node:worker_threads'

import { createNbdServer } from 'nbd-server-ts'

import { PageReader } from '../../cache/index.ts'
import { counterRow, isAppError } from '../../core/index.ts'
import { listenError } from '../addresses.ts'
import { formatAddress } from '../config.ts'
import { ConnectionGate } from '../connection-gate.ts'
import { controlClient } from '../control-client.ts'
import { WorkerDataPlane } from '../data-plane.ts'
import type { Client } from '../http/index.ts'
import { buildApp, controlFeed } from '../http/index.ts'
import { LogLimiter } from '../log-limiter.ts'
import { createLoggers } from '../logger.ts'
import { NbdExports } from '../nbd-exports.ts'
import { nbdLimits } from '../nbd-limits.ts'
import { RpcPeer } from '../rpc.ts'
// Main's errors arrive as records: what their codes mean to a client is looked up here.
import '../error-tables.ts'
import type { DataWorkerSetup, Drained, Listening, ListenRequest } from './setup.ts'
import { MAIN_CALLS, WORKER_CALLS } from './setup.ts'

const setup = workerData as DataWorkerSetup
if (!parentPort) throw new Error('this module is the entry of a worker thread')
const loggers = createLoggers(setup.log, { worker: setup.workerNo })
const nbdLog = loggers.child('nbd:conn')
const httpLog = loggers.child('server:http')
/** A client that repeats a failing read must not fill the disk with log lines. */
const limiter = new LogLimiter()
const nbdGate = new ConnectionGate(setup.nbdGate)
const httpGate = new ConnectionGate(setup.httpGate)
/** How often connections that became idle are closed while the server drains. */
const IDLE_CLOSE_MS = 100

const rpc = new RpcPeer(parentPort, {
  [WORKER_CALLS.LISTEN]: (request: ListenRequest) => listen(request),
  [WORKER_CALLS.DRAIN]: (deadlineMs: number) => drain(deadlineMs),
  [WORKER_CALLS.CLIENTS]: () => clients(),
  [WORKER_CALLS.RELEASE_IDLE]: () => data.releaseIdle(),
})
const reader = new PageReader({
  memory: setup.memory,
  port: setup.readerPort,
  counterRow: setup.workerNo,
  readahead: setup.config.readahead,
})
const data = new WorkerDataPlane({
  rpc,
  reader,
  epoch: new Int32Array(setup.epoch),
  workerNo: setup.workerNo,
})
const control = controlClient(rpc)

const nbd = createNbdServer({
  exports: new NbdExports({
    data,
    control,
    ...(setup.config.defaultExport === undefined
      ? {}
      : { defaultExport: setup.config.defaultExport }),
    onReadError: (error, exportName) => logFailure('nbd.read_failed', error, exportName),
    onOpenError: (error, exportName) => logFailure('nbd.open_failed', error, exportName),
  }),
  counters: counterRow(setup.nbdCounters, setup.workerNo),
  limits: nbdLimits(setup.config),
  onConnection: (context) => {
    if (nbdGate.enter(context, context.peer?.address)) return true
    logRefused('nbd', context.peer?.address)
    return false
  },
  onOpen: (context, client) =>
    nbdLog.debug(
      { event: 'nbd.negotiated', connId: context.id, peer: client.peer, export: client.exportName },
      'export opened',
    ),
  onClose: (context, client, outcome, error) => {
    nbdGate.leave(context)
    if (client.exportName === undefined) return // probes and port scans come and go
    nbdLog.info(
      {
        event: 'nbd.closed',
        connId: context.id,
        peer: client.peer,
        export: client.exportName,
        outcome,
        requests: client.requests,
        readBytes: client.readBytes,
        ...(error === undefined ? {} : { code: error.code, reason: error.message }),
      },
      'connection closed',
    )
  },
  onError: (error, context) => logFailure('nbd.error', error, `connection ${context.id}`),
})

const building = buildApp({
  data,
  control,
  metrics: () => rpc.call(MAIN_CALLS.METRICS),
  events: controlFeed(control),
  counters: counterRow(setup.httpCounters, setup.workerNo),
  version: setup.version,
  logger: httpLog,
  ...(setup.config.httpAllowedHosts === undefined
    ? {}
    : { allowedHosts: setup.config.httpAllowedHosts }),
})

async function listen({
  http,
  nbd: address,
  nbdSocket,
  shared,
}: ListenRequest): Promise<Listening> {
  const app = await building
  app.server.on('connection', (socket) => {
    if (httpGate.enter(socket, socket.remoteAddress)) {
      socket.once('close', () => httpGate.leave(socket))
    } else {
      logRefused('http', socket.remoteAddress)
      socket.destroy()
    }
  })
  const options = { ...http, reusePort: shared } // Fastify passes what it does not know to net.Server.listen
  await binding(app.listen(options), formatAddress(http), '--http')
  const bound = nbd.listen({ ...address, reusePort: shared })
  const nbdAddress = await binding(bound, formatAddress(address), '--nbd')
  if (nbdSocket !== undefined)
    await binding(nbd.listen({ path: nbdSocket }), nbdSocket, '--nbd-socket')
  const httpAddress = app.server.address()
  return {
    httpPort: typeof httpAddress === 'object' && httpAddress !== null ? httpAddress.port : 0,
    nbdPort: typeof nbdAddress === 'object' ? nbdAddress.port : 0,
  }
}

async function binding<T>(bound: Promise<T>, where: string, setting: string): Promise<T> {
  try {
    return await bound
  } catch (error) {
    throw listenError(error, where, setting)
  }
}

/** Both protocols finish what is in flight; at the deadline the rest is cut. */
async function drain(deadlineMs: number): Promise<Drained> {
  const app = await building
  const cut = { nbdConnections: 0, httpConnections: 0 }
  const deadline = setTimeout(() => {
    cut.nbdConnections = nbd.connections
    cut.httpConnections = httpGate.size
    app.server.closeAllConnections()
  }, deadlineMs)
  const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CLOSE_MS)
  try {
    await Promise.all([nbd.drain({ deadlineMs }), app.close()])
  } finally {
    clearTimeout(deadline)
    clearInterval(idle)
  }
  return cut
}

function logFailure(event: string, error: unknown, what: string): void {
  const code = isAppError(error) ? error.code : 'ERR_INTERNAL'
  const more = limiter.admit(`${event} ${code}`)
  if (more !== undefined)
    nbdLog.error({ event, code, export: what, err: error, ...more }, 'a client got an error')
}

function logRefused(protocol: 'nbd' | 'http', address: string | undefined): void {
  const more = limiter.admit(`${protocol}.refused`)
  if (more === undefined) return
  const { maxConnections, maxConnectionsPerPeer } = setup.config
  const log = protocol === 'nbd' ? nbdLog : httpLog
  log.warn(
    { event: `${protocol}.refused`, address, maxConnections, maxConnectionsPerPeer, ...more },
    'a connection was refused: the limit is reached',
  )
}

function clients(): Client[] {
  return nbd.clients().map((client) => ({
    id: `${setup.workerNo}-${client.id}`,
    kind: 'nbd',
    address:
      client.peer === undefined
        ? 'unix socket'
        : formatAddress({ host: client.peer.address, port: client.peer.port }),
    ...(client.exportName === undefined ? {} : { export: client.exportName }),
    connectedAt: new Date(client.openedAt).toISOString(),
    readBytes: client.readBytes,
    requests: client.requests,
  }))
}
