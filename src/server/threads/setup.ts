/** What main gives each thread at its start. Only types and names: everything in here is structured-cloneable. */
import type { MessagePort } from 'node:worker_threads'

import type { CacheMemory } from '../../cache/index.ts'
import type { CounterMemory } from '../../core/index.ts'
import type { ServerConfig } from '../config.ts'
import type { ConnectionGateMemory } from '../connection-gate.ts'
import type { LogOptions } from '../logger.ts'

export interface KeeperSetup {
  readonly memory: CacheMemory
  readonly control: MessagePort
}

export interface FillSetup {
  readonly memory: CacheMemory
  readonly port: MessagePort
  readonly dataDir: string
  readonly log: LogOptions
}

export interface DataWorkerSetup {
  /** From 0; its counter rows have the same number, the cache's one more. */
  readonly workerNo: number
  readonly config: ServerConfig
  readonly memory: CacheMemory
  readonly readerPort: MessagePort
  readonly nbdCounters: CounterMemory
  readonly httpCounters: CounterMemory
  /** Limits of connections, shared by all workers. */
  readonly nbdGate: ConnectionGateMemory
  readonly httpGate: ConnectionGateMemory
  /** Int32: bumped by main before a change of a ref is acknowledged. */
  readonly epoch: SharedArrayBuffer
  readonly log: LogOptions
  readonly version: string
}

/** Calls that main makes to a data worker. */
export const WORKER_CALLS = {
  LISTEN: 'listen',
  DRAIN: 'drain',
  CLIENTS: 'clients',
  RELEASE_IDLE: 'releaseIdle',
} as const

/** Calls that a data worker makes to main, besides those of the control plane; CLOSE_IMAGE is a notice. */
export const MAIN_CALLS = {
  RESOLVE: 'resolve',
  OPEN_IMAGE: 'openImage',
  CLOSE_IMAGE: 'closeImage',
  OPEN_BLOB: 'openBlob',
  METRICS: 'metrics',
} as const

export interface ListenRequest {
  readonly http: { readonly host: string; readonly port: number }
  readonly nbd: { readonly host: string; readonly port: number }
  /** Unix sockets are accepted by one worker only. */
  readonly nbdSocket?: string
  /** Others listen on the same ports. */
  readonly shared: boolean
}

/** What a worker had to cut when the time to drain was over. */
export interface Drained {
  readonly nbdConnections: number
  readonly httpConnections: number
}

export interface Listening {
  readonly httpPort: number
  readonly nbdPort: number
}
