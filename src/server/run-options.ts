/**
 * What whoever starts a server (the command line, a test, an embedding program) tells it and hears from it.
 * Only types: how the server is put together is not known here.
 */
import type { ListenAddress } from './config.ts'

export interface ReadyInfo {
  readonly version: string
  /** As bound: the port is never 0. */
  readonly http: ListenAddress
  readonly nbd: ListenAddress
  readonly nbdSocket?: string
  /** Tags in the store. */
  readonly images: number
}

/** Totals of a server's life, for its last line. */
export interface ServerSummary {
  readonly uptimeMs: number
  readonly servedBytes: number
  /** Lookups that found their page in memory, of all lookups; undefined: there were none. */
  readonly hitRatio: number | undefined
  readonly evictions: number
}

export interface RunServerOptions {
  /** Aborting it drains and stops the server. */
  readonly signal?: AbortSignal
  /** All listeners are bound and the store is open. */
  readonly onReady?: (info: ReadyInfo) => void
  /** Everything is closed. */
  readonly onStopped?: (summary: ServerSummary) => void
}
