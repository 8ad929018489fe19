/**
 * The request parser of the transmission phase as a state machine: bytes in, requests out through a handler,
 * write payloads thrown away. It validates nothing but the framing and holds no socket. A handler that cannot
 * take a request stops the parser, which then keeps the rest until resume().
 */
import type { RequestHeader } from './codec.ts'
import { decodeRequest, emptyRequest } from './codec.ts'
import { NbdError } from './errors.ts'
import { NBD_CMD, NBD_REQUEST_MAGIC, NBD_SIZE } from './protocol.ts'
import type { Transitions } from './transitions.ts'

export type TransmissionState = 'header' | 'payload' | 'blocked' | 'disconnected' | 'broken'
export type TransmissionEvent =
  'write' | 'swallowed' | 'refused' | 'resumed' | 'disconnect' | 'violation'

export const TRANSMISSION_TRANSITIONS: Transitions<TransmissionState, TransmissionEvent> = {
  header: {
    write: ['payload', 'WRITE: its payload follows'],
    refused: ['blocked', 'the handler has no room for the request'],
    disconnect: ['disconnected', 'DISC: everything behind it is ignored'],
    violation: ['broken', 'wrong request magic, or a payload too large to swallow'],
  },
  payload: { swallowed: ['header', 'payload thrown away, WRITE answered'] },
  blocked: { resumed: ['header', 'room again; the same request is offered again'] },
  disconnected: {},
  broken: {},
}

export interface TransmissionHandler {
  /** False: no room for this request, stop; it is offered again after resume(). */
  hasRoom(request: RequestHeader): boolean
  /** One request, valid during the call only. A WRITE is given when its payload has been swallowed. */
  onRequest(request: RequestHeader): void
  onDisconnect(): void
  onViolation(error: NbdError): void
}

export class Transmission {
  readonly #handler: TransmissionHandler
  readonly #maxSwallowBytes: number
  readonly #request: RequestHeader = emptyRequest()
  #state: TransmissionState = 'header'
  /** A header split between two chunks. */
  readonly #partial: Buffer = Buffer.alloc(NBD_SIZE.REQUEST)
  #partialView: DataView | undefined
  #partialFilled = 0
  /** Payload bytes still to be thrown away. */
  #swallow = 0
  /** What was left when the handler stopped us. */
  #rest: Buffer = EMPTY

  constructor(handler: TransmissionHandler, maxSwallowBytes: number) {
    this.#handler = handler
    this.#maxSwallowBytes = maxSwallowBytes
  }

  get state(): TransmissionState {
    return this.#state
  }

  /** Bytes kept back; they count as received but not as read. */
  get pendingBytes(): number {
    return this.#rest.length
  }

  /** Bytes from the client, split anywhere. The chunk may be reused after the call. */
  push(chunk: Buffer): void {
    if (this.#state === 'blocked') {
      this.#rest = Buffer.concat([this.#rest, chunk])
    } else {
      this.#parse(chunk, false)
    }
  }

  /** There is room again: goes on with what was kept back. */
  resume(): void {
    if (this.#state !== 'blocked') return
    this.#go('resumed')
    const rest = this.#rest
    this.#rest = EMPTY
    this.#parse(rest, true)
  }

  /** `owned`: the chunk is ours to keep. */
  #parse(chunk: Buffer, owned: boolean): void {
    let at = 0
    if (this.#partialFilled > 0) at = this.#completePartial(chunk)
    else if (this.#state === 'payload') at = this.#swallowFrom(chunk, 0)
    let view: DataView | undefined
    while (this.#state === 'header' && chunk.length - at >= NBD_SIZE.REQUEST) {
      view ??= new DataView(chunk.buffer, chunk.byteOffset, chunk.length)
      decodeRequest(view, at, this.#request)
      at = this.#dispatch() ? this.#swallowFrom(chunk, at + NBD_SIZE.REQUEST) : at
    }
    if (at >= chunk.length) return
    if (this.#state === 'blocked') {
      const rest = chunk.subarray(at)
      this.#rest = owned ? rest : Buffer.from(rest)
    } else if (this.#state === 'header') {
      this.#partialFilled = chunk.copy(this.#partial, 0, at)
    }
  }

  /** Completes the split header; returns how much of the chunk it took, and its payload. */
  #completePartial(chunk: Buffer): number {
    const before = this.#partialFilled
    this.#partialFilled += chunk.copy(this.#partial, before, 0)
    if (this.#partialFilled < NBD_SIZE.REQUEST) return chunk.length
    const taken = NBD_SIZE.REQUEST - before
    this.#partialView ??= new DataView(this.#partial.buffer, this.#partial.byteOffset)
    decodeRequest(this.#partialView, 0, this.#request)
    this.#partialFilled = 0
    if (this.#dispatch()) return this.#swallowFrom(chunk, taken)
    if (this.#state !== 'blocked') return taken
    this.#rest = Buffer.concat([this.#partial, chunk.subarray(taken)])
    return chunk.length
  }

  /** Hands #request over; false when the parser must not go on behind it. */
  #dispatch(): boolean {
    const request = this.#request
    if (request.magic !== NBD_REQUEST_MAGIC) {
      this.#violation('ERR_NBD_PROTOCOL', `request magic 0x${request.magic.toString(16)}`)
      return false
    }
    if (request.type === NBD_CMD.DISC) {
      this.#go('disconnect')
      this.#handler.onDisconnect()
      return false
    }
    if (!this.#handler.hasRoom(request)) {
      this.#go('refused')
      return false
    }
    if (request.type === NBD_CMD.WRITE) return this.#beginWrite(request.length)
    this.#handler.onRequest(request)
    return true
  }

  #beginWrite(length: number): boolean {
    if (length > this.#maxSwallowBytes) {
      this.#violation('ERR_NBD_LIMIT', `write of ${length} bytes to a read-only export`)
      return false
    }
    this.#swallow = length
    this.#go('write')
    return true
  }

  /** Throws payload away from `at`; returns where it stopped. Does nothing outside of a payload. */
  #swallowFrom(chunk: Buffer, at: number): number {
    if (this.#state !== 'payload') return at
    const taken = Math.min(this.#swallow, chunk.length - at)
    this.#swallow -= taken
    if (this.#swallow === 0) {
      this.#go('swallowed')
      this.#handler.onRequest(this.#request)
    }
    return at + taken
  }

  #violation(code: 'ERR_NBD_PROTOCOL' | 'ERR_NBD_LIMIT', message: string): void {
    this.#go('violation')
    this.#handler.onViolation(new NbdError(code, `transmission: ${message}`))
  }

  #go(event: TransmissionEvent): void {
    const next = TRANSMISSION_TRANSITIONS[this.#state][event]
    if (next === undefined) {
      throw new NbdError('ERR_NBD_STATE', `transmission: ${event} in state ${this.#state}`)
    }
    this.#state = next[0]
  }
}

const EMPTY = Buffer.alloc(0)
