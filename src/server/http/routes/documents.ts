/** The server's own documents: the OpenAPI description and the list of error codes that problems link to. */
import { errorDefinitions } from '../../../core/index.ts'
import type { App } from '../context.ts'
import { operation } from '../context.ts'
import type { RouteRecorder } from '../openapi.ts'
import { renderOpenApi } from '../openapi.ts'

const ERRORS_CSP = "default-src 'none'; style-src 'unsafe-inline'"

export function registerDocumentRoutes(app: App, recorder: RouteRecorder, version: string): void {
  let openApi: string | undefined
  app.route({
    ...operation('getOpenApi', { responses: { 200: 'OpenAPI 3.1' } }),
    handler: (_request, reply) => {
      openApi ??= renderOpenApi(recorder.routes, version)
      return reply
        .type('application/json; charset=utf-8')
        .header('Cache-Control', 'no-cache')
        .send(openApi)
    },
  })
  app.route({
    ...operation('getErrors', { responses: { 200: 'HTML for browsers, plain text otherwise' } }),
    handler: (request, reply) => {
      const html = (request.headers.accept ?? '').includes('text/html')
      void reply.header('Cache-Control', 'no-cache').header('Vary', 'Accept')
      if (!html) return reply.type('text/plain; charset=utf-8').send(errorsText())
      return reply
        .type('text/html; charset=utf-8')
        .header('Content-Security-Policy', ERRORS_CSP)
        .send(errorsHtml())
    },
  })
}

function errorsText(): string {
  return errorDefinitions()
    .map(([code, { http = 500, doc }]) => `${code}  (${http})\n  ${doc}\n`)
    .join('\n')
}

function errorsHtml(): string {
  const rows = errorDefinitions().map(
    ([code, { http = 500, doc }]) =>
      `<dt id="${code.toLowerCase()}"><code>${code}</code> <small>${http}</small></dt><dd>${escapeHtml(doc)}</dd>`,
  )
  return [
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Commonpage errors</title>',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}',
    'dt{margin-top:1rem}dd{margin:0}:target{outline:2px solid;outline-offset:.3rem}</style>',
    `<h1>Error codes</h1><dl>${rows.join('')}</dl></html>`,
    '',
  ].join('\n')
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`)
}
