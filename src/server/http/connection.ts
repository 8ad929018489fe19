/**
 * What the front end keeps for one client connection: the target that it opened last (so that a run of
 * ranges keeps one handle, with its state of readahead), who waits for its end, and how many requests
 * queue behind another. It reads and writes nothing.
 */
import type { Socket } from 'node:net'

import type { OpenData } from './open-data.ts'

const connections = new WeakMap<Socket, HttpConnection>()

export class HttpConnection {
  /** Requests that wait behind another response of this connection. */
  waiting = 0
  #closed = false
  readonly #onClose = new Set<() => void>()
  #recent: { readonly key: string; readonly data: OpenData } | undefined

  static of(socket: Socket): HttpConnection {
    let connection = connections.get(socket)
    if (connection === undefined) {
      connection = new HttpConnection()
      connections.set(socket, connection)
      // Of a socket that ended before, no event will tell.
      if (socket.destroyed) connection.#close()
      else socket.once('close', connection.#close)
    }
    return connection
  }

  get closed(): boolean {
    return this.#closed
  }

  /** The target opened last, if it is `key`; the caller disposes what it gets. */
  borrow(key: string): OpenData | undefined {
    return this.#recent?.key === key ? this.#recent.data.retain() : undefined
  }

  /** Keeps `data` for the next request. `key` has to name content, not a tag that may move. */
  remember(key: string, data: OpenData): void {
    if (this.#closed) return
    const before = this.#recent
    this.#recent = { key, data: data.retain() }
    before?.data[Symbol.dispose]()
  }

  /** Runs `callback` once when the connection ends, unless it is taken back by `offClose`. */
  onClose(callback: () => void): void {
    this.#onClose.add(callback)
  }

  offClose(callback: () => void): void {
    this.#onClose.delete(callback)
  }

  readonly #close = (): void => {
    this.#closed = true
    const recent = this.#recent
    this.#recent = undefined
    for (const callback of this.#onClose) callback()
    this.#onClose.clear()
    recent?.data[Symbol.dispose]()
  }
}
