/**
 * Tells the state of the server to the clients of the live feed: hello and a snapshot, then the changes once
 * a second, numbered. A client that reads too slowly gets no deltas but a fresh snapshot once it has caught
 * up, so nothing ever queues. It knows WebSockets only by `EventSocket`.
 */
import type { FastifyBaseLogger } from 'fastify'

import type { HttpCounters } from './counters.ts'
import {
  EVENT_BACKLOG_BYTES,
  EVENT_CLOSE_MS,
  EVENT_INTERVAL_MS,
  EVENT_PING_MS,
  MAX_EVENT_CLIENTS,
} from './limits.ts'
import type { EventFeed, LiveState } from './live-state.ts'
import { mergePatch } from './live-state.ts'

/** The part of a WebSocket that the hub uses. */
export interface EventSocket {
  readonly bufferedAmount: number
  send(text: string): void
  ping(): void
  close(code: number, reason: string): void
  terminate(): void
}

export interface EventHubOptions {
  readonly feed: EventFeed
  readonly counters: HttpCounters
  readonly version: string
  readonly logger: FastifyBaseLogger
  /** ms */
  readonly intervalMs?: number
}

interface Subscriber {
  readonly socket: EventSocket
  /** It missed a delta: only a snapshot makes sense to it. */
  behind: boolean
  answered: boolean
}

/** RFC 6455 §7.4.1 */
const GOING_AWAY = 1001

export class EventHub {
  readonly #options: EventHubOptions
  readonly #subscribers = new Map<EventSocket, Subscriber>()
  #sequence = 0
  #state: LiveState | undefined
  #timer: NodeJS.Timeout | undefined
  #pings: NodeJS.Timeout | undefined
  #sampling = false

  constructor(options: EventHubOptions) {
    this.#options = options
  }

  get full(): boolean {
    return this.#subscribers.size >= MAX_EVENT_CLIENTS
  }

  /** Adds a client; it gets hello at once and the snapshot with the next sample. */
  add(socket: EventSocket): void {
    const { version, intervalMs = EVENT_INTERVAL_MS } = this.#options
    this.#subscribers.set(socket, { socket, behind: true, answered: true })
    this.#options.counters.eventClients(1)
    socket.send(JSON.stringify({ type: 'hello', protocol: 1, version, intervalMs }))
    if (this.#timer === undefined) {
      this.#timer = setInterval(() => this.#tick(), intervalMs)
      this.#pings = setInterval(() => this.#ping(), EVENT_PING_MS)
    }
    this.#tick()
  }

  remove(socket: EventSocket): void {
    if (!this.#subscribers.delete(socket)) return
    this.#options.counters.eventClients(-1)
    if (this.#subscribers.size === 0) this.#stop()
  }

  /** The client lost count and asks for everything again. */
  resync(socket: EventSocket): void {
    const subscriber = this.#subscribers.get(socket)
    if (subscriber !== undefined) subscriber.behind = true
  }

  pong(socket: EventSocket): void {
    const subscriber = this.#subscribers.get(socket)
    if (subscriber !== undefined) subscriber.answered = true
  }

  /** Ends every subscription: the server is going away. Clients that do not answer are cut off. */
  close(): void {
    const sockets = [...this.#subscribers.keys()]
    for (const socket of sockets) {
      socket.close(GOING_AWAY, 'the server is going away')
      this.remove(socket)
    }
    setTimeout(() => sockets.forEach((socket) => socket.terminate()), EVENT_CLOSE_MS).unref()
  }

  #stop(): void {
    clearInterval(this.#timer)
    clearInterval(this.#pings)
    this.#timer = undefined
    this.#pings = undefined
    this.#state = undefined
  }

  #tick(): void {
    if (this.#sampling) return // a slow sample is not followed by a second one
    this.#sampling = true
    void this.#sample()
  }

  async #sample(): Promise<void> {
    try {
      const state = await this.#options.feed.snapshot()
      if (this.#subscribers.size > 0) this.#publish(state)
    } catch (error) {
      this.#options.logger.warn(
        { event: 'events.sample_failed', err: error },
        'live state could not be read',
      )
    } finally {
      this.#sampling = false
    }
  }

  #publish(state: LiveState): void {
    const patch = this.#state === undefined ? undefined : mergePatch(this.#state, state)
    this.#state = state
    const seq = ++this.#sequence
    // An empty patch goes out as well: it tells the client that the state is fresh.
    const delta = JSON.stringify({ type: 'delta', seq, patch: patch ?? {} })
    let snapshot: string | undefined
    for (const subscriber of this.#subscribers.values()) {
      if (subscriber.socket.bufferedAmount > EVENT_BACKLOG_BYTES) {
        subscriber.behind = true
        this.#options.counters.eventDropped()
      } else if (subscriber.behind) {
        snapshot ??= JSON.stringify({ type: 'snapshot', seq, state })
        subscriber.behind = false
        subscriber.socket.send(snapshot)
      } else {
        subscriber.socket.send(delta)
      }
    }
  }

  #ping(): void {
    for (const subscriber of this.#subscribers.values()) {
      if (subscriber.answered) {
        subscriber.answered = false
        subscriber.socket.ping()
      } else {
        subscriber.socket.terminate()
        this.remove(subscriber.socket)
      }
    }
  }
}
