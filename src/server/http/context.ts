/** What the routes of one application share: the planes, the counters, and the types that tie them to Fastify. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify'
import type { TSchema } from 'typebox'

import type { ControlPlane, DataPlane } from '../planes.ts'
import type { HttpCounters } from './counters.ts'
import type { HttpTimeouts } from './limits.ts'
import type { EventFeed } from './live-state.ts'
import type { OperationId } from './operations.ts'
import { OPERATIONS } from './operations.ts'

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>

/** What the front end is built from; tests pass planes in memory. */
export interface AppDeps {
  readonly data: DataPlane
  readonly control: ControlPlane
  /** The exposition of the whole process. */
  readonly metrics: () => Promise<{ contentType: string; body: string }>
  readonly events: EventFeed
  /** This thread's row of HTTP_COUNTER_COLUMNS. */
  readonly counters: Float64Array
  readonly version: string
  readonly logger: FastifyBaseLogger
  /** Names under which the server may be asked, besides addresses and localhost; absent: every name. */
  readonly allowedHosts?: readonly string[]
  /** Shared caches may keep what is served: false when reading needs authentication. Default true. */
  readonly publicCaching?: boolean
  /** Serve the dashboard at `/`. Default true. */
  readonly dashboard?: boolean
  /** Overrides of HTTP_TIMEOUTS. */
  readonly timeouts?: Partial<HttpTimeouts>
}

export interface HttpContext extends Omit<AppDeps, 'counters'> {
  readonly counters: HttpCounters
  readonly publicCaching: boolean
  readonly timeouts: HttpTimeouts
}

/** Documentation of a route that OpenAPI needs beyond the schemas that are validated. */
export interface RouteDocs {
  readonly description?: string
  /** JSON bodies by status; a string describes an answer without a JSON body. */
  readonly responses: Readonly<Record<number, TSchema | string>>
  /** Codes of the errors that this route gives besides those of every route. */
  readonly errors?: readonly string[]
  /** Parameters that the handler reads from the raw URL. */
  readonly pathParams?: Readonly<Record<string, string>>
  /** Media type of the request's body when it is not JSON. */
  readonly upload?: string
  /** If-Match and If-None-Match are evaluated: for what is read, or for what would be changed. */
  readonly conditions?: 'read' | 'change'
  /** GET and HEAD with ranges, and with conditions. */
  readonly ranges?: boolean
}

declare module 'fastify' {
  interface FastifyContextConfig {
    operation?: OperationId
    docs?: RouteDocs
  }
  interface FastifyRequest {
    /** performance.now() when the route was entered. */
    startedAt: number
  }
}

/** The router's part of a route: method, URL and identity. JSON routes answer HEAD as they answer GET. */
export function operation(id: OperationId, docs: RouteDocs, url?: string) {
  const { method, path } = OPERATIONS[id]
  return {
    method: method === 'GET' ? ['GET', 'HEAD'] : [method],
    url: url ?? path.replace(/\{(\w+)\}/g, ':$1'),
    config: { operation: id, docs },
  }
}
