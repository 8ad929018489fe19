/**
 * The smallest NBD client that reads: NBD_OPT_GO, NBD_CMD_READ one at a time, NBD_CMD_DISC. It is how the
 * demo opens an export without any tool installed; real clients are nbd-client, nbdfuse, qemu and libnbd.
 */
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import {
  nameOf,
  NBD_CMD,
  NBD_FLAG,
  NBD_FLAG_C,
  NBD_INFO,
  NBD_MAGIC,
  NBD_OPT,
  NBD_REP,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_SIZE,
} from 'nbd-server-ts'

import { AppError } from '../../core/index.ts'
import type { ListenAddress } from '../../server/config.ts'

/** Option replies carry a few dozen bytes; more is no NBD server. */
const MAX_OPTION_REPLY_BYTES = 64 * 1024
/** NBD_INFO_EXPORT: type, size, transmission flags. */
const INFO_EXPORT_BYTES = 12

export class NbdReader implements AsyncDisposable {
  readonly size: number
  readonly #socket: Socket
  readonly #bytes: ByteReader

  private constructor(socket: Socket, bytes: ByteReader, size: number) {
    this.#socket = socket
    this.#bytes = bytes
    this.size = size
  }

  /** @throws ERR_CLI_NBD */
  static async open(
    address: ListenAddress,
    exportName: string,
    signal: AbortSignal,
  ): Promise<NbdReader> {
    const socket = connect({ ...address, noDelay: true })
    const stop = (): void => {
      socket.destroy(signal.reason instanceof Error ? signal.reason : undefined)
    }
    signal.addEventListener('abort', stop, { once: true })
    socket.once('close', () => signal.removeEventListener('abort', stop))
    const bytes = new ByteReader(socket)
    try {
      const size = await negotiate(socket, bytes, exportName)
      return new NbdReader(socket, bytes, size)
    } catch (error) {
      socket.destroy()
      throw error
    }
  }

  /** @throws ERR_CLI_NBD with the errno when the server refuses */
  async read(offset: number, length: number): Promise<Buffer> {
    const request = Buffer.alloc(NBD_SIZE.REQUEST)
    request.writeUInt32BE(NBD_REQUEST_MAGIC, 0)
    request.writeUInt16BE(NBD_CMD.READ, 6)
    request.writeBigUInt64BE(BigInt(offset), 16)
    request.writeUInt32BE(length, 24)
    this.#socket.write(request)
    const header = await this.#bytes.take(NBD_SIZE.SIMPLE_REPLY)
    expectMagic(header.readUInt32BE(0), NBD_SIMPLE_REPLY_MAGIC, 'a simple reply')
    const errno = header.readUInt32BE(4)
    if (errno !== 0) throw broken(`read of ${length} bytes at ${offset} failed with errno ${errno}`)
    return this.#bytes.take(length)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.destroyed) return
    const request = Buffer.alloc(NBD_SIZE.REQUEST)
    request.writeUInt32BE(NBD_REQUEST_MAGIC, 0)
    request.writeUInt16BE(NBD_CMD.DISC, 6)
    const closed = new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve())
    })
    this.#socket.resume().end(request)
    await closed
  }
}

/** @returns the size of the export */
async function negotiate(socket: Socket, bytes: ByteReader, name: string): Promise<number> {
  const greeting = await bytes.take(NBD_SIZE.GREETING)
  expectMagic(greeting.readUInt32BE(0), NBD_MAGIC.INIT[0], 'the greeting of an NBD server')
  expectMagic(greeting.readUInt32BE(8), NBD_MAGIC.OPTION[0], 'a newstyle greeting')
  if ((greeting.readUInt16BE(16) & NBD_FLAG.FIXED_NEWSTYLE) === 0) {
    throw broken('the server does not speak fixed newstyle')
  }
  const nameBytes = Buffer.from(name)
  // NBD proto, "NBD_OPT_GO": length of the name, the name, number of information requests
  const data = Buffer.alloc(4 + nameBytes.length + 2)
  data.writeUInt32BE(nameBytes.length, 0)
  nameBytes.copy(data, 4)
  const header = Buffer.alloc(NBD_SIZE.CLIENT_FLAGS + NBD_SIZE.OPTION_HEADER)
  header.writeUInt32BE(NBD_FLAG_C.FIXED_NEWSTYLE | NBD_FLAG_C.NO_ZEROES, 0)
  header.writeUInt32BE(NBD_MAGIC.OPTION[0], 4)
  header.writeUInt32BE(NBD_MAGIC.OPTION[1], 8)
  header.writeUInt32BE(NBD_OPT.GO, 12)
  header.writeUInt32BE(data.length, 16)
  socket.write(Buffer.concat([header, data]))
  return readGoReplies(bytes, name)
}

async function readGoReplies(bytes: ByteReader, name: string): Promise<number> {
  let size: number | undefined
  for (;;) {
    const header = await bytes.take(NBD_SIZE.OPTION_REPLY_HEADER)
    expectMagic(header.readUInt32BE(0), NBD_MAGIC.OPTION_REPLY[0], 'an option reply')
    const type = header.readUInt32BE(12)
    const length = header.readUInt32BE(16)
    if (length > MAX_OPTION_REPLY_BYTES) throw broken(`an option reply of ${length} bytes`)
    const data = await bytes.take(length)
    if (type === NBD_REP.ACK) break
    if (type !== NBD_REP.INFO) {
      const reason = data.length > 0 ? `: ${data.toString('utf8')}` : ''
      throw broken(`'${name}' was refused with ${nameOf(NBD_REP, 'NBD_REP', type)}${reason}`)
    }
    if (data.length >= INFO_EXPORT_BYTES && data.readUInt16BE(0) === NBD_INFO.EXPORT) {
      size = Number(data.readBigUInt64BE(2))
    }
  }
  if (size === undefined) throw broken(`the server did not say how large '${name}' is`)
  return size
}

function expectMagic(actual: number, expected: number, what: string): void {
  if (actual === expected) return
  throw broken(
    `0x${actual.toString(16)} came where ${what} (0x${expected.toString(16)}) was expected`,
  )
}

function broken(message: string): AppError {
  return new AppError('ERR_CLI_NBD', message)
}

/** Exact numbers of bytes from a socket, one reader at a time; a paused socket is the back-pressure. */
class ByteReader {
  readonly #socket: Socket
  #ended: Error | undefined

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', (error) => {
      this.#ended = error
    })
    socket.once('end', () => {
      this.#ended ??= broken('the server closed the connection')
    })
  }

  /** The bytes are the caller's. */
  async take(length: number): Promise<Buffer> {
    if (length === 0) return Buffer.alloc(0)
    const pieces: Buffer[] = []
    let missing = length
    while (missing > 0) {
      const available = this.#socket.readableLength
      const piece =
        available === 0 ? null : (this.#socket.read(Math.min(missing, available)) as Buffer | null)
      if (piece !== null) {
        pieces.push(piece)
        missing -= piece.length
      } else if (this.#ended !== undefined) {
        throw this.#ended
      } else {
        await this.#more()
      }
    }
    const [only] = pieces
    return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces, length)
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      const events = ['readable', 'end', 'error', 'close'] as const
      const settle = (): void => {
        for (const event of events) this.#socket.off(event, settle)
        if (this.#socket.destroyed) this.#ended ??= broken('the connection was closed')
        resolve()
      }
      for (const event of events) this.#socket.once(event, settle)
    })
  }
}
