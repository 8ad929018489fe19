/**
 * The data routes: files, devices and flattened views of images, and blobs. A handler opens the target,
 * plans the answer and gives both to a ByteExchange; Fastify only routes.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'

import { ByteExchange } from '../byte-exchange.ts'
import { HttpConnection } from '../connection.ts'
import type { App, HttpContext, RouteDocs } from '../context.ts'
import { operation } from '../context.ts'
import type { DataTarget } from '../data-target.ts'
import { INNER_ROUTES, parseDataTarget, pathOf } from '../data-target.ts'
import { OpenData, openData } from '../open-data.ts'
import type { OperationId } from '../operations.ts'
import { whenAtHead } from '../pipeline.ts'
import { toAppError } from '../problem.ts'
import { planResponse } from '../response-plan.ts'
import { sendProblem } from '../send-problem.ts'
import type { JsonAnswer } from './files.ts'
import { FilesQuery, openPath } from './files.ts'

const DATA_ERRORS = [
  'ERR_REF_INVALID',
  'ERR_IMAGE_NOT_FOUND',
  'ERR_HTTP_PRECONDITION_FAILED',
  'ERR_HTTP_RANGE_NOT_SATISFIABLE',
  'ERR_HTTP_TOO_MANY_RANGES',
]
const REF = 'DOMAIN/NAME[:TAG] or DOMAIN/NAME@sha256:HEX; its slashes stay as they are'

const DOCS: Readonly<Record<'file' | 'raw' | 'device' | 'blob', RouteDocs>> = {
  file: {
    description:
      'A regular file gives its bytes, a directory its entries as JSON, page by page. The path is ' +
      'percent-encoded once and may hold any byte but NUL; the last symbolic link is followed inside the image.',
    responses: {
      200: 'The bytes, or a DirectoryListing or FileStat',
      206: 'The ranges',
      304: 'Not modified',
    },
    errors: [
      ...DATA_ERRORS,
      'ERR_HTTP_PATH_INVALID',
      'ERR_FILE_NOT_FOUND',
      'ERR_FILE_SPECIAL',
      'ERR_FILE_NOT_DIRECTORY',
      'ERR_IMAGE_NOT_PARSED',
    ],
    pathParams: { ref: REF, path: 'path inside the image, relative to its root' },
    ranges: true,
  },
  raw: {
    responses: { 200: 'The bytes', 206: 'The ranges', 304: 'Not modified' },
    errors: DATA_ERRORS,
    pathParams: { ref: REF },
    ranges: true,
  },
  device: {
    responses: { 200: 'The bytes', 206: 'The ranges', 304: 'Not modified' },
    errors: [...DATA_ERRORS, 'ERR_DEVICE_NOT_FOUND'],
    pathParams: { ref: REF, number: 'slot of the device, from 0' },
    ranges: true,
  },
  blob: {
    responses: { 200: 'The bytes', 206: 'The ranges', 304: 'Not modified' },
    errors: ['ERR_DIGEST_INVALID', 'ERR_BLOB_NOT_FOUND', ...DATA_ERRORS.slice(2)],
    pathParams: { domain: 'share domain', digest: 'sha256:HEX' },
    ranges: true,
  },
}

export function registerDataRoutes(app: App, context: HttpContext): void {
  const routes = new DataRoutes(context)
  app.setErrorHandler((error, request, reply) => {
    const status = sendProblem(request, reply, error)
    routes.count(request, status, 0)
  })
  const handler = routes.handle
  const both = (get: OperationId, head: OperationId, docs: RouteDocs, url: string): void => {
    app.route({ ...operation(get, docs, url), method: 'GET', handler })
    app.route({ ...operation(head, docs, url), method: 'HEAD', handler })
  }
  both('getRaw', 'headRaw', DOCS.raw, INNER_ROUTES.raw)
  both('getDevice', 'headDevice', DOCS.device, INNER_ROUTES.device)
  both('getBlob', 'headBlob', DOCS.blob, '/v1/blobs/:domain/:digest')
  const schema = { querystring: FilesQuery }
  app.route({
    ...operation('getFile', DOCS.file, INNER_ROUTES.files),
    method: 'GET',
    schema,
    handler,
  })
  app.route({
    ...operation('headFile', DOCS.file, INNER_ROUTES.files),
    method: 'HEAD',
    schema,
    handler,
  })
}

/** Queries of other data routes are ignored (registry clients add `?ns=`). */
type DataRequest = FastifyRequest<{ Querystring: FilesQuery }>

