/**
 * What a read-only NBD server has to do with a stream of client bytes, worked out in the plainest way from
 * the whole stream: a second implementation for fuzzing to compare with. It shares no code with the server.
 */

export interface ModelWorld {
  /** Bytes of each export by name. */
  readonly exports: ReadonlyMap<string, number>
  /** Names that LIST tells. */
  readonly listed: number
  /** Names whose provider throws. */
  readonly broken: ReadonlySet<string>
}

export interface ModelRequest {
  readonly cookie: bigint
  readonly type: number
  readonly offset: number
  /** Bytes of data that a successful answer carries. */
  readonly length: number
  readonly error: number
}

export interface Prediction {
  /** Option replies in order: option and type. */
  readonly options: readonly (readonly [option: number, type: number])[]
  /** Bytes of the answer to EXPORT_NAME, if that is how transmission began. */
  readonly exportNameBytes: number
  readonly structured: boolean
  readonly transmitting: boolean
  /** Answers owed, in the order of the requests. */
  readonly requests: readonly ModelRequest[]
  /** How the connection ends when the client half-closes behind its last byte. */
  readonly outcome: 'aborted' | 'refused' | 'closed' | 'disconnected' | 'protocol_error'
}

const KIB = 1024
const MIB = 1024 * KIB
const MAX_OPTION = 64 * KIB
const MAX_OPTION_SKIP = MIB
const MAX_LISTS = 8
const MAX_READ = 32 * MIB
const MAX_SWALLOW = 64 * MIB
const [EPERM, EINVAL] = [1, 22]
const [ACK, SERVER, INFO] = [1, 2, 3]
const ERR = { UNSUP: 1, POLICY: 2, INVALID: 3, PLATFORM: 4, UNKNOWN: 6, TOO_BIG: 9 } as const
const OFFERED = new Set([1, 2, 3, 6, 7, 8])

export function predict(bytes: Buffer, world: ModelWorld): Prediction {
  return new Model(bytes, world).run()
}

class Model {
  readonly #bytes: Buffer
  readonly #world: ModelWorld
  #at = 0
  readonly #options: [number, number][] = []
  readonly #requests: ModelRequest[] = []
  #exportNameBytes = 0
  #structured = false
  #size: number | undefined

  constructor(bytes: Buffer, world: ModelWorld) {
    this.#bytes = bytes
    this.#world = world
  }

  run(): Prediction {
    const negotiated = this.#negotiate()
    const outcome = negotiated ?? this.#transmit(this.#size ?? 0)
    return {
      options: this.#options,
      exportNameBytes: this.#exportNameBytes,
      structured: this.#structured,
      transmitting: negotiated === undefined,
      requests: this.#requests,
      outcome,
    }
  }

