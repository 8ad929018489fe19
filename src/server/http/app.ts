/**
 * Puts the HTTP front end together: one Fastify instance with its limits, hooks and routes, each registered
 * by name. It starts nothing: whoever calls `listen` on the result decides where it is reachable.
 */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

import websocket from '@fastify/websocket'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import fastify, { LogController } from 'fastify'
import type { FastifyReply, FastifyRequest } from 'fastify'

import { AppError } from '../../core/index.ts'
import { loadDashboard } from '../../dashboard/index.ts'
import { AllowedHosts } from './allowed-hosts.ts'
import { refuseConnection, writeClientError } from './client-error.ts'
import { HttpConnection } from './connection.ts'
import type { App, AppDeps, HttpContext } from './context.ts'
import { HttpCounters } from './counters.ts'
import { authorityOf, pathOf, routeUrl } from './data-target.ts'
import { EventHub } from './event-hub.ts'
import { registerJsonBodies } from './json-body.ts'
import { expectContinue, sendContinue } from './expect-continue.ts'
import {
  EVENT_CLOSE_MS,
  HTTP_TIMEOUTS,
  KEEP_ALIVE_TIMEOUT_MS,
  MAX_EVENT_MESSAGE_BYTES,
  MAX_HEADER_BYTES,
  MAX_JSON_BODY_BYTES,
  MAX_PARAM_LENGTH,
  REQUEST_TIMEOUT_MS,
  TIMEOUT_CHECK_MS,
} from './limits.ts'
import { MethodTable } from './methods.ts'
import { RouteRecorder } from './openapi.ts'
import { OPERATIONS } from './operations.ts'
import { pendingResponse, whenAtHead } from './pipeline.ts'
import { problemResponse, toAppError } from './problem.ts'
import { checkRequest } from './request-check.ts'
import { registerDataRoutes } from './routes/data.ts'
import { registerDocumentRoutes } from './routes/documents.ts'
import { registerEventRoutes } from './routes/events.ts'
import { registerHealthRoutes } from './routes/health.ts'
import { registerImageRoutes } from './routes/images.ts'
import { registerOverviewRoutes } from './routes/overview.ts'
import { registerReportRoutes } from './routes/reports.ts'
import { registerUploadRoutes } from './routes/uploads.ts'
import { refuseCrossSite } from './same-origin.ts'
import { sendProblem } from './send-problem.ts'
import { WaitingBodyRequest } from './waiting-body.ts'

/** The application, ready for `listen` (which passes `reusePort` on) or `inject`. */
export async function buildApp(deps: AppDeps): Promise<App> {
  const context: HttpContext = {
    ...deps,
    counters: new HttpCounters(deps.counters),
    publicCaching: deps.publicCaching ?? true,
    timeouts: { ...HTTP_TIMEOUTS, ...deps.timeouts },
  }
  const app = createInstance(context)
  const recorder = new RouteRecorder()
  const methods = new MethodTable()
  app.decorateRequest('startedAt', 0)
  app.addHook('onRoute', recorder.record)
  app.addHook('onRoute', methods.record)
  const hub = new EventHub({
    feed: deps.events,
    counters: context.counters,
    version: deps.version,
    logger: deps.logger,
  })
  await app.register(websocket, {
    options: { maxPayload: MAX_EVENT_MESSAGE_BYTES },
    // Frames that are none are the client's fault, which it is told (RFC 6455 §7.1.7) before the cut.
    errorHandler: (error, socket, request) => {
      request.log.debug({ event: 'events.client_error', err: error }, 'a feed was ended')
      setTimeout(() => socket.terminate(), EVENT_CLOSE_MS).unref()
    },
    preClose: (done) => closeFeed(app, hub, done),
  })
  const hosts = deps.allowedHosts === undefined ? undefined : new AllowedHosts(deps.allowedHosts)
  // Behind the hook of the WebSocket plugin, which ends the socket of an upgrade that is refused.
  app.addHook('onRequest', (request, reply, done) => {
    request.startedAt = performance.now()
    // node drops what came in one piece with a declined upgrade: nothing may follow on this connection.
    if (request.headers.upgrade !== undefined) reply.raw.setHeader('Connection', 'close')
    checkRequest(request.raw, request.originalUrl)
    hosts?.check(request.headers.host)
    hosts?.check(authorityOf(request.originalUrl))
    done()
  })
  await app.register((scope) => registerDataRoutes(scope, context))
  const files = deps.dashboard === false ? undefined : await loadDashboard()
  await app.register((scope) => {
    addAnswerHooks(scope, context)
    registerJsonBodies(scope, context.timeouts.jsonBodyMs)
    registerImageRoutes(scope, context)
    registerReportRoutes(scope, context)
    registerHealthRoutes(scope, context)
    registerDocumentRoutes(scope, recorder, deps.version)
    registerEventRoutes(scope, hub)
    registerOverviewRoutes(scope, context, files)
  })
  await app.register((scope) => {
    addAnswerHooks(scope, context)
    registerUploadRoutes(scope, context)
  })
  await app.register((scope) => {
    addAnswerHooks(scope, context)
    methods.registerOthers(scope)
  })
  // Hooks of the root would run in every scope, so the two handlers of the root do their own counting.
  app.setErrorHandler((error, request, reply) => {
    countProblem(context, request, sendProblem(request, reply, error))
  })
  app.setNotFoundHandler((request, reply) => {
    countProblem(context, request, sendProblem(request, reply, notFound(request)))
  })
  await app.ready()
  return app
}

