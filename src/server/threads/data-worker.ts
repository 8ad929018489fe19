/**
 * Entry of a data worker: a whole front end, NBD and HTTP, over its own reader of the shared cache. It
 * decides nothing that another worker would have to know: refs, jobs and maps are main's.
 */
import { parentPort, workerData } from 'node:worker_threads'

import { createNbdServer } from 'nbd-server-ts'

import { PageReader } from '../../cache/index.ts'
import { AppError, counterRow, isAppError } from '../../core/index.ts'
import { controlClient } from '../control-client.ts'
import { WorkerDataPlane } from '../data-plane.ts'
import type { Client } from '../http/index.ts'
import { buildApp, controlFeed } from '../http/index.ts'
import { createLoggers } from '../logger.ts'
import { NbdExports } from '../nbd-exports.ts'
import { RpcPeer } from '../rpc.ts'
import type { DataWorkerSetup, Listening, ListenRequest } from './setup.ts'
import { MAIN_CALLS, WORKER_CALLS } from './setup.ts'

const setup = workerData as DataWorkerSetup
if (!parentPort) throw new Error('this module is the entry of a worker thread')
const loggers = createLoggers(setup.log, { worker: setup.workerNo })
const nbdLog = loggers.child('nbd:conn')

const rpc = new RpcPeer(parentPort, {
  [WORKER_CALLS.LISTEN]: (request: ListenRequest) => listen(request),
  [WORKER_CALLS.DRAIN]: (deadlineMs: number) => drain(deadlineMs),
  [WORKER_CALLS.CLIENTS]: () => clients(),
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
    onReadError: (error, exportName) => {
      const code = isAppError(error) ? error.code : 'ERR_INTERNAL'
      nbdLog.error(
        { event: 'nbd.read_failed', export: exportName, code, err: error },
        'a read failed',
      )
    },
  }),
  counters: counterRow(setup.nbdCounters, setup.workerNo),
  onOpen: (context, client) =>
    nbdLog.debug(
      { event: 'nbd.negotiated', connId: context.id, peer: client.peer, export: client.exportName },
      'export opened',
    ),
  onClose: (context, client, outcome, error) => {
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
  onError: (error, context) =>
    nbdLog.error({ event: 'nbd.error', connId: context.id, err: error }, 'an export failed'),
})

const building = buildApp({
  data,
  control,
  metrics: () => rpc.call(MAIN_CALLS.METRICS),
  events: controlFeed(control),
  counters: counterRow(setup.httpCounters, setup.workerNo),
  version: setup.version,
  logger: loggers.child('server:http'),
})

async function listen(request: ListenRequest): Promise<Listening> {
  const app = await building
  try {
    const options = { ...request.http, reusePort: true } // Fastify passes what it does not know to net.Server.listen
    await app.listen(options)
    const http = app.server.address()
    const address = await nbd.listen({ ...request.nbd, reusePort: true })
    if (request.nbdSocket !== undefined) await nbd.listen({ path: request.nbdSocket })
    return {
      httpPort: typeof http === 'object' && http !== null ? http.port : 0,
      nbdPort: typeof address === 'object' ? address.port : 0,
    }
  } catch (error) {
    throw listenError(error)
  }
}

/** Node names the address in the message of its own errors. */
function listenError(error: unknown): unknown {
  if (!(error instanceof Error && 'syscall' in error && error.syscall === 'listen')) return error
  return new AppError('ERR_SERVER_LISTEN', `cannot listen: ${error.message}`, {
    hint: 'another server may use the port: choose others with --http and --nbd',
    cause: error,
  })
}

async function drain(deadlineMs: number): Promise<void> {
  const app = await building
  await Promise.all([nbd.drain({ deadlineMs }), app.close()])
}

function clients(): Client[] {
  return nbd.clients().map((client) => ({
    id: `${setup.workerNo}-${client.id}`,
    kind: 'nbd',
    address:
      client.peer === undefined ? 'unix socket' : `${client.peer.address}:${client.peer.port}`,
    ...(client.exportName === undefined ? {} : { export: client.exportName }),
    connectedAt: new Date(client.openedAt).toISOString(),
    readBytes: client.readBytes,
    requests: client.requests,
  }))
}