  #left(): number {
    return this.#bytes.length - this.#at
  }

  /** Undefined: an export was entered. */
  #negotiate(): Prediction['outcome'] | undefined {
    if (this.#left() < 4) return 'aborted'
    const flags = this.#bytes.readUInt32BE(0)
    this.#at = 4
    if ((flags & ~3) !== 0) return 'protocol_error'
    const [fixed, noZeroes] = [(flags & 1) !== 0, (flags & 2) !== 0]
    let lists = 0
    while (this.#left() >= 16) {
      const magic = this.#bytes.toString('latin1', this.#at, this.#at + 8)
      const option = this.#bytes.readUInt32BE(this.#at + 8)
      const length = this.#bytes.readUInt32BE(this.#at + 12)
      this.#at += 16
      if (magic !== 'IHAVEOPT' || length > MAX_OPTION_SKIP) return 'protocol_error'
      if (this.#left() < length) return 'aborted'
      const data = this.#bytes.subarray(this.#at, this.#at + length)
      this.#at += length
      const error = (code: number): void => void this.#options.push([option, 0x80000000 + code])
      if (length > MAX_OPTION) {
        if (option === 1) return 'protocol_error'
        error(OFFERED.has(option) ? ERR.TOO_BIG : ERR.UNSUP)
      } else if (option === 2) {
        this.#options.push([option, ACK])
        return 'aborted'
      } else if (option === 1) {
        return this.#exportName(data, noZeroes)
      } else if (!fixed) {
        error(ERR.INVALID)
      } else if (!OFFERED.has(option)) {
        error(ERR.UNSUP)
      } else if (option === 3) {
        if (length > 0) error(ERR.INVALID)
        else if (++lists > MAX_LISTS) error(ERR.POLICY)
        else this.#list()
      } else if (option === 8) {
        if (length > 0 || this.#structured) error(ERR.INVALID)
        else {
          this.#structured = true
          this.#options.push([option, ACK])
        }
      } else if (this.#info(option, data, error)) {
        return undefined
      }
    }
    return 'aborted'
  }

  #list(): void {
    for (let i = 0; i < this.#world.listed; i++) this.#options.push([3, SERVER])
    this.#options.push([3, ACK])
  }

  #exportName(data: Buffer, noZeroes: boolean): Prediction['outcome'] | undefined {
    const name = nameOf(data)
    if (name === undefined) return 'protocol_error'
    const size = this.#world.exports.get(name)
    if (size === undefined) return 'refused'
    this.#size = size
    this.#exportNameBytes = noZeroes ? 10 : 134
    return undefined
  }

  /** True: GO entered the export. */
  #info(option: number, data: Buffer, error: (code: number) => void): boolean {
    const nameLength = data.length < 6 ? Infinity : data.readUInt32BE(0)
    const count = nameLength > data.length - 6 ? -1 : data.readUInt16BE(4 + nameLength)
    const name = count < 0 ? undefined : nameOf(data.subarray(4, 4 + nameLength))
    if (name === undefined || data.length !== 6 + nameLength + 2 * count) {
      error(ERR.INVALID)
      return false
    }
    const size = this.#world.exports.get(name)
    if (size === undefined) {
      error(this.#world.broken.has(name) ? ERR.PLATFORM : ERR.UNKNOWN)
      return false
    }
    const asked = new Set<number>()
    for (let i = 0; i < count; i++) asked.add(data.readUInt16BE(6 + nameLength + 2 * i))
    const told = [1, 2, 3].filter((type) => asked.has(type)).length
    for (let i = 0; i < 1 + told; i++) this.#options.push([option, INFO])
    this.#options.push([option, ACK])
    if (option !== 7) return false
    this.#size = size
    return true
  }

  #transmit(size: number): Prediction['outcome'] {
    while (this.#left() >= 28) {
      const at = this.#at
      const bytes = this.#bytes
      if (bytes.readUInt32BE(at) !== 0x25609513) return 'protocol_error'
      const flags = bytes.readUInt16BE(at + 4)
      const type = bytes.readUInt16BE(at + 6)
      const cookie = bytes.readBigUInt64BE(at + 8)
      const offset = bytes.readBigUInt64BE(at + 16)
      const length = bytes.readUInt32BE(at + 24)
      this.#at += 28
      if (type === 2) return 'disconnected'
      if (type === 1) {
        if (length > MAX_SWALLOW) return 'protocol_error'
        if (this.#left() < length) return 'closed'
        this.#at += length
      }
      const inside = offset + BigInt(length) <= BigInt(size)
      const error = this.#errorOf(type, flags, length, inside)
      const data = type === 0 && error === 0 ? length : 0
      this.#requests.push({ cookie, type, offset: Number(offset), length: data, error })
    }
    return 'closed'
  }

  #errorOf(type: number, flags: number, length: number, inside: boolean): number {
    const allowed = type === 0 && this.#structured ? 4 : type === 6 ? 2 : 0
    if ((flags & ~allowed) !== 0) return EINVAL
    if (type === 1 || type === 4 || type === 6) return EPERM
    if (type === 3) return 0
    if (type === 0) return inside && length <= MAX_READ ? 0 : EINVAL
    if (type === 5) return inside ? 0 : EINVAL
    return EINVAL
  }
}

function nameOf(bytes: Buffer): string | undefined {
  if (bytes.length > 4096 || bytes.includes(0)) return undefined
  const name = bytes.toString('utf8')
  return Buffer.from(name).equals(bytes) ? name : undefined
}
