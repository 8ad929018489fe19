/**
 * One client connection: the only file that touches a socket. It feeds received bytes to the handshake and
 * then to the session, writes what the output queue hands it, stops reading when they are full, and ends the
 * connection in order. It decides nothing about the protocol.
 */
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

import type { Budget } from './budget.ts'
import { HandshakeClock } from './clock.ts'
import { encodeGreeting } from './codec.ts'
import type { NbdCounters, NbdHandshakeStage, NbdOutcome } from './counters.ts'
import { NBD_COUNTER, outcomeColumn, stageColumn } from './counters.ts'
import { messageOf, NbdError, NbdOpenError } from './errors.ts'
import type { ConnectionContext, ExportProvider, NbdExport } from './export.ts'
import { checkExportInfo } from './export.ts'
import type { ExportRequest, HandshakeHandler } from './handshake.ts'
import { Handshake } from './handshake.ts'
import type { NbdLimits } from './limits.ts'
import { count, Meter } from './meter.ts'
import type { Moderator } from './moderation.ts'
import type { GatherPool, OutputSink } from './output.ts'
import { OutputQueue } from './output.ts'
import type { Poller } from './polling.ts'
import { NBD_MAX_STRING } from './protocol.ts'
import type { SessionHandler } from './session.ts'
import { Session } from './session.ts'

/** What a connection shares with the others of its server. */
export interface ConnectionServices {
  readonly exports: ExportProvider
  readonly limits: NbdLimits
  readonly counters: NbdCounters
  readonly pool: GatherPool
  readonly budget: Budget
  readonly poller: Poller | undefined
  readonly moderator: Moderator | undefined
  onOpened(connection: Connection): void
  onClosed(connection: Connection, outcome: NbdOutcome, error: NbdError | undefined): void
  onError(error: unknown, context: ConnectionContext): void
}

/** negotiating → transmitting → finishing (no more requests) → lingering (our FIN is out) → closed. */
export type ConnectionPhase = 'negotiating' | 'transmitting' | 'finishing' | 'lingering' | 'closed'

/** Bytes of option replies that the client has not taken at which no further option is answered. */
const NEGOTIATION_QUEUE_BYTES = 256 * 1024

export class Connection implements HandshakeHandler, SessionHandler, OutputSink {
  readonly context: ConnectionContext
  readonly openedAt: number = Date.now()
  readonly meter: Meter
  readonly #socket: Duplex
  readonly #services: ConnectionServices
  readonly #output: OutputQueue
  readonly #handshake: Handshake
  readonly #clock: HandshakeClock
  readonly #abort = new AbortController()
  #session: Session | undefined
  #phase: ConnectionPhase = 'negotiating'
  #outcome: NbdOutcome | undefined
  /** Milliseconds (performance.now()) at which the phase's or the write's patience ends. */
  #phaseDeadline = Infinity
  #writeDeadline = Infinity
  #pumpScheduled = false
  #turnScheduled = false
  #paused = false
  #peerEnded = false
  #draining = false
  #error: NbdError | undefined
  /** Callbacks of writes that were complete when write() returned. */
  #lateCallbacks = 0
  #queueWaiter: (() => void) | undefined
  /** What the last option, an INFO, has opened. */
  #informed: { readonly name: string; readonly target: NbdExport } | undefined