function createInstance({ logger, timeouts }: HttpContext): App {
  const app = fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    bodyLimit: MAX_JSON_BODY_BYTES,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    connectionTimeout: timeouts.connectionMs,
    requestTimeout: REQUEST_TIMEOUT_MS,
    http: {
      IncomingMessage: WaitingBodyRequest,
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: timeouts.headersMs,
      connectionsCheckingInterval: Math.min(TIMEOUT_CHECK_MS, timeouts.headersMs),
      requireHostHeader: false, // checkRequest refuses with a problem
      shouldUpgradeCallback: isEventUpgrade,
    },
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    genReqId: requestIds(),
    rewriteUrl: (request) => routeUrl(request.url ?? '/'),
    clientErrorHandler: (error, socket) => writeClientError(error, socket),
    frameworkErrors: (error, request, reply) => {
      void sendProblem(request, reply, error)
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.removeContentTypeParser('text/plain')
  app.setReplySerializer((payload) => `${JSON.stringify(payload, null, 2)}\n`)
  app.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    expectContinue(request)
    app.routing(request, response)
  })
  app.server.on('connect', ({ url }: IncomingMessage, socket: Socket) => {
    refuseConnection(socket, new AppError('ERR_HTTP_METHOD_UNKNOWN', `no tunnel to ${url} is made`))
  })
  app.server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) => {
    const error = new AppError(
      'ERR_HTTP_EXPECTATION_FAILED',
      `expect: ${request.headers.expect} is not supported`,
    )
    const problem = problemResponse(error, '-')
    response
      .writeHead(problem.status, [...problem.headers, 'Connection', 'close'])
      .end(problem.body)
  })
  return app
}

/**
 * Only the feed is another protocol. Everything else is answered in HTTP/1.1, as if the client had not offered
 * to change (RFC 9110 §7.8; `Upgrade: h2c` comes with ordinary requests), and so is an upgrade that would
 * overtake answers that the connection still owes.
 */
function isEventUpgrade({ method, url = '', headers, socket }: IncomingMessage): boolean {
  return (
    method === 'GET' &&
    pathOf(url) === OPERATIONS.getEvents.path &&
    headers.upgrade?.toLowerCase() === 'websocket' &&
    pendingResponse(socket) === undefined
  )
}

/** Hooks of all routes but the data routes, which do the same by hand. */
function addAnswerHooks(app: App, context: HttpContext): void {
  app.addHook('onRequest', (request, reply, done) => {
    void reply.header('X-Request-Id', request.id).header('X-Content-Type-Options', 'nosniff')
    refuseCrossSite(request)
    if (reply.raw.socket === null) void takeTurn(request, reply, done)
    else done()
  })
  app.addHook('preParsing', (request, reply, payload, done) => {
    // Uploads have content type '*' and give the go-ahead themselves, after admission.
    if (app.hasContentTypeParser('application/json')) sendContinue(request.raw, reply.raw)
    done(null, payload)
  })
  app.addHook('onResponse', (request, reply, done) => {
    const length = Number(reply.getHeader('content-length') ?? 0)
    const bytes = request.method === 'HEAD' ? 0 : length
    const seconds = (performance.now() - request.startedAt) / 1000
    const id = request.routeOptions.config.operation ?? 'unmatched'
    context.counters.request(id, reply.statusCode, bytes, seconds)
    done()
  })
  app.setErrorHandler((error, request, reply) => {
    sendProblem(request, reply, error)
  })
}

function countProblem(context: HttpContext, request: FastifyRequest, status: number): void {
  const id = request.routeOptions.config.operation ?? 'unmatched'
  const seconds = (performance.now() - request.startedAt) / 1000
  context.counters.request(id, status, 0, seconds)
}

/** Goes on when the answers to the requests before this one have left; not at all when the client has. */
async function takeTurn(
  request: FastifyRequest,
  reply: FastifyReply,
  done: (error?: Error) => void,
): Promise<void> {
  try {
    if (await whenAtHead(reply.raw, HttpConnection.of(request.raw.socket))) done()
    else reply.hijack()
  } catch (error) {
    done(toAppError(error))
  }
}

/** Short ids, unique in the life of the process; a well-formed X-Request-Id of the client is kept. */
function requestIds(): (request: { headers: IncomingMessage['headers'] }) => string {
  const prefix = randomBytes(4).toString('hex')
  let count = 0
  return ({ headers }) => {
    const given = headers['x-request-id']
    if (typeof given === 'string' && /^[\w.:-]{1,64}$/.test(given)) return given
    return `${prefix}-${(count++).toString(36)}`
  }
}

function notFound(request: FastifyRequest): AppError {
  return new AppError('ERR_HTTP_ROUTE_NOT_FOUND', `no route has the path ${request.originalUrl}`, {
    hint: 'GET /openapi.json lists all routes',
  })
}

function closeFeed(app: App, hub: EventHub, done: () => void): void {
  hub.close()
  app.websocketServer.close()
  done()
}
