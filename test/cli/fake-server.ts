/**
 * A small HTTP server that answers as the API does, from values in memory. Every JSON body is checked against
 * the API's own schemas before it is sent, so the tests of the command cannot drift from the API.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TSchema } from 'typebox'
import { Value } from 'typebox/value'

import * as schemas from '../../src/server/http/schemas.ts'

export const HEX_A = `sha256:${'a1'.repeat(32)}` as const
export const HEX_B = `sha256:${'b2'.repeat(32)}` as const
const NOW = '2026-11-23T08:00:00Z'

export interface Received {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

/** Answers a request, or returns false to leave it to the built-in answers. */
export type Override = (
  request: IncomingMessage,
  response: ServerResponse,
) => boolean | Promise<boolean>

export interface FakeServer extends AsyncDisposable {
  readonly url: string
  readonly received: Received[]
  images: schemas.Image[]
  override: Override
}

export function makeImage(ref: string, digest: string = HEX_A): schemas.Image {
  const [domain = '', rest = ''] = ref.split(/\/(.*)/s)
  const [name = '', tag = 'latest'] = rest.split(':')
  return {
    ref,
    domain,
    name,
    tag,
    digest,
    logicalBytes: 11_534_336,
    sizeBytes: 12_582_912,
    devices: [{ sizeBytes: 12_582_912, digest, extents: 345 }],
    origin: { source: 'upload' },
    filesystem: 'erofs',
    inodes: 1234,
    blockSizeBytes: 4096,
    features: ['sb_chksum'],
    updatedAt: NOW,
    nbdExport: `${domain}/${name}@${digest}`,
  }
}

export function makeReport(ref: string): schemas.ImportReport {
  return {
    ref,
    digest: HEX_B,
    sizeBytes: 10_485_760,
    logicalBytes: 10_000_000,
    newBytes: 1_048_576,
    sharedBytes: 9_437_184,
    zeroBytes: 0,
    sharedWith: [{ ref: 'demo/base:1', bytes: 9_437_184 }],
    filesystem: 'erofs',
    inodes: 900,
    notes: [],
  }
}

export function makeJob(ref: string, state: schemas.Job['state']): schemas.Job {
  return {
    id: 'job-1',
    kind: 'import',
    ref,
    state,
    phase: 'writing',
    doneBytes: 5,
    totalBytes: 10,
    createdAt: NOW,
    ...(state === 'done' ? { finishedAt: NOW, report: makeReport(ref) } : {}),
  }
}

export const SHARING: schemas.Sharing = {
  epochStartedAt: NOW,
  images: [
    row('demo/base:1', HEX_A, 104_857_600, 104_857_600, 0),
    row('demo/application:1', HEX_B, 110_100_480, 5_242_880, 1678),
  ],
  unattributedBytes: 0,
  broughtInBytes: 110_100_480,
  residentBytes: 110_100_480,
  capacityBytes: 1_073_741_824,
}

function row(
  ref: string,
  digest: string,
  touchedBytes: number,
  addedBytes: number,
  sharedHits: number,
): schemas.SharingRow {
  return {
    ref,
    domain: 'demo',
    digest,
    touchedBytes,
    addedBytes,
    sharedHits,
    residentBytes: touchedBytes,
  }
}

export const DISK_USAGE: schemas.DiskUsage = {
  images: [
    usage('demo/base:1', HEX_A, 10_485_760, 8_388_608),
    usage('demo/application:1', HEX_B, 1_048_576, 1_048_576),
  ],
  totals: {
    logicalBytes: 22_020_096,
    storedBytes: 11_534_336,
    residentBytes: 4096,
    images: 2,
    blobs: 2,
  },
}

function usage(ref: string, digest: string, logical: number, unique: number) {
  return {
    ref,
    digest,
    logicalBytes: logical,
    storedBytes: logical,
    uniqueBytes: unique,
    sharedBytes: logical - unique,
    residentBytes: 4096,
  }
}

export function sendJson(
  response: ServerResponse,
  schema: TSchema,
  body: unknown,
  status = 200,
): true {
  assert.ok(Value.Check(schema, body), `the fake answers as the API: ${JSON.stringify(body)}`)
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8' })
  response.end(JSON.stringify(body))
  return true
}

export function sendProblem(
  response: ServerResponse,
  status: number,
  code: string,
  detail: string,
  hint?: string,
): true {
  const problem = {
    type: `/errors#${code.toLowerCase()}`,
    title: code,
    status,
    code,
    detail,
    requestId: 'r1',
    ...(hint === undefined ? {} : { hint }),
  }
  assert.ok(Value.Check(schemas.Problem, problem))
  response.writeHead(status, { 'content-type': 'application/problem+json' })
  response.end(JSON.stringify(problem))
  return true
}

export async function startFakeServer(): Promise<FakeServer> {
  const received: Received[] = []
  const fake = {
    received,
    images: [makeImage('demo/base:1'), makeImage('demo/application:1', HEX_B)],
    override: (() => false) as Override,
  }
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (await fake.override(request, response)) return
    if (request.headers.expect === '100-continue') response.writeContinue()
    const body = Buffer.concat((await request.toArray()) as Buffer[])
    const { method = '', url = '', headers } = request
    received.push({ method, url, headers, body })
    answer(fake.images, { method, url, headers, body }, response)
  }
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    handle(request, response).catch((error: unknown) => response.destroy(error as Error))
  }
  // without this listener Node sends 100 by itself, before anybody could refuse
  const server = createServer(listener).on('checkContinue', listener)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  return Object.assign(fake, {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  })
}

function answer(
  images: readonly schemas.Image[],
  { method, url, body }: Received,
  response: ServerResponse,
): true {
  const { pathname } = new URL(url, 'http://fake')
  if (method === 'POST' && pathname.startsWith('/v1/blobs/')) {
    const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`
    const stored = { digest, sizeBytes: body.length, created: true }
    return sendJson(response, schemas.BlobStored, stored, 201)
  }
  if (pathname === '/v1/images') return sendJson(response, schemas.ImageList, { images })
  if (pathname === '/v1/domains') {
    const domains = [...new Set(images.map(({ domain }) => domain))]
    return sendJson(response, schemas.DomainList, { domains })
  }
  if (pathname === '/v1/du') return sendJson(response, schemas.DiskUsage, DISK_USAGE)
  if (pathname.startsWith('/v1/sharing')) return sendJson(response, schemas.Sharing, SHARING)
  if (pathname.startsWith('/v1/jobs/')) {
    return sendJson(response, schemas.Job, makeJob('demo/new:1', 'done'))
  }
  const ref = pathname.slice('/v1/images/'.length)
  if (method === 'POST') return sendJson(response, schemas.Job, makeJob(ref, 'queued'), 202)
  const image = images.find((candidate) => candidate.ref === ref)
  const source =
    method === 'PUT' ? images.find((candidate) => candidate.ref === fromOf(body)) : image
  if (source === undefined) {
    const named = method === 'PUT' ? fromOf(body) : ref
    return sendProblem(response, 404, 'ERR_IMAGE_NOT_FOUND', `no image named '${named}'`)
  }
  if (method === 'DELETE') {
    response.writeHead(204).end()
    return true
  }
  return sendJson(response, schemas.Image, { ...source, ref })
}

function fromOf(body: Buffer): string {
  return (JSON.parse(body.toString()) as { from: string }).from
}
