/**
 * Keeps pages of other sites from using a visitor's browser against this server (it often listens on
 * loopback, where the network gives no protection). Requests without browser headers pass.
 */
import type { FastifyRequest } from 'fastify'

import { AppError } from '../../core/index.ts'

/** True without an Origin header, or when it names the host that was asked. */
export function isSameOrigin(request: FastifyRequest): boolean {
  const { origin, host } = request.headers
  if (origin === undefined) return true
  return URL.parse(origin)?.host === host
}

/** Methods that change something are refused from other sites. @throws ERR_HTTP_CROSS_SITE */
export function refuseCrossSite(request: FastifyRequest): void {
  if (request.method === 'GET' || request.method === 'HEAD') return
  const site = request.headers['sec-fetch-site']
  const foreign = site === 'cross-site' || site === 'same-site'
  if (!foreign && isSameOrigin(request)) return
  throw new AppError('ERR_HTTP_CROSS_SITE', `${request.method} from another site is refused`)
}
