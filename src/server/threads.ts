/**
 * Starts the threads of a server and watches them: a thread that ends by itself ends the process, because
 * what it held in shared memory cannot be trusted any more and a supervisor starts a new one in a second.
 */
import { MessageChannel, Worker } from 'node:worker_threads'
import type { Transferable } from 'node:worker_threads'

import type { CacheMemory } from '../cache/index.ts'
import { KeeperClient } from '../cache/index.ts'
import { AppError, siblingModule } from '../core/index.ts'
import { YOUNG_GENERATION_MIB } from './heaps.ts'
import type { Client } from './http/index.ts'
import type { LogOptions } from './logger.ts'
import type { RpcHandlers } from './rpc.ts'
import { RpcPeer } from './rpc.ts'
import type {
  DataWorkerSetup,
  Drained,
  FillSetup,
  KeeperSetup,
  Listening,
  ListenRequest,
} from './threads/setup.ts'
import { WORKER_CALLS } from './threads/setup.ts'

export interface DataWorker {
  readonly workerNo: number
  readonly rpc: RpcPeer
}

export class Threads implements AsyncDisposable {
  readonly #memory: CacheMemory
  readonly #onDeath: (error: AppError) => void
  readonly #threads: Worker[] = []
  readonly #workers: DataWorker[] = []
  #closing = false
  readonly keeper: KeeperClient

  /** @param onDeath called once, when a thread has ended by itself */
  constructor(memory: CacheMemory, onDeath: (error: AppError) => void) {
    this.#memory = memory
    this.#onDeath = onDeath
    const { port1, port2 } = new MessageChannel()
    const setup: KeeperSetup = { memory, control: port1 }
    this.#start('keeper', 'keeper', setup, [port1])
    this.keeper = new KeeperClient(port2)
  }

  get workers(): readonly DataWorker[] {
    return this.#workers
  }

  startFill(dataDir: string, log: LogOptions): void {
    const port = this.keeper.connectFiller()
    const setup: FillSetup = { memory: this.#memory, port, dataDir, log }
    this.#start('fill', 'fill', setup, [port])
  }

  startWorker(setup: Omit<DataWorkerSetup, 'memory' | 'readerPort'>, handlers: RpcHandlers): void {
    const readerPort = this.keeper.connectReader()
    const whole: DataWorkerSetup = { ...setup, memory: this.#memory, readerPort }
    const worker = this.#start('data-worker', `worker-${setup.workerNo}`, whole, [readerPort])
    this.#workers.push({ workerNo: setup.workerNo, rpc: new RpcPeer(worker, handlers) })
  }

  /** The first worker binds (port 0 becomes a port there), the others share its ports. */
  async listen(addresses: Omit<ListenRequest, 'shared'>): Promise<Listening> {
    const [first, ...others] = this.#workers
    if (!first) throw new RangeError('no workers')
    const request: ListenRequest = { ...addresses, shared: others.length > 0 }
    const listening = await first.rpc.call<Listening>(WORKER_CALLS.LISTEN, request)
    const shared: ListenRequest = {
      shared: true,
      http: { host: request.http.host, port: listening.httpPort },
      nbd: { host: request.nbd.host, port: listening.nbdPort },
    }
    await Promise.all(others.map((worker) => worker.rpc.call(WORKER_CALLS.LISTEN, shared)))
    return listening
  }

  /** NBD clients of all workers. */
  async clients(): Promise<Client[]> {
    const all = await Promise.all(
      this.#workers.map((worker) => worker.rpc.call<Client[]>(WORKER_CALLS.CLIENTS)),
    )
    return all.flat()
  }

  /** Workers close the images that none of their clients has open. */
  async releaseIdle(): Promise<void> {
    await Promise.all(this.#workers.map(({ rpc }) => rpc.call(WORKER_CALLS.RELEASE_IDLE)))
  }

  /** Finishes what is in flight and closes every connection. @returns what had to be cut at the deadline */
  async drain(deadlineMs: number): Promise<Drained> {
    const all = await Promise.all(
      this.#workers.map(({ rpc }) => rpc.call<Drained>(WORKER_CALLS.DRAIN, deadlineMs)),
    )
    const sum = (of: (drained: Drained) => number): number =>
      all.reduce((total, drained) => total + of(drained), 0)
    return {
      nbdConnections: sum((drained) => drained.nbdConnections),
      httpConnections: sum((drained) => drained.httpConnections),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    const closed = new AppError('ERR_SERVER_THREAD', 'the server is closing')
    for (const worker of this.#workers) worker.rpc.close(closed)
    this.keeper.close()
    await Promise.all(this.#threads.map((thread) => thread.terminate()))
  }

  #start(
    kind: keyof typeof YOUNG_GENERATION_MIB,
    name: string,
    workerData: unknown,
    transferList: Transferable[],
  ): Worker {
    const thread = new Worker(siblingModule(import.meta.url, `./threads/${kind}`), {
      name,
      workerData,
      transferList,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB[kind] },
    })
    thread.on('error', (cause) => this.#died(name, cause))
    thread.on('exit', (code) => this.#died(name, new Error(`exit code ${code}`)))
    this.#threads.push(thread)
    return thread
  }

  #died(name: string, cause: unknown): void {
    if (this.#closing) return
    this.#closing = true
    const why = cause instanceof Error ? cause.message : String(cause)
    const error = new AppError('ERR_SERVER_THREAD', `thread '${name}' ended unexpectedly: ${why}`, {
      cause,
    })
    for (const worker of this.#workers) worker.rpc.close(error)
    this.#onDeath(error)
  }
}
