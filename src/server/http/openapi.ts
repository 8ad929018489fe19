/**
 * OpenAPI 3.1 from the routes themselves: the schemas that validate requests and describe answers, and the
 * operations' names. Deterministic, so that the committed document shows every change of the API.
 */
import type { RouteOptions } from 'fastify'
import { IsSchema } from 'typebox'
import type { TSchema } from 'typebox'

import type { RouteDocs } from './context.ts'
import type { Operation, OperationId } from './operations.ts'
import { OPERATIONS } from './operations.ts'
import { Problem } from './schemas.ts'

export interface RecordedRoute {
  readonly id: OperationId
  readonly docs: RouteDocs
  readonly query: TSchema | undefined
  readonly body: TSchema | undefined
}

/** Collects routes while they are registered. */
export class RouteRecorder {
  readonly routes: RecordedRoute[] = []

  readonly record = (route: RouteOptions): void => {
    const { operation: id, docs } = route.config ?? {}
    if (id === undefined || docs === undefined) return
    const { querystring, body } = route.schema ?? {}
    this.routes.push({
      id,
      docs,
      query: IsSchema(querystring) ? querystring : undefined,
      body: IsSchema(body) ? body : undefined,
    })
  }
}

type Json = Record<string, unknown>

const PROBLEM_REF = { $ref: '#/components/schemas/Problem' }
const RANGE_HEADERS: readonly [string, string][] = [
  ['Range', 'bytes=FIRST-LAST, FIRST-, -SUFFIX, up to 1,024 of them, answered in their order'],
  ['If-Match', 'entity tag that the bytes must have, else 412'],
  ['If-None-Match', 'entity tag that the client has: 304 when it is current'],
  ['If-Range', 'entity tag under which Range applies, else everything is sent'],
]

const CONDITION_HEADERS: Readonly<Record<'read' | 'change', readonly [string, string][]>> = {
  read: [
    ['If-Match', 'entity tag that the reference must have, else 412'],
    ['If-None-Match', 'entity tag that the client has: 304 when it is current'],
  ],
  change: [
    ['If-Match', 'entity tag that the reference must have when it is changed, else 412'],
    ['If-None-Match', '* for a tag that must not exist yet, or an entity tag, else 412'],
  ],
}

/** The document as indented JSON with a final newline. */
export function renderOpenApi(routes: readonly RecordedRoute[], version: string): string {
  const components = new Map<string, Json>()
  const paths: Record<string, Record<string, Json>> = {}
  for (const route of routes.toSorted((a, b) => order(a.id) - order(b.id))) {
    const { path, method } = OPERATIONS[route.id]
    paths[path] = { ...paths[path], [method.toLowerCase()]: describeRoute(route, components) }
  }
  components.set('Problem', plain(Problem, components, true))
  const document = {
    openapi: '3.1.0',
    info: {
      title: 'Commonpage',
      version,
      summary: 'EROFS images over NBD and HTTP from one page cache per domain',
      description:
        'Sizes are bytes, times RFC 3339 in UTC. Errors are RFC 9457 problem details with a stable code. ' +
        'Every answer has an X-Request-Id.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(Object.values(OPERATIONS).map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: Object.fromEntries([...components].toSorted(([a], [b]) => (a < b ? -1 : 1))),
    },
  }
  return `${JSON.stringify(document, null, 2)}\n`
}

function order(id: OperationId): number {
  return Object.keys(OPERATIONS).indexOf(id)
}

function describeRoute(route: RecordedRoute, components: Map<string, Json>): Json {
  const { docs } = route
  const { tag, summary, path }: Operation = OPERATIONS[route.id]
  const parameters = [
    ...[...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => ({
      name,
      in: 'path',
      required: true,
      description: docs.pathParams?.[name] ?? name,
      schema: { type: 'string' },
    })),
    ...queryParameters(route.query, components),
    ...(docs.conditions === undefined
      ? []
      : CONDITION_HEADERS[docs.conditions].map(headerParameter)),
    ...(docs.ranges === true ? RANGE_HEADERS.map(headerParameter) : []),
  ]
  return {
    operationId: route.id,
    summary,
    ...(docs.description === undefined ? {} : { description: docs.description }),
    tags: [tag],
    ...(parameters.length === 0 ? {} : { parameters }),
    ...requestBody(route, components),
    responses: describeResponses(docs, components),
  }
}

function queryParameters(query: TSchema | undefined, components: Map<string, Json>): Json[] {
  if (query === undefined || !('properties' in query)) return []
  const required = new Set(
    'required' in query && Array.isArray(query.required) ? query.required : [],
  )
  return Object.entries(Object(query.properties)).map(([name, value]) => {
    const { description, ...schema } = plain(value, components)
    return {
      name,
      in: 'query',
      required: required.has(name),
      ...(description === undefined ? {} : { description }),
      schema,
    }
  })
}

function headerParameter([name, description]: readonly [string, string]): Json {
  return { name, in: 'header', required: false, description, schema: { type: 'string' } }
}

function requestBody(route: RecordedRoute, components: Map<string, Json>): Json {
  if (route.docs.upload !== undefined) {
    return { requestBody: { required: true, content: { [route.docs.upload]: {} } } }
  }
  if (route.body === undefined) return {}
  const schema = plain(route.body, components)
  return { requestBody: { required: true, content: { 'application/json': { schema } } } }
}

function describeResponses(docs: RouteDocs, components: Map<string, Json>): Json {
  const responses: Record<string, Json> = {}
  for (const [status, body] of Object.entries(docs.responses)) {
    responses[status] =
      typeof body === 'string'
        ? { description: body }
        : {
            description: 'OK',
            content: { 'application/json': { schema: plain(body, components) } },
          }
  }
  const codes = docs.errors ?? []
  const description =
    codes.length === 0 ? 'The request failed' : `The request failed: ${codes.join(', ')}`
  responses['default'] = {
    description,
    content: { 'application/problem+json': { schema: PROBLEM_REF } },
  }
  return responses
}

/** A schema as plain JSON, those with `$id` as references to components. */
function plain(schema: unknown, components: Map<string, Json>, inline = false): Json {
  const visit = (value: unknown, top: boolean): unknown => {
    if (Array.isArray(value)) return value.map((item) => visit(item, false))
    if (typeof value !== 'object' || value === null) return value
    const entries = Object.entries(value).filter(([key]) => !key.startsWith('~'))
    const id = entries.find(([key]) => key === '$id')?.[1]
    const copy = Object.fromEntries(
      entries.filter(([key]) => key !== '$id').map(([key, item]) => [key, visit(item, false)]),
    )
    if (typeof id !== 'string' || (top && inline)) return copy
    components.set(id, copy)
    return { $ref: `#/components/schemas/${id}` }
  }
  return Object(visit(schema, true)) as Json
}
