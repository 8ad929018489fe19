/**
 * Sends an error as the answer of a Fastify request, and logs what is our fault. A request whose body was
 * not read is answered first and its body discarded for a moment, so that the client meets the answer and
 * not a reset connection.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'

import type { FastifyReply, FastifyRequest } from 'fastify'

import type { AppError } from '../../core/index.ts'
import { awaitsContinue } from './expect-continue.ts'
import { LINGER_MS } from './limits.ts'
import { problemResponse, toAppError } from './problem.ts'

/** Statuses of the 5xx class that say what the client asked for, or that it should come back later. */
const NOT_OUR_FAULT = new Set([501, 503, 505, 507])

/** Sends the problem and returns its status. */
export function sendProblem(request: FastifyRequest, reply: FastifyReply, error: unknown): number {
  const known = toAppError(error)
  const problem = problemResponse(known, request.id)
  logFault(request, known, problem.status)
  const headers = [...problem.headers, 'X-Request-Id', request.id]
  if (!request.raw.complete && hasBody(request.raw)) {
    reply.hijack()
    reply.raw.writeHead(problem.status, [...headers, 'Connection', 'close'])
    reply.raw.write(problem.body)
    if (awaitsContinue(request.raw)) reply.raw.end()
    else discardBody(request.raw, reply.raw)
    return problem.status
  }
  void reply.code(problem.status)
  for (let i = 0; i + 1 < headers.length; i += 2)
    void reply.header(headers[i] ?? '', headers[i + 1])
  void reply.send(problem.body)
  return problem.status
}

function hasBody(raw: IncomingMessage): boolean {
  const { 'content-length': length, 'transfer-encoding': encoding } = raw.headers
  return encoding !== undefined || (length !== undefined && length !== '0')
}

function discardBody(raw: IncomingMessage, response: ServerResponse): void {
  const end = (): void => {
    clearTimeout(timer)
    response.end()
  }
  const timer = setTimeout(end, LINGER_MS)
  raw.once('end', end)
  raw.once('close', end)
  raw.resume()
}

function logFault(request: FastifyRequest, error: AppError, status: number): void {
  const fields = { event: 'http.failed', reqId: request.id, code: error.code, err: error }
  if (status >= 500 && !NOT_OUR_FAULT.has(status)) {
    request.log.error(fields, `request failed: ${error.message}`)
  } else {
    request.log.debug(fields, `request refused: ${error.message}`)
  }
}
