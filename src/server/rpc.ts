/**
 * Requests, answers and notices between the threads of one process, over a MessagePort. Both ends may call.
 * A call is answered or failed exactly once; the number of calls under way is bounded. Messages arrive in the
 * order in which they were sent. What is called decides on deadlines: the other end is a thread of this
 * process, and its end is the end of the process.
 */
import type { MessagePort, Worker } from 'node:worker_threads'

import type { ErrorRecord } from '../core/index.ts'
import { AppError, fromErrorRecord, toErrorRecord } from '../core/index.ts'

/** More calls than a data worker's connections can have open at once: beyond it something is stuck. */
const MAX_PENDING_CALLS = 65_536

export type RpcHandler = (...args: never[]) => unknown
export type RpcHandlers = Readonly<Record<string, RpcHandler>>

type RpcPort = Pick<MessagePort | Worker, 'postMessage'> & {
  on(event: 'message', listener: (message: unknown) => void): unknown
}

interface CallMessage {
  readonly rpc: 'call'
  readonly id: number
  readonly method: string
  readonly args: unknown[]
}
/** A call that nobody waits for. */
interface NoticeMessage {
  readonly rpc: 'notice'
  readonly method: string
  readonly args: unknown[]
}
interface AnswerMessage {
  readonly rpc: 'answer'
  readonly id: number
  readonly value?: unknown
  readonly error?: ErrorRecord
}

interface PendingCall {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

export class RpcPeer {
  readonly #port: RpcPort
  readonly #handlers: RpcHandlers
  readonly #pending = new Map<number, PendingCall>()
  #nextId = 1
  #closed: Error | undefined

  constructor(port: RpcPort, handlers: RpcHandlers) {
    this.#port = port
    this.#handlers = handlers
    port.on('message', (message) => this.#receive(message))
  }

  /** Calls the other end. @throws what the handler threw, as an AppError with the same code */
  call<T>(method: string, ...args: unknown[]): Promise<T> {
    if (this.#closed) return Promise.reject(this.#closed)
    if (this.#pending.size >= MAX_PENDING_CALLS) {
      return Promise.reject(
        new AppError(
          'ERR_SERVER_BUSY',
          `${this.#pending.size} calls between threads are under way`,
        ),
      )
    }
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      this.#port.postMessage({ rpc: 'call', id, method, args } satisfies CallMessage)
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject })
    })
  }

  /** Tells the other end something and wants no answer. Nothing happens once this end is closed. */
  notify(method: string, ...args: unknown[]): void {
    if (this.#closed) return
    this.#port.postMessage({ rpc: 'notice', method, args } satisfies NoticeMessage)
  }

  /** Fails everything under way and all later calls. */
  close(reason: Error): void {
    this.#closed = reason
    for (const call of this.#pending.values()) call.reject(reason)
    this.#pending.clear()
  }

  #receive(message: unknown): void {
    if (is<CallMessage>(message, 'call')) void this.#serve(message)
    else if (is<AnswerMessage>(message, 'answer')) this.#settle(message)
    else if (is<NoticeMessage>(message, 'notice')) this.#take(message)
  }

  /** An error in here is a bug of this process and ends the thread: there is nobody to tell. */
  #take({ method, args }: NoticeMessage): void {
    this.#handler(method)(...args)
  }

  /** @throws ERR_INTERNAL */
  #handler(method: string): (...args: unknown[]) => unknown {
    const handler = this.#handlers[method]
    if (handler) return handler as (...args: unknown[]) => unknown
    throw new AppError('ERR_INTERNAL', `no handler for '${method}' between threads`)
  }

  async #serve(message: CallMessage): Promise<void> {
    const { id } = message
    try {
      const value = await this.#handler(message.method)(...message.args)
      this.#port.postMessage({ rpc: 'answer', id, value } satisfies AnswerMessage)
    } catch (error) {
      this.#port.postMessage({
        rpc: 'answer',
        id,
        error: toErrorRecord(error),
      } satisfies AnswerMessage)
    }
  }

  #settle(message: AnswerMessage): void {
    const call = this.#pending.get(message.id)
    if (!call) return
    this.#pending.delete(message.id)
    if (message.error) call.reject(fromErrorRecord(message.error))
    else call.resolve(message.value)
  }
}

function is<M extends { readonly rpc: string }>(message: unknown, kind: M['rpc']): message is M {
  return typeof message === 'object' && message !== null && 'rpc' in message && message.rpc === kind
}
