/**
 * The negotiation phase of one connection as a state machine: bytes in, replies and questions out through a
 * handler. It opens no export and touches no socket: whoever owns it answers onExport and onList, at once or
 * later, and further input waits meanwhile.
 */
import {
  decodeInfoRequest,
  decodeName,
  decodeOptionHeader,
  encodeExportName,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeListEntry,
  encodeOptionError,
  encodeOptionReply,
  MAX_TEXT_BYTES,
} from './codec.ts'
import type { NbdRefusal } from './errors.ts'
import { messageOf, NbdError } from './errors.ts'
import type { ExportInfo } from './export.ts'
import { NBD_DEFAULT_PREFERRED_BLOCK } from './export.ts'
import type { NbdLimits } from './limits.ts'
import {
  nameOf,
  NBD_EXPORT_FLAG,
  NBD_FLAG_C,
  NBD_INFO,
  NBD_OPT,
  NBD_REP,
  NBD_SIZE,
} from './protocol.ts'
import type { Transitions } from './transitions.ts'

export type HandshakeState = 'flags' | 'option' | 'data' | 'skip' | 'answering' | 'done' | 'closed'
export type HandshakeEvent =
  | 'accepted'
  | 'header'
  | 'oversize'
  | 'complete'
  | 'skipped'
  | 'answered'
  | 'opened'
  | 'ended'
  | 'violation'

export const HANDSHAKE_TRANSITIONS: Transitions<HandshakeState, HandshakeEvent> = {
  flags: {
    accepted: ['option', 'client flags known and offered'],
    violation: ['closed', 'unknown or unoffered client flag'],
  },
  option: {
    header: ['data', 'option header, data within the limit'],
    oversize: ['skip', 'option header, data over the limit but skippable'],
    violation: ['closed', 'wrong magic, far too much data, or too many options'],
  },
  data: { complete: ['answering', 'all data of the option read'] },
  skip: {
    skipped: ['option', 'data thrown away, ERR_TOO_BIG or ERR_UNSUP sent'],
    violation: ['closed', 'the data was the name of EXPORT_NAME'],
  },
  answering: {
    answered: ['option', 'final reply sent: ACK or an error'],
    opened: ['done', 'GO or EXPORT_NAME answered: transmission begins'],
    ended: ['closed', 'ABORT, or EXPORT_NAME that cannot be satisfied'],
    violation: ['closed', 'EXPORT_NAME with a malformed name, or far too much input ahead'],
  },
  done: {},
  closed: {},
}

export interface ExportRequest {
  readonly via: 'EXPORT_NAME' | 'INFO' | 'GO'
  readonly name: string
}

export interface HandshakeHandler {
  /** Bytes for the client, one whole reply or several. */
  onSend(bytes: Buffer): void
  /** Answer with answerExport() or answerRefusal(). */
  onExport(request: ExportRequest): void
  /** Answer with answerListEntry() for each export, then answerListEnd(), or answerRefusal(). */
  onList(): void
  /** ABORT was acknowledged, or EXPORT_NAME refused: close when all is sent. No further calls. */
  onEnd(reason: 'aborted' | 'refused'): void
  /** The client broke the protocol or a limit. No further calls. */
  onViolation(error: NbdError): void
}

/** How much input may wait while an option is being answered: one receive buffer and some more. */
const MAX_WAITING_BYTES = 256 * 1024

export class Handshake {
  readonly #handler: HandshakeHandler
  readonly #limits: NbdLimits
  #state: HandshakeState = 'flags'
  #structured = false
  #fixed = false
  #greeted = false
  #zeroes = true
  #shutdown = false

  /** Unconsumed input, and what of the current unit (flags, header, data) has been put together. */
  #waiting: Buffer = EMPTY
  #unit: Buffer = EMPTY
  #unitFilled = 0
  #need: number = NBD_SIZE.CLIENT_FLAGS
  #running = false

  #option = 0
  #options = 0
  #lists = 0
  #infos: readonly number[] = []
  #via: ExportRequest['via'] = 'GO'

  constructor(handler: HandshakeHandler, limits: NbdLimits) {
    this.#handler = handler
    this.#limits = limits
  }

