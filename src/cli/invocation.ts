/** One run of one command: its output, and the server that it talks to, made when first used. */
import type { Command } from 'commander'

import { ApiClient, chooseServer } from './api/client.ts'
import { Output } from './context.ts'
import type { CliContext, GlobalOptions } from './context.ts'

export interface CommandOptions extends GlobalOptions {
  readonly json?: boolean
}

export class Invocation {
  readonly context: CliContext
  readonly output: Output
  readonly json: boolean
  readonly #server: string | undefined
  #client: ApiClient | undefined

  constructor(context: CliContext, options: CommandOptions) {
    this.context = context
    this.output = new Output(context, options)
    this.json = options.json === true
    this.#server = options.server
  }

  get signal(): AbortSignal {
    return this.context.signal
  }

  /** @throws ERR_CLI_SERVER_URL */
  get client(): ApiClient {
    this.#client ??= new ApiClient(chooseServer(this.#server, this.context.env), this.signal)
    return this.#client
  }
}

/** Makes the invocation of a command that was parsed. */
export type Invoke = (command: Command) => Invocation
