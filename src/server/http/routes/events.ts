/** `/v1/events`: the live feed over WebSocket. Only upgrades and bounds; what is sent is the hub's business. */
import type { FastifyRequest } from 'fastify'

import { AppError } from '../../../core/index.ts'
import type { App } from '../context.ts'
import { operation } from '../context.ts'
import type { EventHub } from '../event-hub.ts'
import { isSameOrigin } from '../same-origin.ts'

export function registerEventRoutes(app: App, hub: EventHub): void {
  app.route({
    ...operation('getEvents', {
      description:
        'Messages are JSON: hello, snapshot {seq, state}, then delta {seq, patch} each second, where patch is ' +
        'a JSON Merge Patch (RFC 7396). After a gap in seq send {"type":"resync"}.',
      responses: { 101: 'The feed starts' },
      errors: ['ERR_HTTP_UPGRADE_REQUIRED', 'ERR_HTTP_EVENTS_EXHAUSTED', 'ERR_HTTP_CROSS_SITE'],
    }),
    method: 'GET',
    preValidation: (request, _reply, done) => done(refusal(request, hub)),
    handler: () => {
      throw new AppError('ERR_HTTP_UPGRADE_REQUIRED', 'the event feed needs a WebSocket upgrade', {
        hint: 'poll /v1/stats and /v1/sharing instead',
      })
    },
    wsHandler: (socket) => {
      socket.on('message', () => hub.resync(socket)) // resync is all that a client can ask for
      socket.on('pong', () => hub.pong(socket))
      socket.on('close', () => hub.remove(socket))
      hub.add(socket)
    },
  })
}

function refusal(request: FastifyRequest, hub: EventHub): AppError | undefined {
  if (!isSameOrigin(request)) {
    return new AppError(
      'ERR_HTTP_CROSS_SITE',
      `the origin ${request.headers.origin} is not this server`,
    )
  }
  if (hub.full) {
    return new AppError('ERR_HTTP_EVENTS_EXHAUSTED', 'too many clients follow the event feed')
  }
  return undefined
}
