/**
 * What a command may touch of the process: streams, environment, signal. Commands get it passed in, so that
 * tests run them without a process; only main.ts makes one from the real thing.
 */
import type { Readable, Writable } from 'node:stream'

import { createStyle } from './render/style.ts'
import type { Style } from './render/style.ts'

/** The part of a terminal or pipe that commands use. */
export interface OutputStream extends Writable {
  readonly isTTY?: boolean
  readonly columns?: number
}

export interface CliContext {
  readonly stdin: Readable & { readonly isTTY?: boolean }
  readonly stdout: OutputStream
  readonly stderr: OutputStream
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted by Ctrl-C, SIGTERM or a reader that left. */
  readonly signal: AbortSignal
}

/** Options that every command has. */
export interface GlobalOptions {
  readonly quiet?: boolean
  /** commander's form of --no-color. */
  readonly color?: boolean
  readonly server?: string
}

/** A command's view: the context plus what the global options say about output. */
export class Output {
  readonly context: CliContext
  readonly style: Style
  readonly errorStyle: Style
  readonly #quiet: boolean

  constructor(context: CliContext, options: GlobalOptions) {
    this.context = context
    this.#quiet = options.quiet === true
    this.style = createStyle(context.stdout, context.env, options.color)
    this.errorStyle = createStyle(context.stderr, context.env, options.color)
  }

  get quiet(): boolean {
    return this.#quiet
  }

  /** The result: to stdout, resolved when the reader has room again. */
  async print(text: string): Promise<void> {
    await write(this.context.stdout, text.endsWith('\n') ? text : `${text}\n`, this.context.signal)
  }

  async printJson(value: unknown): Promise<void> {
    await this.print(JSON.stringify(value, null, 2))
  }

  /** Talk: to stderr, unless --quiet. */
  say(text: string): void {
    if (!this.#quiet) this.context.stderr.write(`${text}\n`)
  }
}

/** Writes and waits while the reader is behind. Rejects with the signal's reason when the command ends. */
export async function write(
  stream: Writable,
  data: string | Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted()
  if (stream.write(data)) return
  await new Promise<void>((resolve, reject) => {
    const settle = (): void => {
      stream.off('drain', settle)
      stream.off('close', settle)
      signal.removeEventListener('abort', settle)
      if (signal.aborted)
        reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
      else resolve()
    }
    stream.once('drain', settle)
    stream.once('close', settle)
    signal.addEventListener('abort', settle, { once: true })
  })
}
