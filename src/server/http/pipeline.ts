/**
 * Turns of the requests of one connection (RFC 9112 §9.3.2): answers leave in the order of the requests, so a
 * request that is behind another does nothing and holds nothing until the answers before it have gone. It
 * knows neither routes nor bytes.
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

import { AppError } from '../../core/index.ts'
import type { HttpConnection } from './connection.ts'
import { MAX_PIPELINED } from './limits.ts'

/**
 * True when the response is the one that its connection sends now, false when the connection ended first.
 * @throws ERR_HTTP_PIPELINE_FULL when too many wait already
 */
export function whenAtHead(response: ServerResponse, connection: HttpConnection): Promise<boolean> {
  if (response.socket !== null) return Promise.resolve(true)
  if (connection.closed) return Promise.resolve(false)
  if (connection.waiting >= MAX_PIPELINED) return Promise.reject(pipelineFull())
  connection.waiting++
  return new Promise((resolve) => {
    const settle = (): void => {
      response.off('socket', settle)
      connection.offClose(settle)
      connection.waiting--
      resolve(!connection.closed)
    }
    response.once('socket', settle)
    connection.onClose(settle)
  })
}

/** The response that the connection is to send now, if a request on it is not answered yet. */
export function pendingResponse(socket: Socket): ServerResponse | undefined {
  // node keeps it here, and its own handling of malformed requests looks for it here as well
  const { _httpMessage: response } = socket as Socket & { _httpMessage?: ServerResponse | null }
  return response ?? undefined
}

/**
 * Calls `then` when every complete request of the connection is answered. A request whose body is still
 * missing is not waited for: without the rest of the connection it will never be complete.
 */
export function afterAnswers(socket: Socket, then: () => void): void {
  const pending = pendingResponse(socket)
  if (pending === undefined || !pending.req.complete) then()
  else pending.once('close', () => afterAnswers(socket, then))
}

function pipelineFull(): AppError {
  return new AppError(
    'ERR_HTTP_PIPELINE_FULL',
    `${MAX_PIPELINED} requests wait on this connection already`,
  )
}