class DataRoutes {
  readonly #context: HttpContext

  constructor(context: HttpContext) {
    this.#context = context
  }

  /** The handler of every data route. What is open already is answered without a promise. */
  readonly handle = (request: DataRequest, reply: FastifyReply): unknown => {
    const url = request.originalUrl
    const path = pathOf(url)
    const connection = HttpConnection.of(request.raw.socket)
    if (reply.raw.socket !== null && path.length === url.length) {
      const data = connection.borrow(path)
      if (data !== undefined) {
        this.#answer(request, reply, connection, data)
        return undefined
      }
    }
    return this.#openAndAnswer(request, reply, connection, path)
  }

  count(request: FastifyRequest, status: number, bytes: number): void {
    const id = request.routeOptions.config.operation ?? 'unmatched'
    const seconds = (performance.now() - request.startedAt) / 1000
    this.#context.counters.request(id, status, bytes, seconds)
  }

  async #openAndAnswer(
    request: DataRequest,
    reply: FastifyReply,
    connection: HttpConnection,
    path: string,
  ): Promise<unknown> {
    if (!(await whenAtHead(reply.raw, connection))) return reply.hijack()
    const target = parseDataTarget(path)
    const opened = await this.#open(target, request, connection, path)
    if (opened instanceof OpenData) this.#answer(request, reply, connection, opened)
    else this.#answerJson(request, reply, opened)
    return reply
  }

  async #open(
    target: DataTarget,
    request: DataRequest,
    connection: HttpConnection,
    key: string,
  ): Promise<OpenData | JsonAnswer> {
    const abort = new AbortController()
    const onClose = (): void => abort.abort()
    connection.onClose(onClose)
    try {
      const options = { publicCaching: this.#context.publicCaching, signal: abort.signal }
      const opened =
        target.kind === 'file'
          ? await openPath(this.#context.data, target, request.query, options)
          : await openData(this.#context.data, target, options)
      if (opened instanceof OpenData && namesContent(target)) connection.remember(key, opened)
      return opened
    } finally {
      connection.offClose(onClose)
    }
  }

  #answer(
    request: FastifyRequest,
    reply: FastifyReply,
    connection: HttpConnection,
    data: OpenData,
  ): void {
    let plan
    try {
      plan = planResponse(request.method === 'HEAD', request.headers, data.representation)
    } catch (error) {
      data[Symbol.dispose]()
      throw error
    }
    reply.hijack()
    const finished = (status: number, bytes: number, error: unknown): void => {
      this.count(request, status, bytes)
      if (error !== undefined) this.#logFailure(request, connection, error)
    }
    new ByteExchange(reply.raw, connection, data, request.id, { finished }).send(plan)
  }

  #answerJson(request: FastifyRequest, reply: FastifyReply, answer: JsonAnswer): void {
    answer.owner[Symbol.dispose]()
    const body = `${JSON.stringify(answer.body, null, 2)}\n`
    void reply
      .code(200)
      .header('X-Request-Id', request.id)
      .header('Cache-Control', answer.cacheControl)
      .header('X-Content-Type-Options', 'nosniff')
      .type('application/json; charset=utf-8')
      .send(body)
    this.count(request, 200, request.method === 'HEAD' ? 0 : Buffer.byteLength(body))
  }

  #logFailure(request: FastifyRequest, connection: HttpConnection, error: unknown): void {
    const known = toAppError(error)
    // A write may tell that the client has gone before its connection does.
    if (connection.closed || known.code === 'ERR_ABORTED') {
      this.#context.counters.aborted()
      return
    }
    request.log.error(
      { event: 'http.read_failed', reqId: request.id, code: known.code, err: error },
      `bytes of ${request.originalUrl} could not be served: ${known.message}`,
    )
  }
}

/** True when the URL will mean the same bytes for ever, so that an open handle may answer it again. */
function namesContent(target: DataTarget): boolean {
  return target.kind === 'blob' || target.ref.digest !== undefined
}
