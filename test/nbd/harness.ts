/**
 * A server for tests, over real sockets on a free port and over in-memory pairs, with the outcome of every
 * connection.
 */
import { connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { Duplex } from 'node:stream'

import type {
  ExportProvider,
  NbdCounters,
  NbdLimits,
  NbdOutcome,
  NbdServer,
  NbdServerOptions,
} from '../../src/nbd/index.ts'
import { createNbdServer, NBD_COUNTER_NAMES } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { WireClient } from './wire.ts'

export class TestServer implements AsyncDisposable {
  readonly server: NbdServer
  readonly outcomes: NbdOutcome[] = []
  readonly errors: unknown[] = []
  /** Codes of the errors that connections ended with. */
  readonly codes: string[] = []
  readonly #waiters: (() => void)[] = []
  port = 0

  constructor(served: TestExport | ExportProvider, options: Partial<NbdServerOptions> = {}) {
    this.server = createNbdServer({
      exports: served instanceof TestExport ? providerOf(served) : served,
      polling: false,
      onError: (error) => this.errors.push(error),
      onClose: (_context, _client, outcome, error) => {
        this.outcomes.push(outcome)
        if (error !== undefined) this.codes.push(error.code)
        for (const wake of this.#waiters.splice(0)) wake()
      },
      ...options,
    })
  }

  async listen(): Promise<this> {
    const address = (await this.server.listen({ host: '127.0.0.1', port: 0 })) as AddressInfo
    this.port = address.port
    return this
  }

  /** A client on a real socket, which half-closes like any NBD client. */
  async connect(): Promise<{ client: WireClient; socket: Socket }> {
    const socket = connect({ host: '127.0.0.1', port: this.port, allowHalfOpen: true })
    const client = await WireClient.over(socket)
    return { client, socket }
  }

  /** A client over an in-memory pair. */
  pair(): WireClient {
    return new WireClient(this.memory())
  }

  /** The client's end of an in-memory connection. */
  memory(): Duplex {
    const [ours, theirs] = [new MemoryEnd(), new MemoryEnd()]
    ours.peer = theirs
    theirs.peer = ours
    this.server.handle(theirs)
    return ours
  }

  /** Waits until so many connections have ended. */
  async ended(connections: number): Promise<void> {
    while (this.outcomes.length < connections) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve))
    }
  }

  counter(name: string): number {
    return counterOf(this.server.counters, name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]()
  }
}

/** A listening server with one export, limits changed as told. */
export async function start(
  size = 100_000,
  limits: Partial<NbdLimits> = {},
): Promise<{ target: TestExport; server: TestServer } & AsyncDisposable> {
  const target = new TestExport(pattern(size))
  const server = await new TestServer(target, { limits }).listen()
  return { target, server, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

/**
 * One end of an in-memory connection. Like a socket, and unlike stream.duplexPair(), it refers to written
 * bytes no more once the write callback has run.
 */
class MemoryEnd extends Duplex {
  peer: MemoryEnd | undefined
  #onRead: (() => void) | undefined

  override _read(): void {
    const onRead = this.#onRead
    this.#onRead = undefined
    onRead?.()
  }

  override _write(bytes: Buffer, _encoding: string, done: () => void): void {
    const { peer } = this
    if (peer === undefined || peer.push(Buffer.from(bytes))) process.nextTick(done)
    else peer.#onRead = done
  }

  override _final(done: () => void): void {
    this.peer?.push(null)
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const { peer } = this
    this.peer = undefined
    if (peer !== undefined && !peer.destroyed) process.nextTick(() => peer.destroy())
    done(error)
  }
}

export function counterOf(counters: NbdCounters, name: string): number {
  const column = NBD_COUNTER_NAMES.indexOf(name)
  if (column < 0) throw new RangeError(`no counter ${name}`)
  return counters[column] ?? 0
}

/** Lets everything that is ready happen: timers excepted. */
export async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}
