/** A client that writes bytes and reads responses off one socket, for what fetch would not send. */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'

export interface RawResponse {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: Buffer
}

export class RawClient implements AsyncDisposable {
  readonly socket: Socket
  /** What came and was not taken: `#length` bytes of a buffer that doubles. */
  #store = Buffer.alloc(1 << 12)
  #length = 0
  #ended = false
  readonly #waiting: (() => void)[] = []

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.#append(chunk)
      for (const wake of this.#waiting.splice(0)) wake()
    })
    socket.on('close', () => {
      this.#ended = true
      for (const wake of this.#waiting.splice(0)) wake()
    })
    socket.on('error', () => undefined) // 'close' follows
  }

  static async open(port: number): Promise<RawClient> {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    return new RawClient(socket)
  }

  send(text: string): void {
    this.socket.write(text, 'latin1')
  }

  get(path: string, headers: Record<string, string> = {}): void {
    const lines = Object.entries({ host: 'localhost', ...headers }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    )
    this.send(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
  }

  /** The next response with its body by Content-Length; undefined when the connection ended before its end. */
  async next(options: { readonly head?: boolean } = {}): Promise<RawResponse | undefined> {
    const headEnd = await this.#until(() => this.#received.indexOf('\r\n\r\n'))
    if (headEnd === undefined) return undefined
    const [statusLine = '', ...lines] = this.#received.toString('latin1', 0, headEnd).split('\r\n')
    const headers = new Map(
      lines.map((line) => [
        line.slice(0, line.indexOf(':')).toLowerCase(),
        line.slice(line.indexOf(':') + 2),
      ]),
    )
    const status = Number(statusLine.split(' ')[1])
    const bodyless = status < 200 || status === 204 || status === 304 || options.head === true
    const length = bodyless ? 0 : Number(headers.get('content-length') ?? 0)
    const end = headEnd + 4 + length
    const complete = await this.#until(() => (this.#received.length >= end ? end : -1))
    if (complete === undefined) return undefined
    const body = Buffer.from(this.#received.subarray(headEnd + 4, end))
    this.#store.copyWithin(0, end, this.#length)
    this.#length -= end
    return { status, headers, body }
  }

  /** Resolves when some header has come, without taking it. */
  async headArrived(): Promise<boolean> {
    return (await this.#until(() => this.#received.indexOf('\r\n\r\n'))) !== undefined
  }

  async ended(): Promise<void> {
    await this.#until(() => -1)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await this.ended()
  }

  get #received(): Buffer {
    return this.#store.subarray(0, this.#length)
  }

  #append(chunk: Buffer): void {
    const needed = this.#length + chunk.length
    if (needed > this.#store.length) {
      const before = this.#received
      this.#store = Buffer.alloc(Math.max(needed, 2 * this.#store.length))
      before.copy(this.#store)
    }
    chunk.copy(this.#store, this.#length)
    this.#length = needed
  }

  async #until(found: () => number): Promise<number | undefined> {
    for (;;) {
      const at = found()
      if (at >= 0) return at
      if (this.#ended) return undefined
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }
}
