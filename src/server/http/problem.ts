/**
 * The one place where an error becomes an HTTP answer: RFC 9457 problem details with a stable code, a hint
 * and the request's id. It decides what a client may see; logging is the caller's.
 */
import { AppError, isAppError } from '../../core/index.ts'
import type { HttpErrorCode } from './errors.ts'
import type { Problem } from './schemas.ts'

const { STATUS_CODES } = process.getBuiltinModule('node:http')

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8'
/** Path under which the codes are explained; `type` links there. */
export const ERRORS_PATH = '/errors'

export interface ProblemResponse {
  readonly status: number
  /** Names and values in turn; Content-Type and Content-Length included. */
  readonly headers: readonly string[]
  readonly body: string
}

/** Seconds after which it makes sense to try again: go-retryablehttp and others wait for it. */
const RETRY_AFTER_SECONDS = '1'

export function problemResponse(error: unknown, requestId: string): ProblemResponse {
  const known = toAppError(error)
  const status = known.definition?.http ?? 500
  const problem: Problem = {
    type: `${ERRORS_PATH}#${known.code.toLowerCase()}`,
    title: status === 499 ? 'Client Closed Request' : (STATUS_CODES[status] ?? 'Error'),
    status,
    code: known.code,
    detail: known.message,
    ...(known.hint === undefined ? {} : { hint: known.hint }),
    requestId,
  }
  const body = `${JSON.stringify(problem, null, 2)}\n`
  const headers = [
    'Content-Type',
    PROBLEM_TYPE,
    'Content-Length',
    String(Buffer.byteLength(body)),
    'Cache-Control',
    'no-store',
    'X-Content-Type-Options',
    'nosniff',
    ...extraHeaders(known, status),
  ]
  return { status, headers, body }
}

/** Every error as one with a code: the framework's own, and bugs, whose text stays in the log. */
export function toAppError(error: unknown): AppError {
  if (isAppError(error)) return error
  const status = statusOf(error)
  const message = error instanceof Error ? error.message : String(error)
  if (status >= 500) {
    return new AppError('ERR_INTERNAL', 'the server failed to answer the request', {
      hint: 'the log of the server has the cause under the same request id',
      cause: error,
    })
  }
  return new AppError(codeOfStatus(status), lowerFirst(message), { cause: error })
}

function extraHeaders(error: AppError, status: number): string[] {
  const size = error.details?.['sizeBytes']
  if (status === 416 && typeof size === 'number') return ['Content-Range', `bytes */${size}`]
  const allow = error.details?.['allow']
  if (status === 405 && typeof allow === 'string') return ['Allow', allow]
  if (status === 503) return ['Retry-After', RETRY_AFTER_SECONDS]
  if (status === 426) return ['Upgrade', 'websocket']
  return []
}

function statusOf(error: unknown): number {
  if (typeof error !== 'object' || error === null || !('statusCode' in error)) return 500
  return typeof error.statusCode === 'number' ? error.statusCode : 500
}

function codeOfStatus(status: number): HttpErrorCode {
  switch (status) {
    case 404:
      return 'ERR_HTTP_ROUTE_NOT_FOUND'
    case 408:
      return 'ERR_HTTP_BODY_TIMEOUT'
    case 413:
      return 'ERR_HTTP_BODY_TOO_LARGE'
    case 415:
      return 'ERR_HTTP_MEDIA_TYPE_UNSUPPORTED'
    default:
      return 'ERR_HTTP_REQUEST_INVALID'
  }
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1)
}
