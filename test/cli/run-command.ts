/** Runs a command line in this process with streams in memory, as the tests see the command. */
import { PassThrough, Readable, Writable } from 'node:stream'

import { runCli } from '../../src/cli/index.ts'

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface CommandInput {
  readonly env?: Readonly<Record<string, string>>
  /** What the user types; makes stdin a terminal. */
  readonly typed?: string
  readonly signal?: AbortSignal
}

export async function runCommand(
  args: readonly string[],
  input: CommandInput = {},
): Promise<CommandResult> {
  const stdout = new Collector()
  const stderr = new Collector()
  const stdin =
    input.typed === undefined
      ? Readable.from([])
      : Object.assign(new PassThrough(), { isTTY: true as const })
  if (stdin instanceof PassThrough) stdin.end(input.typed)
  const code = await runCli(args, {
    stdin,
    stdout,
    stderr,
    env: { PATH: process.env['PATH'], ...input.env },
    signal: input.signal ?? new AbortController().signal,
  })
  return { code, stdout: stdout.text, stderr: stderr.text }
}

class Collector extends Writable {
  #pieces: Buffer[] = []

  override _write(piece: Buffer, _encoding: string, done: () => void): void {
    this.#pieces.push(piece)
    done()
  }

  get text(): string {
    return Buffer.concat(this.#pieces).toString('utf8')
  }
}
