/**
 * An NBD client with several reads under way, by hand (NBD proto: "Fixed newstyle negotiation", "Simple
 * reply"): replies are matched by their cookie, and it can stop taking bytes, as a client that hangs does.
 */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'

const GREETING_BYTES = 18
const EXPORT_REPLY_BYTES = 10
const REPLY_BYTES = 16
const REQUEST_BYTES = 28
const IHAVEOPT = Buffer.from('IHAVEOPT')
const OPT_EXPORT_NAME = 1
const FIXED_NEWSTYLE_NO_ZEROES = 3
const REQUEST_MAGIC = 0x25609513
const REPLY_MAGIC = 0x67446698
const CMD_READ = 0
const CMD_DISC = 2

export interface NbdAddress {
  readonly host: string
  readonly port: number
}

interface Pending {
  readonly bytes: Buffer
  readonly resolve: (bytes: Buffer) => void
  readonly reject: (error: Error) => void
}

export class NbdClient implements AsyncDisposable {
  /** Bytes of the export. */
  readonly size: number
  readonly #socket: Socket
  readonly #pending = new Map<number, Pending>()
  #lastCookie = 0
  /** Received, of which no whole header could be made. */
  #rest: Buffer = Buffer.alloc(0)
  /** The reply whose data is coming, and how much of it has come. */
  #current: { readonly cookie: number; filled: number } | undefined
  #ended: Error | undefined
  #disconnecting = false

  private constructor(socket: Socket, size: number, rest: Buffer) {
    this.size = size
    this.#socket = socket
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => this.#fail(new Error('the server closed the connection')))
    if (rest.length > 0) this.#receive(rest)
  }

  static async open(address: NbdAddress, name: string): Promise<NbdClient> {
    const socket = connect({ ...address, noDelay: true })
    try {
      await take(socket, GREETING_BYTES)
      const head = Buffer.alloc(20)
      head.writeUInt32BE(FIXED_NEWSTYLE_NO_ZEROES, 0)
      IHAVEOPT.copy(head, 4)
      head.writeUInt32BE(OPT_EXPORT_NAME, 12)
      head.writeUInt32BE(Buffer.byteLength(name), 16)
      socket.write(Buffer.concat([head, Buffer.from(name)]))
      const reply = await take(socket, EXPORT_REPLY_BYTES)
      const size = Number(reply.readBigUInt64BE(0))
      return new NbdClient(socket, size, reply.subarray(EXPORT_REPLY_BYTES))
    } catch (error) {
      socket.destroy()
      throw new Error(`open ${name}`, { cause: error })
    }
  }

  read(offset: number, length: number): Promise<Buffer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    const cookie = ++this.#lastCookie
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
    this.#pending.set(cookie, { bytes: Buffer.allocUnsafe(length), resolve, reject })
    this.#socket.write(request(CMD_READ, cookie, offset, length))
    return promise
  }

  /** Takes no bytes until resume(). */
  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  /** Says goodbye and waits for the end. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.destroyed) return
    this.#disconnecting = true
    const closed = once(this.#socket, 'close')
    this.#socket.resume().end(request(CMD_DISC, 0, 0, 0))
    await closed
  }

  #receive(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#current === undefined) {
        const missing = REPLY_BYTES - this.#rest.length
        const header = Buffer.concat([this.#rest, chunk.subarray(at, at + missing)])
        at += Math.min(missing, chunk.length - at)
        this.#rest = header
        if (header.length === REPLY_BYTES) this.#header(header)
      } else {
        at += this.#data(chunk, at)
      }
    }
  }

  #header(header: Buffer): void {
    this.#rest = Buffer.alloc(0)
    const cookie = Number(header.readBigUInt64BE(8))
    const pending = this.#pending.get(cookie)
    const errno = header.readUInt32BE(4)
    if (header.readUInt32BE(0) !== REPLY_MAGIC || pending === undefined) {
      this.#socket.destroy(new Error(`a reply that was not asked for: ${header.toString('hex')}`))
    } else if (errno !== 0) {
      this.#pending.delete(cookie)
      pending.reject(new Error(`errno ${errno}`))
    } else {
      this.#current = { cookie, filled: 0 }
    }
  }

  /** @returns bytes used */
  #data(chunk: Buffer, at: number): number {
    const current = this.#current
    const pending = current === undefined ? undefined : this.#pending.get(current.cookie)
    if (current === undefined || pending === undefined) return chunk.length - at
    const copied = chunk.copy(pending.bytes, current.filled, at)
    current.filled += copied
    if (current.filled === pending.bytes.length) {
      this.#current = undefined
      this.#pending.delete(current.cookie)
      pending.resolve(pending.bytes)
    }
    return copied
  }

  #fail(error: Error): void {
    this.#ended ??= error
    for (const { reject } of this.#pending.values()) {
      reject(this.#disconnecting ? new Error('disconnected before the reply') : error)
    }
    this.#pending.clear()
  }
}

function request(type: number, cookie: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(REQUEST_BYTES)
  bytes.writeUInt32BE(REQUEST_MAGIC, 0)
  bytes.writeUInt16BE(type, 6)
  bytes.writeBigUInt64BE(BigInt(cookie), 8)
  bytes.writeBigUInt64BE(BigInt(offset), 16)
  bytes.writeUInt32BE(length, 24)
  return bytes
}

/** At least `length` bytes; a server that closes instead is an error. */
async function take(socket: Socket, length: number): Promise<Buffer> {
  let bytes: Buffer = Buffer.alloc(0)
  while (bytes.length < length) {
    const piece = socket.read() as Buffer | null
    if (piece !== null) bytes = Buffer.concat([bytes, piece])
    else if (socket.readableEnded || socket.destroyed) throw new Error('the server closed')
    else await Promise.race([once(socket, 'readable'), once(socket, 'close')])
  }
  return bytes
}
