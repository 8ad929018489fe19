/**
 * An NBD client with several reads under way: replies are matched by their cookie, and it can stop taking bytes,
 * as a client that hangs does.
 */
import { once } from 'node:events'
import { connect } from 'node:net'

import { NBD_CMD, NBD_OPT } from '../../../src/nbd/index.ts'
import { option, request, WireClient } from '../../nbd/wire.ts'

/** NBD_OPT_EXPORT_NAME's answer: size and flags. */
const EXPORT_REPLY_BYTES = 10

export interface NbdAddress {
  readonly host: string
  readonly port: number
}

interface Pending {
  readonly length: number
  readonly resolve: (bytes: Buffer) => void
  readonly reject: (error: unknown) => void
}

export class NbdClient implements AsyncDisposable {
  /** Bytes of the export. */
  readonly size: number
  readonly #wire: WireClient
  readonly #pending = new Map<bigint, Pending>()
  #lastCookie = 0n
  #received = 0
  #ended: Error | undefined

  private constructor(wire: WireClient, size: number) {
    this.#wire = wire
    this.size = size
    void this.#receive()
  }

  static async open(address: NbdAddress, name: string): Promise<NbdClient> {
    const socket = connect({ ...address, noDelay: true })
    try {
      const wire = await WireClient.over(socket)
      await wire.greet()
      wire.send(option(NBD_OPT.EXPORT_NAME, Buffer.from(name)))
      const size = (await wire.read(EXPORT_REPLY_BYTES)).readBigUInt64BE(0)
      return new NbdClient(wire, Number(size))
    } catch (error) {
      socket.destroy()
      throw new Error(`open ${name}`, { cause: error })
    }
  }

  /** Bytes of all answers. */
  get received(): number {
    return this.#received
  }

  read(offset: number, length: number): Promise<Buffer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    const cookie = ++this.#lastCookie
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
    this.#pending.set(cookie, { length, resolve, reject })
    this.#wire.send(request({ cookie, offset, length }))
    return promise
  }

  /** Takes no bytes until resume(). */
  pause(): void {
    this.#wire.stream.pause()
  }

  resume(): void {
    this.#wire.stream.resume()
  }

  /** Says goodbye and waits for the end. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { stream } = this.#wire
    if (stream.destroyed) return
    const closed = once(stream, 'close')
    stream.resume().end(request({ type: NBD_CMD.DISC }))
    await closed
  }

  /** Until the connection ends, whoever ends it. */
  async #receive(): Promise<void> {
    try {
      for (;;) {
        const { cookie, error, data } = await this.#wire.simple((of) => this.#asked(of).length)
        const { resolve, reject } = this.#asked(cookie)
        this.#pending.delete(cookie)
        this.#received += data.length
        if (error === 0) resolve(data)
        else reject(new Error(`errno ${error}`))
      }
    } catch (error) {
      this.#ended = new Error('the connection ended', { cause: error })
      this.#wire.stream.destroy()
      for (const { reject } of this.#pending.values()) reject(this.#ended)
      this.#pending.clear()
    }
  }

  #asked(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie)
    if (pending === undefined) throw new Error(`a reply to cookie ${cookie}, which nobody sent`)
    return pending
  }
}
