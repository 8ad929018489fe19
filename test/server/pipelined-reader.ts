/**
 * An NBD client that asks without waiting for answers, by hand (NBD proto: "Fixed newstyle negotiation", "Simple
 * reply"), so that a test sees exactly what came before the end of the connection, and how it ended.
 */
import { once } from 'node:events'
import type { Socket, TcpNetConnectOpts } from 'node:net'
import { connect } from 'node:net'

const IHAVEOPT = Buffer.from('IHAVEOPT')
const GREETING_BYTES = 18
const EXPORT_REPLY_BYTES = 10
const REPLY_BYTES = 16
const OPT_EXPORT_NAME = 1
const FIXED_NEWSTYLE_NO_ZEROES = 3
const REQUEST_MAGIC = 0x25609513
const REPLY_MAGIC = 0x67446698

export interface Reply {
  readonly offset: number
  readonly errno: number
  readonly data: Buffer
}

export class PipelinedReader {
  readonly #socket: Socket
  readonly #length: number
  #chunks: Buffer[] = []
  #receivedBytes = 0
  #asked = 0
  #failure: string | undefined
  #ended = false
  readonly #closed: Promise<unknown>

  private constructor(socket: Socket, length: number) {
    this.#socket = socket
    this.#length = length
    this.#closed = once(socket, 'close').catch(() => undefined)
    socket.on('data', (chunk) => {
      this.#chunks.push(chunk)
      this.#receivedBytes += chunk.length
    })
    socket.on('end', () => (this.#ended = true))
    socket.on('error', (error: NodeJS.ErrnoException) => (this.#failure ??= error.code ?? 'error'))
  }

  /** @param length of every read */
  static async open(
    address: TcpNetConnectOpts,
    name: string,
    length: number,
  ): Promise<PipelinedReader> {
    const socket = connect(address)
    const reader = new PipelinedReader(socket, length)
    await reader.#take(GREETING_BYTES)
    const head = Buffer.alloc(20)
    head.writeUInt32BE(FIXED_NEWSTYLE_NO_ZEROES, 0)
    IHAVEOPT.copy(head, 4)
    head.writeUInt32BE(OPT_EXPORT_NAME, 12)
    head.writeUInt32BE(Buffer.byteLength(name), 16)
    socket.write(Buffer.concat([head, Buffer.from(name)]))
    await reader.#take(EXPORT_REPLY_BYTES)
    return reader
  }

  /** True until the server has closed its side. */
  get isOpen(): boolean {
    return !this.#ended && this.#failure === undefined
  }

  /** Reads that were asked for and have not come, about. */
  get outstanding(): number {
    return this.#asked - Math.floor(this.#receivedBytes / (REPLY_BYTES + this.#length))
  }

  ask(offset: number): void {
    this.#asked++
    const request = Buffer.alloc(28)
    request.writeUInt32BE(REQUEST_MAGIC, 0)
    request.writeBigUInt64BE(BigInt(offset), 8) // the cookie says which offset a reply is of
    request.writeBigUInt64BE(BigInt(offset), 16)
    request.writeUInt32BE(this.#length, 24)
    this.#socket.write(request)
  }

  /** Bytes that have come since the handshake. */
  get receivedBytes(): number {
    return this.#receivedBytes
  }

  /** Waits for the end of the connection. */
  async finish(): Promise<{
    readonly replies: readonly Reply[]
    /** Bytes of a reply that broke off. */
    readonly left: number
    /** errno name, when the connection did not end with a FIN. */
    readonly failure: string | undefined
  }> {
    await this.#closed
    const received = Buffer.concat(this.#chunks)
    const replies: Reply[] = []
    let at = 0
    while (at + REPLY_BYTES <= received.length) {
      if (received.readUInt32BE(at) !== REPLY_MAGIC) throw new Error(`no reply at ${at}`)
      const errno = received.readUInt32BE(at + 4)
      const end = at + REPLY_BYTES + (errno === 0 ? this.#length : 0)
      if (end > received.length) break
      const offset = Number(received.readBigUInt64BE(at + 8))
      replies.push({ offset, errno, data: received.subarray(at + REPLY_BYTES, end) })
      at = end
    }
    return { replies, left: received.length - at, failure: this.#failure }
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#receivedBytes < length) {
      if (!this.isOpen) throw new Error(`the server closed: ${this.#failure ?? 'end'}`)
      await Promise.race([once(this.#socket, 'data'), this.#closed])
    }
    const all = Buffer.concat(this.#chunks)
    this.#chunks = [all.subarray(length)]
    this.#receivedBytes -= length
    return all.subarray(0, length)
  }
}
