/**
 * The NBD server: listens on TCP and Unix sockets, keeps the set of connections with its bounds, looks at
 * their deadlines, and drains. What a connection does is in connection.ts.
 */
import type { AddressInfo, Server } from 'node:net'
import { createServer, Socket } from 'node:net'
import type { Duplex } from 'node:stream'

import { Budget } from './budget.ts'
import type { ConnectionServices } from './connection.ts'
import { Connection } from './connection.ts'
import type { NbdCounters, NbdOutcome } from './counters.ts'
import { createNbdCounters, NBD_COUNTER, outcomeColumn } from './counters.ts'
import { NbdError } from './errors.ts'
import type { ConnectionContext, ExportProvider } from './export.ts'
import type { NbdLimits } from './limits.ts'
import { resolveLimits } from './limits.ts'
import { count } from './meter.ts'
import { Moderator } from './moderation.ts'
import { GatherPool } from './output.ts'
import type { PollingOptions } from './polling.ts'
import { Poller } from './polling.ts'

/** What is known of one connection. */
export interface NbdClientInfo {
  readonly id: number
  readonly peer?: { readonly address: string; readonly port: number }
  /** Milliseconds since the epoch. */
  readonly openedAt: number
  readonly phase: string
  /** Canonical name of the open export. */
  readonly exportName?: string
  readonly structured: boolean
  readonly requests: number
  readonly errors: number
  readonly readBytes: number
  readonly inFlight: number
}

export interface NbdServerHooks {
  /** A connection was accepted. False closes it at once: the place for limits per peer and address rules. */
  onConnection?(context: ConnectionContext): boolean
  /** A client opened an export. */
  onOpen?(context: ConnectionContext, client: NbdClientInfo): void
  /** A connection has ended; `error` says why when it was not the client's wish. */
  onClose?(
    context: ConnectionContext,
    client: NbdClientInfo,
    outcome: NbdOutcome,
    error: NbdError | undefined,
  ): void
  /** The provider or an export threw. The client has been answered; this is for the log. */
  onError?(error: unknown, context: ConnectionContext): void
}

export interface NbdServerOptions extends NbdServerHooks {
  readonly exports: ExportProvider
  readonly limits?: Partial<NbdLimits>
  /** False: never keep the event loop awake. */
  readonly polling?: PollingOptions | false
  /** False: never stop the thread, for up to half a millisecond, to let small reads of one client gather. */
  readonly moderation?: boolean
  /** A row of NBD_COUNTER_NAMES.length floats, counted in place. */
  readonly counters?: NbdCounters
}

export type NbdListenOptions =
  | { readonly host?: string; readonly port: number; readonly reusePort?: boolean }
  | { readonly path: string }

export interface NbdDrainOptions {
  /** Milliseconds after which what is left is destroyed. Default 30 s. */
  readonly deadlineMs?: number
}

const DEFAULT_DRAIN_MS = 30_000
/** How long a client in negotiation may still ask, and be told ERR_SHUTDOWN, while the server drains. */
const NEGOTIATION_GRACE_MS = 1_000
/** TCP keepalive finds dead peers; there is no idle timeout, because idle NBD connections are normal. */
const KEEPALIVE_MS = 60_000
const BACKLOG = 1024

export function createNbdServer(options: NbdServerOptions): NbdServer {
  return new NbdServer(options)
}

export class NbdServer implements AsyncDisposable {
  readonly #hooks: NbdServerHooks
  readonly #limits: NbdLimits
  readonly #counters: NbdCounters
  readonly #services: ConnectionServices
  readonly #servers: Server[] = []
  readonly #connections = new Set<Connection>()
  readonly #negotiating = new Set<Connection>()
  #lastId = 0
  #draining = false
  #timer: NodeJS.Timeout | undefined
  readonly #emptyWaiters: (() => void)[] = []

