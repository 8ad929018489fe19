/**
 * Transcript-style wire tests: bytes written as commented hex, and a client over any duplex stream that sends
 * them and reads back exact lengths.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

import { NBD_CMD, NBD_OPT } from '../../src/nbd/index.ts'

/** `hex('49484156454f5054 # IHAVEOPT', u32(7))`: hex digits with blanks and # comments. */
export function hex(text: string): Buffer {
  const digits = text.replaceAll(/#.*$/gm, '').replaceAll(/\s+/g, '')
  assert.match(digits, /^(?:[0-9a-f]{2})*$/, `not hex: ${text}`)
  return Buffer.from(digits, 'hex')
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

export const GREETING = hex(`
  4e42444d41474943  # NBDMAGIC
  49484156454f5054  # IHAVEOPT
  0003              # FIXED_NEWSTYLE | NO_ZEROES`)

export const CLIENT_FLAGS = hex('00000003 # C_FIXED_NEWSTYLE | C_NO_ZEROES')

export function option(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([hex('49484156454f5054'), u32(number), u32(data.length), data])
}

export function infoData(name: string | Buffer, infos: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name)
  return Buffer.concat([u32(bytes.length), bytes, u16(infos.length), ...infos.map(u16)])
}

export function optionReply(number: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([hex('0003e889045565a9'), u32(number), u32(type), u32(data.length), data])
}

export interface RequestFields {
  readonly flags?: number
  readonly type?: number
  readonly cookie?: bigint
  readonly offset?: number | bigint
  readonly length?: number
}

export function request(fields: RequestFields): Buffer {
  const { flags = 0, type = NBD_CMD.READ, cookie = 0xfedcba9876543210n, offset = 0 } = fields
  const head = [hex('25609513'), u16(flags), u16(type), u64(cookie), u64(offset)]
  return Buffer.concat([...head, u32(fields.length ?? 0)])
}

/** Requests numbered from 0, each for the byte at its number. */
export function numbered(count: number, length = 1): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => request({ cookie: BigInt(i), offset: i, length })),
  )
}

export function simpleReply(cookie: bigint, error: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([hex('67446698'), u32(error), u64(cookie), data])
}

export function chunk(flags: number, type: number, cookie: bigint, payload: Buffer): Buffer {
  const head = [hex('668e33ef'), u16(flags), u16(type), u64(cookie), u32(payload.length)]
  return Buffer.concat([...head, payload])
}

export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly data: Buffer
}

export interface Reply {
  readonly cookie: bigint
  readonly error: number
  readonly data: Buffer
}

/** A client that speaks bytes. Reads wait for exactly what they ask for; `end` waits for the server's FIN. */
export class WireClient {
  readonly stream: Duplex
  #chunks: Buffer[] = []
  #length = 0
  #ended = false
  #error: Error | undefined
  #wake: (() => void) | undefined
  readonly closed: Promise<void>

  constructor(stream: Duplex) {
    this.stream = stream
    stream.on('data', (bytes: Buffer) => {
      this.#chunks.push(bytes)
      this.#length += bytes.length
      this.#wake?.()
    })
    stream.on('end', () => {
      this.#ended = true
      this.#wake?.()
    })
    stream.on('error', (error) => {
      this.#error = error
      this.#wake?.()
    })
    this.closed = new Promise((resolve) => {
      stream.on('close', () => {
        this.#ended = true
        this.#wake?.()
        resolve()
      })
    })
  }

  static async over(socket: Socket): Promise<WireClient> {
    const client = new WireClient(socket)
    if (socket.connecting) await once(socket, 'connect')
    return client
  }

  /** Bytes received and not read. */
  get buffered(): number {
    return this.#length
  }

  /** True until the server has closed or reset. */
  get isOpen(): boolean {
    return !this.#ended && this.#error === undefined
  }

  send(...pieces: readonly Buffer[]): void {
    this.stream.write(Buffer.concat(pieces))
  }

  async read(length: number): Promise<Buffer> {
    while (this.#length < length) {
      assert.ok(!this.#ended, `stream ended ${length - this.#length} bytes short: ${this.#error}`)
      await this.#moved()
    }
    this.#length -= length
    const taken: Buffer[] = []
    let missing = length
    while (missing > 0) {
      const first = this.#chunks.shift() ?? assert.fail()
      if (first.length > missing) this.#chunks.unshift(first.subarray(missing))
      taken.push(first.subarray(0, missing))
      missing -= taken.at(-1)?.length ?? 0
    }
    const [only] = taken
    return taken.length === 1 && only !== undefined ? only : Buffer.concat(taken)
  }

  /** Reads as many bytes as expected and compares them. */
  async expect(...pieces: readonly Buffer[]): Promise<void> {
    const expected = Buffer.concat(pieces)
    assert.deepEqual((await this.read(expected.length)).toString('hex'), expected.toString('hex'))
  }

  /** All bytes up to the server's FIN; fails on a reset. */
  async readToEnd(): Promise<Buffer> {
    while (!this.#ended) await this.#moved()
    assert.equal(this.#error, undefined)
    return this.read(this.#length)
  }

  /** Waits until the server has closed or reset, whatever arrived before. */
  async gone(): Promise<void> {
    while (this.isOpen) await this.#moved()
  }

  async optionReply(): Promise<OptionReply> {
    const head = await this.read(20)
    assert.equal(head.subarray(0, 8).toString('hex'), '0003e889045565a9')
    const data = await this.read(head.readUInt32BE(16))
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data }
  }

  async greet(flags: Buffer = CLIENT_FLAGS): Promise<void> {
    await this.expect(GREETING)
    this.send(flags)
  }

  /** The whole way to the transmission phase. */
  async go(name = 'x', { structured = false } = {}): Promise<void> {
    await this.greet()
    if (structured) {
      this.send(option(NBD_OPT.STRUCTURED_REPLY))
      assert.equal((await this.optionReply()).type, 1)
    }
    this.send(option(NBD_OPT.GO, infoData(name)))
    while ((await this.optionReply()).type !== 1);
  }

  /** One simple reply; `length` is what a successful one carries, perhaps by its cookie. */
  async simple(length: number | ((cookie: bigint) => number)): Promise<Reply> {
    const head = await this.read(16)
    assert.equal(head.readUInt32BE(0), 0x67446698)
    const error = head.readUInt32BE(4)
    const cookie = head.readBigUInt64BE(8)
    const carried = typeof length === 'number' ? length : length(cookie)
    return { error, cookie, data: await this.read(error ? 0 : carried) }
  }

  async chunk(): Promise<{ flags: number; type: number; cookie: bigint; payload: Buffer }> {
    const head = await this.read(20)
    assert.equal(head.readUInt32BE(0), 0x668e33ef)
    const payload = await this.read(head.readUInt32BE(16))
    const [flags, type] = [head.readUInt16BE(4), head.readUInt16BE(6)]
    return { flags, type, cookie: head.readBigUInt64BE(8), payload }
  }

  async #moved(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
  }
}
