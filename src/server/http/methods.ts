/**
 * Answers what a path does not do: 405 with `Allow` for other methods, 204 with `Allow` for OPTIONS. It
 * watches routes being registered and adds the missing methods of each path at the end.
 */
import type { HTTPMethods, RouteOptions } from 'fastify'

import { AppError } from '../../core/index.ts'
import type { App } from './context.ts'
import { INNER_ROUTES } from './data-target.ts'

const ALL: readonly HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

export class MethodTable {
  readonly #byUrl = new Map<string, Set<string>>()

  readonly record = (route: RouteOptions): void => {
    if (route.config?.operation === undefined) return
    const methods = this.#byUrl.get(route.url) ?? new Set<string>()
    for (const method of [route.method].flat()) methods.add(method)
    this.#byUrl.set(route.url, methods)
  }

  registerOthers(app: App): void {
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _payload, done) => done(null))
    for (const [url, methods] of this.#byUrl) {
      const allow = [...methods, 'OPTIONS'].join(', ')
      app.route({
        method: ALL.filter((method) => !methods.has(method)),
        url,
        handler: (request, reply) => {
          if (request.method === 'OPTIONS') return reply.code(204).header('Allow', allow).send()
          throw new AppError(
            'ERR_HTTP_METHOD_NOT_ALLOWED',
            `${request.originalUrl} has no ${request.method}`,
            { hint: `it has ${allow}`, details: { allow } },
          )
        },
      })
    }
    app.route({
      method: [...ALL],
      url: INNER_ROUTES.unknown,
      handler: (request) => {
        throw new AppError(
          'ERR_HTTP_ROUTE_NOT_FOUND',
          `no route has the path ${request.originalUrl}`,
          {
            hint: 'inside an image there are /-/files/PATH, /-/raw and /-/dev/N',
          },
        )
      },
    })
  }
}