  get state(): HandshakeState {
    return this.#state
  }

  get structured(): boolean {
    return this.#structured
  }

  /** False while an answer is outstanding and after the end: stop reading the socket. */
  get wantsInput(): boolean {
    return this.#state !== 'answering' && this.#state !== 'done' && this.#state !== 'closed'
  }

  /** True once the client flags were accepted: before, it may be a port scan or a health check. */
  get greeted(): boolean {
    return this.#greeted
  }

  /** From now on every option but ABORT is refused with ERR_SHUTDOWN. */
  shutdown(): void {
    this.#shutdown = true
  }

  /** Bytes from the client, split anywhere. The chunk may be reused after the call. */
  push(chunk: Buffer): void {
    if (this.#state === 'closed') return
    this.#waiting = this.#waiting.length === 0 ? chunk : Buffer.concat([this.#waiting, chunk])
    this.#run()
    if (this.#state === 'answering' && this.#waiting.length > MAX_WAITING_BYTES) {
      this.#violation('ERR_NBD_LIMIT', `${this.#waiting.length} bytes sent ahead of an answer`)
    } else if (this.#waiting.length > 0) {
      this.#waiting = Buffer.from(this.#waiting)
    }
  }

  /** After `done`: the bytes behind the option, which belong to the transmission phase. */
  takeRest(): Buffer {
    const rest = this.#waiting
    this.#waiting = EMPTY
    return rest
  }

  /** Answers onExport with the export's properties. */
  answerExport(info: ExportInfo): void {
    const flags = this.#flagsOf(info)
    if (this.#via === 'EXPORT_NAME') {
      this.#handler.onSend(encodeExportName(info.size, flags, this.#zeroes))
      this.#go('opened')
      return
    }
    const replies = [this.#info(encodeInfoExport(info.size, flags))]
    for (const asked of new Set(this.#infos)) {
      const data = this.#optionalInfo(asked, info)
      if (data !== undefined) replies.push(this.#info(data))
    }
    replies.push(encodeOptionReply(this.#option, NBD_REP.ACK))
    this.#handler.onSend(Buffer.concat(replies))
    if (this.#via === 'GO') {
      this.#go('opened')
    } else {
      this.#go('answered')
      this.#run()
    }
  }

  /** Answers onExport or onList with an error. EXPORT_NAME has no error reply: the connection ends. */
  answerRefusal(refusal: NbdRefusal, message: string): void {
    if (this.#option === NBD_OPT.EXPORT_NAME) {
      this.#go('ended')
      this.#handler.onEnd('refused')
      return
    }
    this.#error(NBD_REP[`ERR_${refusal}`], message)
    this.#run()
  }

  answerListEntry(name: string, description: string): void {
    this.#handler.onSend(encodeListEntry(this.#option, NBD_REP.SERVER, name, description))
  }

  answerListEnd(): void {
    this.#ack()
    this.#run()
  }

  #run(): void {
    if (this.#running) return
    this.#running = true
    while (this.wantsInput && this.#consume()) this.#step()
    this.#running = false
  }

  /** Moves input into the current unit; true when the unit is complete. */
  #consume(): boolean {
    const missing = this.#need - this.#unitFilled
    const input = this.#waiting
    const taken = Math.min(missing, input.length)
    this.#waiting = input.subarray(taken)
    if (this.#state === 'skip') {
      this.#unitFilled += taken
    } else if (taken === this.#need) {
      this.#unit = input.subarray(0, taken)
      this.#unitFilled = taken
    } else {
      this.#store(input.subarray(0, taken))
    }
    return this.#unitFilled === this.#need
  }

  /** Appends a piece of a split unit. Grows with what has arrived, never to what a header announces. */
  #store(piece: Buffer): void {
    const filled = this.#unitFilled + piece.length
    if (filled > this.#unit.length || this.#unitFilled === 0) {
      const grown = Buffer.alloc(Math.min(this.#need, Math.max(filled * 2, MIN_UNIT_BYTES)))
      this.#unit.copy(grown, 0, 0, this.#unitFilled)
      this.#unit = grown
    }
    piece.copy(this.#unit, this.#unitFilled)
    this.#unitFilled = filled
  }

  #step(): void {
    const unit = this.#unit.subarray(0, Math.min(this.#need, this.#unit.length))
    this.#unit = EMPTY
    this.#unitFilled = 0
    switch (this.#state) {
      case 'flags':
        this.#onClientFlags(unit.readUInt32BE(0))
        break
      case 'option':
        this.#onHeader(unit)
        break
      case 'skip':
        this.#onSkipped()
        break
      case 'data':
        this.#go('complete')
        this.#onOption(unit)
        break
      case 'answering':
      case 'done':
      case 'closed':
    }
  }

  #onClientFlags(flags: number): void {
    const known = NBD_FLAG_C.FIXED_NEWSTYLE | NBD_FLAG_C.NO_ZEROES
    if ((flags & ~known) !== 0) {
      this.#violation('ERR_NBD_PROTOCOL', `client flags 0x${flags.toString(16)} not offered`)
      return
    }
    this.#fixed = (flags & NBD_FLAG_C.FIXED_NEWSTYLE) !== 0
    this.#zeroes = (flags & NBD_FLAG_C.NO_ZEROES) === 0
    this.#greeted = true
    this.#go('accepted')
  }

  #onHeader(unit: Buffer): void {
    const { magicValid, option, length } = decodeOptionHeader(unit)
    const name = nameOf(NBD_OPT, 'NBD_OPT', option)
    if (!magicValid) {
      this.#violation('ERR_NBD_PROTOCOL', 'option without IHAVEOPT in front')
    } else if (length > this.#limits.maxOptionSkipBytes) {
      this.#violation('ERR_NBD_LIMIT', `${name} with ${length} bytes of data`)
    } else if (++this.#options > this.#limits.maxOptions) {
      this.#violation('ERR_NBD_LIMIT', `more than ${this.#limits.maxOptions} options`)
    } else {
      this.#option = option
      this.#go(length > this.#limits.maxOptionBytes ? 'oversize' : 'header')
      this.#need = length
    }
  }

  #onSkipped(): void {
    if (this.#option === NBD_OPT.EXPORT_NAME) {
      this.#violation('ERR_NBD_LIMIT', 'NBD_OPT_EXPORT_NAME with an oversized name')
      return
    }
    const known = SUPPORTED.has(this.#option)
    this.#sendError(known ? NBD_REP.ERR_TOO_BIG : NBD_REP.ERR_UNSUP, 'option data too big')
    this.#go('skipped')
  }

  #onOption(data: Buffer): void {
    const option = this.#option
    if (option === NBD_OPT.ABORT) {
      this.#handler.onSend(encodeOptionReply(option, NBD_REP.ACK))
      this.#go('ended')
      this.#handler.onEnd('aborted')
    } else if (option === NBD_OPT.EXPORT_NAME) {
      this.#onExportName(data)
    } else if (!this.#fixed) {
      this.#error(NBD_REP.ERR_INVALID, 'client did not set NBD_FLAG_C_FIXED_NEWSTYLE')
    } else if (!SUPPORTED.has(option)) {
      this.#error(
        NBD_REP.ERR_UNSUP,
        `${nameOf(NBD_OPT, 'NBD_OPT', option)} is not supported by this server`,
      )
    } else if (this.#shutdown) {
      this.#error(NBD_REP.ERR_SHUTDOWN, 'the server is shutting down')
    } else if (option === NBD_OPT.LIST) {
      this.#onList(data)
    } else if (option === NBD_OPT.STRUCTURED_REPLY) {
      this.#onStructuredReply(data)
    } else {
      this.#onInfo(option === NBD_OPT.GO ? 'GO' : 'INFO', data)
    }
  }

  #onExportName(data: Buffer): void {
    this.#via = 'EXPORT_NAME'
    if (this.#shutdown) {
      this.answerRefusal('SHUTDOWN', '')
      return
    }
    let name
    try {
      name = decodeName(data)
    } catch (error) {
      this.#violation('ERR_NBD_PROTOCOL', messageOf(error))
      return
    }
    this.#handler.onExport({ via: 'EXPORT_NAME', name })
  }

  #onInfo(via: 'INFO' | 'GO', data: Buffer): void {
    let request
    try {
      request = decodeInfoRequest(data)
    } catch (error) {
      this.#error(NBD_REP.ERR_INVALID, messageOf(error))
      return
    }
    this.#via = via
    this.#infos = request.infos
    this.#handler.onExport({ via, name: request.name })
  }

  #onList(data: Buffer): void {
    if (data.length > 0) {
      this.#error(NBD_REP.ERR_INVALID, 'NBD_OPT_LIST takes no data')
    } else if (++this.#lists > this.#limits.maxLists) {
      this.#error(NBD_REP.ERR_POLICY, `more than ${this.#limits.maxLists} lists on one connection`)
    } else {
      this.#handler.onList()
    }
  }

