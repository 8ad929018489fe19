/** Why a command was stopped from outside, and the exit code that says so. */
import { EXIT } from './errors.ts'

/** The reason that the root signal is aborted with. Nothing is printed for it. */
export class Interruption extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode: number) {
    super(message)
    this.name = 'Interruption'
    this.exitCode = exitCode
  }

  static bySignal(signal: 'SIGINT' | 'SIGTERM'): Interruption {
    return new Interruption(signal, signal === 'SIGINT' ? EXIT.interrupted : EXIT.terminated)
  }

  /**
   * The reader of stdout left (`commonpage … | head`): it has what it wants, so this is no failure, and
   * a shell with `pipefail` must not see one.
   */
  static byReader(): Interruption {
    return new Interruption('the reader of the output left', EXIT.ok)
  }
}
