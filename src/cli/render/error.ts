/**
 * Errors as the user of the command line meets them, and the exit code that goes with each. The one
 * boundary where the command line translates errors.
 */
import { isAppError } from '../../core/index.ts'
import { EXIT } from '../errors.ts'
import { PLAIN_STYLE } from './style.ts'
import type { Style } from './style.ts'
import { escapeName } from './text.ts'

/** Exit codes for problems whose code is not known here (a newer server), by HTTP status. */
const EXIT_BY_STATUS: Readonly<Record<number, number>> = {
  400: EXIT.usage,
  401: EXIT.refused,
  403: EXIT.refused,
  404: EXIT.notFound,
  409: EXIT.refused,
  411: EXIT.usage,
  412: EXIT.refused,
  413: EXIT.refused,
  415: EXIT.usage,
  416: EXIT.usage,
  422: EXIT.usage,
  429: EXIT.refused,
  503: EXIT.refused,
  507: EXIT.refused,
}

export function exitCodeOf(error: unknown): number {
  if (!isAppError(error)) return EXIT.failure
  const defined = error.definition?.exit
  if (defined !== undefined) return defined
  const status = error.details?.['status']
  return (typeof status === 'number' ? EXIT_BY_STATUS[status] : undefined) ?? EXIT.failure
}

/** `error[CODE]: message` and the hint on its own line; an unknown error shows its stack, for the report. */
export function renderError(error: unknown, style: Style = PLAIN_STYLE): string {
  if (!isAppError(error)) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return `${style.red('error[ERR_INTERNAL]:')} ${text}\n${style.cyan('hint:')} this is a bug in commonpage: please report it`
  }
  const message = error.message.split('\n').map(escapeName).join('\n')
  const lines = [`${style.red(`error[${error.code}]:`)} ${message}`]
  if (error.hint !== undefined) lines.push(`${style.cyan('hint:')} ${escapeName(error.hint)}`)
  return lines.join('\n')
}

/** The same for `--json`: one object on stderr, so that stdout stays the result. */
export function errorToJson(error: unknown): object {
  if (!isAppError(error)) {
    return { error: { code: 'ERR_INTERNAL', message: String(error), exit: EXIT.failure } }
  }
  return {
    error: {
      code: error.code,
      message: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      exit: exitCodeOf(error),
    },
  }
}
