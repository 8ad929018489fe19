/**
 * Runs one command line and gives its exit code, whatever happens. It loads no more than the command at hand
 * needs; what a command does is elsewhere.
 */
import type { Command } from 'commander'

import { AppError, isAppError } from '../core/index.ts'
import type { CliContext } from './context.ts'
import { EXIT } from './errors.ts'
import { Interruption } from './interruption.ts'
import { errorToJson, exitCodeOf, renderError } from './render/error.ts'
import { createStyle } from './render/style.ts'
import { readVersion } from './version.ts'

/** Runs one command line (without `node` and the script). @returns the exit code; never throws */
export async function runCli(args: readonly string[], context: CliContext): Promise<number> {
  let program: Command | undefined
  try {
    const { buildProgram, FIRST_SCREEN } = await import('./program.ts')
    if (args.length === 0) {
      context.stdout.write(FIRST_SCREEN)
      return EXIT.ok
    }
    program = buildProgram({
      context,
      version: readVersion(),
      fullHelp: args.includes('--help'),
    })
    await program.parseAsync([...args], { from: 'user' })
    return EXIT.ok
  } catch (error) {
    return report(error, program, args, context)
  }
}

/** A server that was told to end and did not end in order says so, and does not pass for one that did. */
const BAD_ENDS: ReadonlySet<string> = new Set(['ERR_SERVER_DRAIN', 'ERR_SERVER_THREAD'])

async function report(
  error: unknown,
  program: Command | undefined,
  args: readonly string[],
  context: CliContext,
): Promise<number> {
  const stopped: unknown = context.signal.aborted ? context.signal.reason : undefined
  const badEnd = isAppError(error) && BAD_ENDS.has(error.code)
  if (stopped instanceof Interruption && !badEnd) return stopped.exitCode
  const reason = usageError(badEnd ? error : (stopped ?? error), program, args)
  if (reason === HELP_WAS_SHOWN) return EXIT.ok
  if (reason === COMMAND_MISSING) return EXIT.usage
  // what each code means to a shell stands with the code, whichever module registered it
  if (isAppError(reason) && reason.definition === undefined)
    await import('../server/error-tables.ts')
  if (args.includes('--json')) {
    context.stderr.write(`${JSON.stringify(errorToJson(reason))}\n`)
  } else {
    const color = args.includes('--no-color') ? false : undefined
    const style = createStyle(context.stderr, context.env, color)
    context.stderr.write(`${renderError(reason, style)}\n`)
  }
  return exitCodeOf(reason)
}

/** Outcomes for which commander has printed the help already. */
const HELP_WAS_SHOWN = Symbol('help was asked for')
const COMMAND_MISSING = Symbol('a group of commands was named, and none of them')

/** commander's complaints in our form. */
function usageError(
  error: unknown,
  program: Command | undefined,
  args: readonly string[],
): unknown {
  if (!(error instanceof Error && 'code' in error && 'exitCode' in error)) return error
  const { code, exitCode } = error
  if (typeof code !== 'string' || !code.startsWith('commander.')) return error
  if (exitCode === 0) return HELP_WAS_SHOWN
  if (code === 'commander.help') return COMMAND_MISSING
  const [text = '', suggestion] = error.message.replace(/^error: /, '').split('\n')
  const message = text.replace('. Allowed choices are ', ', expected one of ').replace(/\.$/, '')
  const nearest = suggestion?.replace(/^\((.*)\)$/, '$1').replace(/^Did you/, 'did you')
  const command = commandOf(program, args)
  const hint = nearest ?? `commonpage ${command} --help shows what is expected`
  return new AppError('ERR_CLI_USAGE', message, { hint })
}

/** The names of the command that the line begins with, as far as there is one: `import erofs`. */
function commandOf(program: Command | undefined, args: readonly string[]): string {
  const names: string[] = []
  let group = program
  for (const arg of args) {
    group = group?.commands.find((command) => command.name() === arg)
    if (group === undefined) break
    names.push(arg)
  }
  return names.length === 0 ? 'COMMAND' : names.join(' ')
}
