/**
 * Refuses on the socket itself what never becomes a request: node's parser gave up, or the method is CONNECT.
 * The refusal takes its turn behind the answers that the connection still owes, and ends the connection.
 */
import type { Socket } from 'node:net'

import { AppError } from '../../core/index.ts'
import { LINGER_MS, MAX_HEADER_BYTES } from './limits.ts'
import { afterAnswers, pendingResponse } from './pipeline.ts'
import { problemResponse } from './problem.ts'

const { STATUS_CODES } = process.getBuiltinModule('node:http')

/** Connections that are being refused: node reports each further chunk that they send. */
const refused = new WeakSet<Socket>()

export function writeClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET') socket.destroy(error)
  else refuseConnection(socket, toHttpError(error))
}

/** Answers with the problem and closes; what the client still sends is discarded for a moment. */
export function refuseConnection(socket: Socket, error: AppError): void {
  if (refused.has(socket)) return
  refused.add(socket)
  // With CONNECT node has taken its own listener away, and a client may leave before it is answered.
  socket.on('error', () => socket.destroy())
  afterAnswers(socket, () => {
    if (!socket.writable) {
      socket.destroy()
    } else if (pendingResponse(socket)?.headersSent === true) {
      socket.destroySoon() // the request was refused already while its body came: one answer is enough
    } else {
      socket.end(asText(error))
      const timer = setTimeout(() => socket.destroy(), LINGER_MS)
      socket.once('close', () => clearTimeout(timer))
    }
  })
}

function asText(error: AppError): string {
  const { status, headers, body } = problemResponse(error, '-')
  const lines = [`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Error'}`, 'Connection: close']
  for (let i = 0; i + 1 < headers.length; i += 2) lines.push(`${headers[i]}: ${headers[i + 1]}`)
  return `${lines.join('\r\n')}\r\n\r\n${body}`
}

function toHttpError(error: Error & { code?: string }): AppError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError(
        'ERR_HTTP_HEADERS_TOO_LARGE',
        `the request line and headers are longer than ${MAX_HEADER_BYTES} bytes, or too many`,
        { hint: 'ask for fewer ranges at once' },
      )
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('ERR_HTTP_HEADERS_TIMEOUT', 'the request was not complete in time')
    case 'HPE_INVALID_URL':
      return new AppError(
        'ERR_HTTP_MALFORMED',
        'the request target has a byte that is not allowed in it',
        { hint: 'percent-encode all bytes of a path that are not ASCII letters, digits or -._~' },
      )
    default:
      return new AppError(
        'ERR_HTTP_MALFORMED',
        `the request is not HTTP/1.1: ${error.message.toLowerCase()}`,
      )
  }
}