  /** @throws ERR_NBD_STATE for a limit that is no positive integer */
  constructor(options: NbdServerOptions) {
    this.#hooks = options
    this.#limits = resolveLimits(options.limits)
    this.#counters = options.counters ?? createNbdCounters()
    const onSpent = (seconds: number): void => {
      count(this.#counters, NBD_COUNTER.POLL_SECONDS, seconds)
    }
    this.#services = {
      exports: options.exports,
      limits: this.#limits,
      counters: this.#counters,
      pool: new GatherPool(),
      budget: new Budget(this.#limits.maxTotalInFlightBytes),
      poller: options.polling === false ? undefined : new Poller(options.polling ?? {}, onSpent),
      moderator: options.moderation === false ? undefined : new Moderator(),
      onOpened: (connection) => {
        this.#negotiating.delete(connection)
        this.#hooks.onOpen?.(connection.context, clientInfo(connection))
      },
      onClosed: (connection, outcome, error) => this.#onClosed(connection, outcome, error),
      onError: (error, context) => this.#hooks.onError?.(error, context),
    }
  }

  /** The counter row, the caller's or the server's own. */
  get counters(): NbdCounters {
    return this.#counters
  }

  /** Connections now. */
  get connections(): number {
    return this.#connections.size
  }

  clients(): NbdClientInfo[] {
    return [...this.#connections].map(clientInfo)
  }

  /** Ends one connection at once; false when there is none with that id. */
  disconnect(id: number): boolean {
    for (const connection of this.#connections) {
      if (connection.context.id !== id) continue
      connection.destroy('terminated')
      return true
    }
    return false
  }

  /**
   * Listens; may be called for several addresses. Resolves with the bound address (a string for a path).
   * Rejects with Node's own error when the address cannot be bound.
   * @throws ERR_NBD_STATE after drain()
   */
  listen(options: NbdListenOptions): Promise<AddressInfo | string> {
    if (this.#draining) throw new NbdError('ERR_NBD_STATE', 'listen after drain')
    const server = createServer({
      // A client that half-closes still gets its replies.
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_MS,
    })
    server.on('connection', (socket) => this.handle(socket))
    this.#servers.push(server)
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen({ backlog: BACKLOG, ...options }, () => {
        server.off('error', reject)
        // Errors of accept() (no file descriptors left) pass: the listener stays.
        server.on('error', (error) => this.#hooks.onError?.(error, NO_CONTEXT))
        const address = server.address()
        if (address === null) reject(new NbdError('ERR_NBD_STATE', 'listener without an address'))
        else resolve(address)
      })
    })
  }

  /**
   * Takes over an accepted connection: a socket made with allowHalfOpen, or another duplex stream that no
   * longer refers to written bytes once their write callback has run (stream.duplexPair() still does).
   */
  handle(socket: Duplex): void {
    if (this.#draining || this.#connections.size >= this.#limits.maxConnections) {
      count(this.#counters, outcomeColumn('refused'), 1)
      socket.on('error', ignore)
      socket.destroy()
      return
    }
    if (socket instanceof Socket) {
      socket.setNoDelay(true)
      socket.setKeepAlive(true, KEEPALIVE_MS)
    }
    const connection = new Connection(socket, ++this.#lastId, this.#services)
    this.#connections.add(connection)
    this.#negotiating.add(connection)
    if (this.#negotiating.size > this.#limits.maxHandshakes) this.#dropOldestHandshake()
    this.#timer ??= setInterval(() => this.#checkDeadlines(), this.#checkInterval()).unref()
    if (this.#hooks.onConnection?.(connection.context) === false) connection.destroy('refused')
  }

  /**
   * Ends in order: accepts nothing, answers negotiation with ERR_SHUTDOWN, reads no further request, finishes
   * what is in flight, closes each connection (never an error reply: the Linux client makes EIO of it).
   * Resolves when all are gone, at the latest after the deadline.
   */
  async drain({ deadlineMs = DEFAULT_DRAIN_MS }: NbdDrainOptions = {}): Promise<void> {
    this.#draining = true
    for (const server of this.#servers.splice(0)) server.close()
    for (const connection of this.#connections) {
      connection.drain(Math.min(NEGOTIATION_GRACE_MS, deadlineMs))
    }
    if (this.#connections.size === 0) return
    const timer = setTimeout(() => this.#destroyAll(), deadlineMs)
    await new Promise<void>((resolve) => {
      this.#emptyWaiters.push(resolve)
    })
    clearTimeout(timer)
  }

  /** Ends at once: every connection is destroyed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.drain({ deadlineMs: 0 })
  }

  #destroyAll(): void {
    for (const connection of this.#connections) connection.destroy('drained')
  }

  #dropOldestHandshake(): void {
    const [oldest] = this.#negotiating
    if (oldest === undefined) return
    this.#negotiating.delete(oldest)
    oldest.destroy('handshake_timeout')
  }

  #checkDeadlines(): void {
    const now = performance.now()
    for (const connection of this.#connections) connection.checkDeadlines(now)
  }

  /** Deadlines are kept to within a quarter of the shortest, between 10 ms and a second. */
  #checkInterval(): number {
    const { handshakeMs, providerMs, slowReaderMs, lingerMs } = this.#limits
    const shortest = Math.min(handshakeMs, providerMs, slowReaderMs, lingerMs)
    return Math.min(1000, Math.max(10, shortest / 4))
  }

  #onClosed(connection: Connection, outcome: NbdOutcome, error: NbdError | undefined): void {
    this.#connections.delete(connection)
    this.#negotiating.delete(connection)
    if (this.#connections.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
      for (const wake of this.#emptyWaiters.splice(0)) wake()
    }
    this.#hooks.onClose?.(connection.context, clientInfo(connection), outcome, error)
  }
}

/** For errors of a listener, which belong to no connection. */
const NO_CONTEXT: ConnectionContext = { id: 0, signal: new AbortController().signal }

function ignore(): void {}

function clientInfo(connection: Connection): NbdClientInfo {
  const { context, session, meter } = connection
  return {
    id: context.id,
    ...(context.peer === undefined ? {} : { peer: context.peer }),
    openedAt: connection.openedAt,
    phase: connection.phase,
    ...(session === undefined ? {} : { exportName: session.target.name }),
    structured: connection.structured,
    requests: meter.requests,
    errors: meter.errors,
    readBytes: meter.readBytes,
    inFlight: session?.inFlight ?? 0,
  }
}
