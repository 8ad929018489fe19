/** `/`: the dashboard for browsers, a short status in plain text for `curl`; and the dashboard's files. */
import { Type } from 'typebox'

import { AppError, formatDuration, formatSize } from '../../../core/index.ts'
import type { DashboardFile } from '../../../dashboard/index.ts'
import type { App, HttpContext } from '../context.ts'
import { operation } from '../context.ts'
import { evaluatePreconditions } from '../conditional.ts'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Stats } from '../schemas.ts'

/** Only the page's own script, style and feed: nothing inline, nothing from elsewhere, no frames. */
const PAGE_CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

export function registerOverviewRoutes(
  app: App,
  context: HttpContext,
  files: ReadonlyMap<string, DashboardFile> | undefined,
): void {
  const page = files?.get('index.html')
  app.route({
    ...operation('getOverview', { responses: { 200: 'HTML, or plain text' } }),
    handler: async (request, reply) => {
      void reply.header('Vary', 'Accept')
      if (page !== undefined && (request.headers.accept ?? '').includes('text/html')) {
        return sendFile(request, reply, page)
      }
      const text = statusText(await context.control.stats(), request.headers.host ?? 'HOST:PORT')
      return reply.type('text/plain; charset=utf-8').header('Cache-Control', 'no-store').send(text)
    },
  })
  app.route({
    ...operation('getAsset', {
      responses: { 200: 'The file', 304: 'Not modified' },
      pathParams: { file: 'name of the file' },
    }),
    schema: { params: Type.Object({ file: Type.String({ maxLength: 100 }) }) },
    handler: (request, reply) => {
      const file = files?.get(request.params.file)
      if (file === undefined) {
        throw new AppError(
          'ERR_HTTP_ROUTE_NOT_FOUND',
          `the dashboard has no file '${request.params.file}'`,
        )
      }
      return sendFile(request, reply, file)
    },
  })
}

function sendFile(request: FastifyRequest, reply: FastifyReply, file: DashboardFile): FastifyReply {
  void reply
    .header('ETag', file.etag)
    .header('Cache-Control', 'no-cache')
    .header('Content-Security-Policy', PAGE_CSP)
    .header('Referrer-Policy', 'no-referrer')
  if (evaluatePreconditions(request.headers, file.etag) === 'not-modified')
    return reply.code(304).send()
  return reply.type(file.contentType).send(file.body)
}

function statusText(stats: Stats, host: string): string {
  const { cache, servedBytes, storeReadBytes } = stats
  const domains = stats.domains.length
  const rows: [string, string][] = [
    ['served', servedText(servedBytes, storeReadBytes)],
    ['memory', `${formatSize(cache.residentBytes)} of ${formatSize(cache.capacityBytes)}`],
    ['images', `${stats.images} in ${domains} ${domains === 1 ? 'domain' : 'domains'}`],
    ['clients', String(stats.clients.length)],
  ]
  const tries = ['/v1/images', '/v1/sharing', '/openapi.json'].map(
    (path) => `  curl http://${host}${path}`,
  )
  return [
    `commonpage ${stats.version}, up ${formatDuration(stats.uptimeSeconds * 1000)}`,
    ...rows.map(([name, value]) => `${name.padEnd(9)}${value}`),
    '',
    'try',
    ...tries,
    '',
  ].join('\n')
}

function servedText(served: number, read: number): string {
  if (read === 0) return `${formatSize(served)}, none of it read from the store`
  const factor = (served / read).toFixed(served / read < 10 ? 1 : 0)
  return `${formatSize(served)}, ${formatSize(read)} read from the store: ${factor} times from one memory`
}
