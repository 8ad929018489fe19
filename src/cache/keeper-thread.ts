/**
 * The keeper in a thread: connects a Keeper to message ports and a timer. Decides nothing.
 */
import type { MessagePort } from 'node:worker_threads'

import { toErrorRecord } from '../core/index.ts'
import { Keeper, type KeeperOptions } from './keeper.ts'
import type { CacheMemory } from './memory.ts'
import type {
  ControlAnswer,
  ControlMessage,
  FillReport,
  PortRole,
  ReaderRequest,
} from './messages.ts'

export interface KeeperThreadOptions extends KeeperOptions {
  readonly memory: CacheMemory
  /** The other end is a KeeperClient's. */
  readonly port: MessagePort
}

/** Serves until the control port closes. */
export function runKeeper({ memory, port, ...options }: KeeperThreadOptions): Keeper {
  const keeper = new Keeper(memory, options)
  const timer = new PollTimer(keeper)
  port.on('message', (message: ControlMessage & { port?: MessagePort }) => {
    if (message.type === 'call') void call(keeper, port, message).finally(() => timer.arm())
    else if (message.port !== undefined) connect(keeper, message.role, message.port, timer)
  })
  return keeper
}

/** Calls `poll` when the keeper asks for it; a timer that runs is left alone unless it would be late. */
class PollTimer {
  readonly #keeper: Keeper
  #timer: NodeJS.Timeout | undefined
  #delayMs = Infinity

  constructor(keeper: Keeper) {
    this.#keeper = keeper
  }

  arm(): void {
    const delayMs = this.#keeper.pollInMs ?? Infinity
    if (delayMs >= this.#delayMs) return
    clearTimeout(this.#timer)
    this.#delayMs = delayMs
    this.#timer = setTimeout(() => {
      this.#delayMs = Infinity
      this.#keeper.poll()
      this.arm()
    }, delayMs)
  }
}

function connect(keeper: Keeper, role: PortRole, port: MessagePort, timer: PollTimer): void {
  if (role === 'filler') {
    port.on('message', (reports: FillReport[]) => {
      keeper.fromFiller(reports)
      timer.arm()
    })
    keeper.addFiller((message) => port.postMessage(message))
  } else {
    const reader = keeper.addReader((answers) => port.postMessage(answers))
    port.on('message', (requests: ReaderRequest[]) => {
      keeper.fromReader(reader, requests)
      timer.arm()
    })
  }
}

async function call(
  keeper: Keeper,
  port: MessagePort,
  { id, name, args }: ControlMessage & { type: 'call' },
): Promise<void> {
  let answer: ControlAnswer
  try {
    const method = keeper[name] as (...args: readonly unknown[]) => unknown
    answer = { id, result: await method.apply(keeper, args as unknown[]) }
  } catch (error) {
    answer = { id, error: toErrorRecord(error) }
  }
  port.postMessage(answer)
}