  constructor(socket: Duplex, id: number, services: ConnectionServices) {
    this.#socket = socket
    this.#services = services
    this.meter = new Meter(services.counters)
    this.context = { id, ...peerOf(socket), signal: this.#abort.signal }
    this.#output = new OutputQueue(this, services.pool)
    this.#handshake = new Handshake(this, services.limits)
    this.#clock = new HandshakeClock(services.limits)
    count(services.counters, NBD_COUNTER.CONNECTIONS_OPENED, 1)
    count(services.counters, NBD_COUNTER.CONNECTIONS, 1)
    socket.on('data', this.#onData)
    socket.on('end', () => this.#onPeerEnd())
    socket.on('error', (error) => this.#onSocketError(error))
    socket.on('close', () => this.#onClose())
    this.onSend(encodeGreeting())
  }

  get phase(): ConnectionPhase {
    return this.#phase
  }

  get session(): Session | undefined {
    return this.#session
  }

  get structured(): boolean {
    return this.#handshake.structured
  }

  /** Looks at the deadlines; called by the server now and then. */
  checkDeadlines(now: number): void {
    if (now > this.#writeDeadline) {
      const { slowReaderMs } = this.#services.limits
      this.#end(
        'slow_reader',
        new NbdError('ERR_NBD_SLOW_READER', `no progress in ${slowReaderMs} ms`),
      )
    } else if (this.#phase === 'negotiating') {
      if (this.#clock.check(now) || now > this.#phaseDeadline) this.#handshakeTimeout()
    } else if (now > this.#phaseDeadline) {
      this.#end(this.#outcome ?? 'closed')
    }
  }

  /** Takes no more requests, finishes what is in flight, sends FIN. In negotiation: ERR_SHUTDOWN. */
  drain(graceMs: number): void {
    if (this.#phase === 'transmitting') {
      this.#finish('drained')
    } else if (this.#phase === 'negotiating') {
      this.#draining = true
      this.#handshake.shutdown()
      this.#outcome = 'drained'
      this.#phaseDeadline = performance.now() + graceMs
    }
  }

  /** Ends the connection at once. */
  destroy(outcome: NbdOutcome): void {
    this.#end(outcome)
  }

  // Receiving.

  readonly #onData = (chunk: Buffer): void => {
    if (this.#phase === 'transmitting') {
      const received = performance.now()
      const reads = this.#session?.receive(chunk, received) ?? 0
      this.#settle()
      this.#moderate(reads)
      if (reads === 0 && this.#waiting) this.#services.poller?.waiting(received)
      else this.#services.poller?.served(received)
    } else if (this.#phase === 'negotiating') {
      this.#handshake.push(chunk)
      this.#settle()
    }
    // While finishing and lingering, what the client still sends is read and ignored: unread bytes would
    // turn our close into a reset, which takes the last replies with it.
  }

  #moderate(reads: number): void {
    const { moderator } = this.#services
    if (reads === 0) moderator?.interrupted()
    else moderator?.served(this.context.id, reads, performance.now())
  }

  #onPeerEnd(): void {
    this.#peerEnded = true
    this.#settle()
  }

  /** After anything moved: reads on, stops reading, or ends. */
  #settle(): void {
    const session = this.#session
    if (this.#phase === 'negotiating') {
      this.#read(this.#handshake.wantsInput && !this.#negotiationFull())
      // What was asked before the client's FIN is still answered, and GO still entered.
      if (this.#peerEnded && this.#handshake.wantsInput) this.#finish('aborted')
    } else if (this.#phase === 'transmitting' && session !== undefined) {
      this.#read(!session.blocked)
      if (this.#peerEnded && !session.blocked) this.#finish('closed')
    } else if (this.#phase === 'finishing' && session?.idle !== false && !this.#output.busy) {
      this.#phase = 'lingering'
      this.#phaseDeadline = performance.now() + this.#services.limits.lingerMs
      this.#socket.end()
    }
  }

  #read(wanted: boolean): void {
    if (wanted !== this.#paused) return
    this.#paused = !wanted
    if (wanted) this.#socket.resume()
    else this.#socket.pause()
  }

  /** No further request; ends when everything is answered and written. */
  #finish(outcome: NbdOutcome): void {
    if (this.#phase !== 'negotiating' && this.#phase !== 'transmitting') return
    this.#phase = 'finishing'
    this.#phaseDeadline = Infinity
    this.#outcome ??= outcome
    this.#session?.stop()
    this.#read(true)
    this.#settle()
  }

  /** Ends now. `close` follows and releases everything. */
  #end(outcome: NbdOutcome, error?: NbdError): void {
    if (this.#phase === 'closed') return
    this.#outcome ??= outcome
    this.#error ??= error
    this.#phaseDeadline = Infinity
    this.#writeDeadline = Infinity
    this.#socket.destroy()
  }

  #onSocketError(error: Error): void {
    this.#outcome ??= 'reset'
    this.#error ??= new NbdError('ERR_NBD_CONNECTION_LOST', messageOf(error), error)
  }

  #onClose(): void {
    if (this.#phase === 'closed') return
    const { counters } = this.#services
    if (this.#phase === 'negotiating' && this.#outcome === undefined) this.#outcome = 'aborted'
    this.#phase = 'closed'
    this.#phaseDeadline = Infinity
    this.#writeDeadline = Infinity
    const outcome = this.#outcome ?? 'closed'
    this.#output.abort()
    this.#queueWaiter?.()
    this.#abort.abort()
    this.#close(this.#informed?.target)
    this.#close(this.#session)
    count(counters, NBD_COUNTER.CONNECTIONS, -1)
    count(counters, outcomeColumn(outcome), 1)
    this.#services.onClosed(this, outcome, this.#error)
  }

  /** An export, or the session that has it open. */
  #close(opened: { close(): void } | undefined): void {
    try {
      opened?.close()
    } catch (error) {
      this.#services.onError(error, this.context)
    }
  }

  // Writing.

  write(chunks: readonly Uint8Array[], chunkCount: number): boolean {
    const socket = this.#socket
    const last = chunkCount - 1
    if (last > 0) socket.cork()
    for (let i = 0; i < last; i++) socket.write(chunks[i])
    socket.write(chunks[last], this.#onWrite)
    if (last > 0) socket.uncork()
    if (socket.writableLength === 0) {
      // Taken by the kernel already; its callback, which comes later, says nothing new.
      this.#lateCallbacks++
      return true
    }
    this.#writeDeadline = performance.now() + this.#services.limits.slowReaderMs
    return false
  }

  readonly #onWrite = (error?: Error | null): void => {
    if (this.#lateCallbacks > 0) {
      this.#lateCallbacks--
      return
    }
    this.#writeDeadline = Infinity
    // After an error `close` follows, and releases.
    if (error !== undefined && error !== null) return
    this.#output.written()
    this.#onQueueMoved()
  }

  onWritten(requests: number, bytes: number): void {
    this.#session?.written(requests, bytes)
  }

  onReleaseError(error: unknown): void {
    this.#services.onError(error, this.context)
  }

  onPumpNeeded(): void {
    if (this.#pumpScheduled) return
    this.#pumpScheduled = true
    process.nextTick(this.#onPump)
  }

  readonly #onPump = (): void => {
    this.#pumpScheduled = false
    this.#onQueueMoved()
    this.#services.poller?.answered(this.#waiting)
  }

  onTurnSpent(): void {
    if (this.#turnScheduled) return
    this.#turnScheduled = true
    setImmediate(this.#onTurn)
  }

  readonly #onTurn = (): void => {
    this.#turnScheduled = false
    if (this.#phase === 'closed') return
    this.#session?.nextTurn()
    this.#settle()
  }

  /** Reads are in flight, and it is not the socket that they wait for. */
  get #waiting(): boolean {
    return this.#session !== undefined && this.#session.inFlight > 0 && !this.#output.busy
  }

  #onQueueMoved(): void {
    if (this.#phase === 'closed') return
    this.#session?.pump()
    if (!this.#negotiationFull()) this.#queueWaiter?.()
    this.#settle()
  }

  // Negotiation.

  onSend(bytes: Buffer): void {
    this.#output.copy(bytes)
    this.#output.flush()
  }

  onExport(request: ExportRequest): void {
    void this.#answerExport(request)
  }

  onList(): void {
    void this.#answerList()
  }

  onEnd(reason: 'aborted' | 'refused'): void {
    this.#finish(reason)
  }

  onViolation(error: NbdError): void {
    this.#failHandshake(this.#handshake.greeted ? 'option' : 'flags')
    this.#end('protocol_error', error)
  }

  /** Never rejects. */
  async #answerExport(request: ExportRequest): Promise<void> {
    const { name, via } = request
    const { exports, limits } = this.#services
    const clock = this.#clock
    let target = this.#takeInformed(name)
    try {
      await this.#queueRoom()
      if (this.#phase !== 'negotiating') return
      const asked = via === 'INFO' ? exports.info?.(name, this.context) : undefined
      const info = asked === undefined ? undefined : await clock.provider(asked)
      if (info === undefined) {
        target ??= await clock.provider(exports.open(name, this.context), (late) =>
          this.#close(late),
        )
      }
      const told = info ?? target
      if (told === undefined || this.#phase !== 'negotiating') return
      if (this.#draining) throw new NbdOpenError('SHUTDOWN', 'the server is shutting down')
      checkExportInfo(told, limits.maxRequestBytes)
      const opened = target
      target = undefined
      if (via === 'INFO' && opened !== undefined) this.#informed = { name, target: opened }
      this.#handshake.answerExport(told)
      if (via !== 'INFO' && opened !== undefined) this.#transmit(opened)
    } catch (error) {
      this.#refuse(error)
    } finally {
      this.#close(target)
    }
    this.#settle()
  }

  /**
   * What INFO opened is what GO enters: the same question has the same answer, whatever a name has come to
   * mean in between (NBD proto: "NBD_OPT_GO"). Closed when it was opened under another name.
   */
  #takeInformed(name: string): NbdExport | undefined {
    const informed = this.#informed
    this.#informed = undefined
    if (informed === undefined || informed.name === name) return informed?.target
    this.#close(informed.target)
    return undefined
  }

  #transmit(target: NbdExport): void {
    const { limits, budget } = this.#services
    const { structured } = this.#handshake
    const output = this.#output
    this.#session = new Session(
      { target, structured, limits, output, meter: this.meter, budget },
      this,
    )
    this.#phase = 'transmitting'
    this.#phaseDeadline = Infinity
    this.#services.onOpened(this)
    const rest = this.#handshake.takeRest()
    if (rest.length > 0) this.#onData(rest)
  }

  /** Never rejects. */
  async #answerList(): Promise<void> {
    let left = this.#services.limits.maxListEntries
    try {
      const exports = this.#clock.each(this.#services.exports.list(this.context))
      for await (const { name, description } of exports) {
        if (this.#phase !== 'negotiating') return
        if (Buffer.byteLength(name) > NBD_MAX_STRING) continue
        if (left-- === 0) break
        this.#handshake.answerListEntry(name, description ?? '')
        await this.#queueRoom()
      }
      if (this.#phase !== 'negotiating') return
      this.#handshake.answerListEnd()
    } catch (error) {
      this.#refuse(error)
    }
    this.#settle()
  }

  #negotiationFull(): boolean {
    return this.#output.queuedBytes >= NEGOTIATION_QUEUE_BYTES
  }

  async #queueRoom(): Promise<void> {
    while (this.#phase === 'negotiating' && this.#negotiationFull()) {
      await new Promise<void>((resolve) => {
        this.#queueWaiter = resolve
      })
      this.#queueWaiter = undefined
    }
  }

  #refuse(error: unknown): void {
    const refusal = error instanceof NbdOpenError ? error : undefined
    if (refusal === undefined) this.#services.onError(error, this.context)
    if (this.#phase !== 'negotiating') return
    this.#failHandshake('export')
    const message = refusal?.message ?? 'the export cannot be opened'
    this.#handshake.answerRefusal(refusal?.refusal ?? 'PLATFORM', message)
  }

  #failHandshake(stage: NbdHandshakeStage): void {
    count(this.#services.counters, stageColumn(stage), 1)
  }

  #handshakeTimeout(): void {
    if (!this.#draining) this.#failHandshake(this.#handshake.greeted ? 'option' : 'flags')
    const { handshakeMs } = this.#services.limits
    const error = new NbdError('ERR_NBD_HANDSHAKE_TIMEOUT', `no export opened in ${handshakeMs} ms`)
    this.#end('handshake_timeout', error)
  }

  // From the session.

  onDisconnect(): void {
    this.#finish('disconnected')
  }

  onFatal(error: NbdError): void {
    this.#end(error.code === 'ERR_NBD_READ' ? 'failed' : 'protocol_error', error)
  }

  onExportError(error: unknown): void {
    this.#services.onError(error, this.context)
  }
}

function peerOf(socket: Duplex): Pick<ConnectionContext, 'peer'> {
  const { remoteAddress, remotePort } = socket as Partial<Socket>
  if (remoteAddress === undefined || remotePort === undefined) return {}
  return { peer: { address: remoteAddress, port: remotePort } }
}
