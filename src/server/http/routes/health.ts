/**
 * Liveness and readiness as the Kubernetes API server answers them: the status code is the contract, the
 * text is for people. `/metrics` stands beside them because the same machines ask for it.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type } from 'typebox'

import type { App, HttpContext } from '../context.ts'
import { operation } from '../context.ts'

const ReadyQuery = Type.Object({
  verbose: Type.Optional(Type.String({ description: 'present: one line for each check' })),
  exclude: Type.Optional(
    Type.Union([Type.String(), Type.Array(Type.String(), { maxItems: 100 })], {
      description: 'names of checks to leave out',
    }),
  ),
})

export function registerHealthRoutes(app: App, context: HttpContext): void {
  app.route({
    ...operation('getLivez', { responses: { 200: 'The loop answers' } }),
    handler: (_request, reply) => text(reply, 'ok\n'),
  })
  const docs = { responses: { 200: 'Ready', 503: 'Not ready: the failed checks, one a line' } }
  for (const id of ['getReadyz', 'getHealthz'] as const) {
    app.route({
      ...operation(id, docs),
      schema: { querystring: ReadyQuery },
      handler: async (request, reply) => {
        const { verbose, exclude = [] } = request.query
        const excluded = new Set(Array.isArray(exclude) ? exclude : [exclude])
        const checks = await context.control.readiness()
        const rows = checks.map((check) => ({ ...check, excluded: excluded.has(check.name) }))
        const ready = rows.every((row) => row.ok || row.excluded)
        void reply.code(ready ? 200 : 503)
        if (wantsJson(request)) return { ready, checks: rows }
        return text(reply, readyText(rows, ready, verbose !== undefined))
      },
    })
  }
  app.route({
    ...operation('getMetrics', { responses: { 200: 'The Prometheus exposition' } }),
    handler: async (_request, reply) => {
      const { contentType, body } = await context.metrics()
      return reply.type(contentType).header('Cache-Control', 'no-store').send(body)
    },
  })
}

interface CheckRow {
  readonly name: string
  readonly ok: boolean
  readonly reason?: string
  readonly excluded: boolean
}

function readyText(rows: readonly CheckRow[], ready: boolean, verbose: boolean): string {
  if (ready && !verbose) return 'ok\n'
  const lines = rows.map((row) => {
    if (row.excluded) return `[+]${row.name} excluded: ok`
    return row.ok
      ? `[+]${row.name} ok`
      : `[-]${row.name} failed: ${row.reason ?? 'no reason given'}`
  })
  return [...lines, `readyz check ${ready ? 'passed' : 'failed'}`, ''].join('\n')
}

function wantsJson(request: FastifyRequest): boolean {
  return (request.headers.accept ?? '').includes('application/json')
}

function text(reply: FastifyReply, body: string): FastifyReply {
  return reply.type('text/plain; charset=utf-8').header('Cache-Control', 'no-store').send(body)
}