  #onStructuredReply(data: Buffer): void {
    if (data.length > 0) {
      this.#error(NBD_REP.ERR_INVALID, 'NBD_OPT_STRUCTURED_REPLY takes no data')
    } else if (this.#structured) {
      this.#error(NBD_REP.ERR_INVALID, 'structured replies are negotiated already')
    } else {
      this.#structured = true
      this.#ack()
    }
  }

  #flagsOf(info: ExportInfo): number {
    const { HAS_FLAGS, READ_ONLY, SEND_CACHE, CAN_MULTI_CONN, SEND_DF } = NBD_EXPORT_FLAG
    const base = HAS_FLAGS | READ_ONLY | SEND_CACHE
    return base | (info.multiConn ? CAN_MULTI_CONN : 0) | (this.#structured ? SEND_DF : 0)
  }

  #optionalInfo(asked: number, info: ExportInfo): Buffer | undefined {
    switch (asked) {
      case NBD_INFO.NAME:
        // A name that was cut would be another one: left out, the client goes by the name it asked for.
        return Buffer.byteLength(info.name) > MAX_TEXT_BYTES
          ? undefined
          : encodeInfoText(NBD_INFO.NAME, info.name)
      case NBD_INFO.DESCRIPTION:
        return info.description === undefined
          ? undefined
          : encodeInfoText(NBD_INFO.DESCRIPTION, info.description)
      case NBD_INFO.BLOCK_SIZE: {
        const preferred = info.preferredBlockSize ?? NBD_DEFAULT_PREFERRED_BLOCK
        return encodeInfoBlockSize(1, preferred, this.#limits.maxRequestBytes)
      }
      default:
        return undefined
    }
  }

  #info(data: Buffer): Buffer {
    return encodeOptionReply(this.#option, NBD_REP.INFO, data)
  }

  #ack(): void {
    this.#handler.onSend(encodeOptionReply(this.#option, NBD_REP.ACK))
    this.#go('answered')
  }

  #error(type: number, message: string): void {
    this.#sendError(type, message)
    this.#go('answered')
  }

  #sendError(type: number, message: string): void {
    this.#handler.onSend(encodeOptionError(this.#option, type, message))
  }

  #violation(code: 'ERR_NBD_PROTOCOL' | 'ERR_NBD_LIMIT', message: string): void {
    this.#go('violation')
    this.#handler.onViolation(new NbdError(code, `negotiation: ${message}`))
  }

  #go(event: HandshakeEvent): void {
    const next = HANDSHAKE_TRANSITIONS[this.#state][event]
    if (next === undefined) {
      throw new NbdError('ERR_NBD_STATE', `handshake: ${event} in state ${this.#state}`)
    }
    this.#state = next[0]
    if (this.#state === 'option') this.#need = NBD_SIZE.OPTION_HEADER
    if (this.#state === 'closed') this.#waiting = EMPTY
  }
}

const EMPTY = Buffer.alloc(0)
const MIN_UNIT_BYTES = 64

const SUPPORTED: ReadonlySet<number> = new Set([
  NBD_OPT.EXPORT_NAME,
  NBD_OPT.ABORT,
  NBD_OPT.LIST,
  NBD_OPT.INFO,
  NBD_OPT.GO,
  NBD_OPT.STRUCTURED_REPLY,
])
