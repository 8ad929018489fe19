/** Answers what is no HTTP request at all, on the socket itself: node's parser gave up before any route. */
import type { Socket } from 'node:net'
import { STATUS_CODES } from 'node:http'

import { AppError } from '../../core/index.ts'
import { MAX_HEADER_BYTES } from './limits.ts'
import { problemResponse } from './problem.ts'

export function writeClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable || isAnswering(socket)) {
    socket.destroy(error)
    return
  }
  const { status, headers, body } = problemResponse(toHttpError(error), '-')
  const lines = [`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Error'}`, 'Connection: close']
  for (let i = 0; i + 1 < headers.length; i += 2) lines.push(`${headers[i]}: ${headers[i + 1]}`)
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`)
}

function toHttpError(error: Error & { code?: string }): AppError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError(
        'ERR_HTTP_HEADERS_TOO_LARGE',
        `the request line and headers are longer than ${MAX_HEADER_BYTES} bytes`,
        { hint: 'ask for fewer ranges at once' },
      )
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('ERR_HTTP_BODY_TIMEOUT', 'the request was not complete in time')
    default:
      return new AppError(
        'ERR_HTTP_MALFORMED',
        `the request is not HTTP/1.1: ${error.message.toLowerCase()}`,
      )
  }
}

/** A response is on its way already: anything written now would land in its middle (node checks the same). */
function isAnswering(
  socket: Socket & { _httpMessage?: { headersSent?: boolean } | null },
): boolean {
  return socket._httpMessage?.headersSent === true
}
