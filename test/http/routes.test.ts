/** The JSON routes, errors and documents of the API. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'

import { Value } from 'typebox/value'
import type { TSchema } from 'typebox'

import { errorDefinitions } from '../../src/core/index.ts'
import * as schemas from '../../src/server/http/schemas.ts'
import { readHttpCounters } from '../../src/server/http/index.ts'
import { startTestServer } from './test-server.ts'

const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())
const { app, image, planes } = server

describe('answers have the documented form', () => {
  const table: [string, TSchema][] = [
    ['/v1/domains', schemas.DomainList],
    ['/v1/images', schemas.ImageList],
    ['/v1/images?limit=1', schemas.ImageList],
    ['/v1/images/demo/team/app:1', schemas.Image],
    [`/v1/images/demo/team/app@${image}`, schemas.Image],
    ['/v1/images/demo/team/app:1/-/files/', schemas.DirectoryListing],
    ['/v1/images/demo/team/app:1/-/files/etc/hosts?stat', schemas.FileStat],
    ['/v1/sharing', schemas.Sharing],
    ['/v1/du', schemas.DiskUsage],
    ['/v1/stats', schemas.Stats],
    ['/v1/jobs', schemas.JobList],
  ]
  for (const [url, schema] of table) {
    test(url, async () => {
      const response = await app.inject({ url })
      assert.equal(response.statusCode, 200)
      assert.match(String(response.headers['content-type']), /^application\/json/)
      assert.deepEqual([...Value.Errors(schema, response.json())], [])
      assert.ok(response.headers['x-request-id'])
      const head = await app.inject({ url, method: 'HEAD' })
      assert.equal(head.statusCode, 200)
      assert.equal(head.body, '')
    })
  }
})

describe('every error is a problem', () => {
  const table: ['GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE' | 'PATCH', string, number, string][] = [
    ['GET', '/nope', 404, 'ERR_HTTP_ROUTE_NOT_FOUND'],
    ['POST', '/nope', 404, 'ERR_HTTP_ROUTE_NOT_FOUND'],
    ['GET', '/v1/images/demo/none', 404, 'ERR_IMAGE_NOT_FOUND'],
    ['GET', '/v1/images/demo/none/-/raw', 404, 'ERR_IMAGE_NOT_FOUND'],
    ['GET', '/v1/images/UPPER/x', 400, 'ERR_REF_INVALID'],
    ['GET', '/v1/images/demo', 400, 'ERR_REF_INVALID'],
    ['GET', '/v1/images/demo/two/-/dev/2', 404, 'ERR_DEVICE_NOT_FOUND'],
    ['GET', '/v1/images/demo/two/-/what', 404, 'ERR_HTTP_ROUTE_NOT_FOUND'],
    ['GET', '/v1/images/demo/raw/-/files/x', 422, 'ERR_IMAGE_NOT_PARSED'],
    ['GET', `/v1/blobs/demo/sha256:${'0'.repeat(64)}`, 404, 'ERR_BLOB_NOT_FOUND'],
    ['GET', '/v1/blobs/demo/sha256:0', 400, 'ERR_DIGEST_INVALID'],
    ['GET', '/v1/images?limit=0', 400, 'ERR_HTTP_REQUEST_INVALID'],
    ['GET', '/v1/images?limit=x', 400, 'ERR_HTTP_REQUEST_INVALID'],
    ['GET', '/v1/images?domain=A', 400, 'ERR_REF_INVALID'],
    ['GET', '/v1/jobs/none', 404, 'ERR_JOB_NOT_FOUND'],
    ['GET', '/v1/events', 426, 'ERR_HTTP_UPGRADE_REQUIRED'],
    ['GET', '/dashboard/secret', 404, 'ERR_HTTP_ROUTE_NOT_FOUND'],
    ['GET', '/v1/du/%zz', 400, 'ERR_HTTP_REQUEST_INVALID'],
    ['PATCH', '/v1/images', 405, 'ERR_HTTP_METHOD_NOT_ALLOWED'],
    ['POST', '/v1/images/demo/two/-/raw', 405, 'ERR_HTTP_METHOD_NOT_ALLOWED'],
    ['DELETE', `/v1/blobs/demo/sha256:${'0'.repeat(64)}`, 405, 'ERR_HTTP_METHOD_NOT_ALLOWED'],
    ['DELETE', '/v1/images/demo/none', 404, 'ERR_IMAGE_NOT_FOUND'],
    ['PUT', '/v1/images/demo/x', 400, 'ERR_HTTP_REQUEST_INVALID'],
  ]
  for (const [method, url, status, code] of table) {
    test(`${method} ${url} → ${status} ${code}`, async () => {
      const response = await app.inject({ method, url })
      assert.equal(response.statusCode, status)
      assert.match(String(response.headers['content-type']), /^application\/problem\+json/)
      const problem = response.json()
      assert.deepEqual([...Value.Errors(schemas.Problem, problem)], [])
      assert.equal(problem.code, code)
      assert.equal(problem.status, status)
      assert.equal(problem.requestId, response.headers['x-request-id'])
      if (status === 405) assert.match(String(response.headers.allow), /OPTIONS/)
    })
  }

  test('a bug shows no detail', async () => {
    const { stats } = planes.control
    planes.control.stats = () => Promise.reject(new Error('secret at /root/x'))
    const response = await app.inject({ url: '/v1/stats' })
    planes.control.stats = stats
    assert.equal(response.statusCode, 500)
    assert.equal(response.json().code, 'ERR_INTERNAL')
    assert.doesNotMatch(response.body, /secret/)
  })

  test('problems link to their explanation', async () => {
    const text = (await app.inject({ url: '/errors' })).body
    const html = (await app.inject({ url: '/errors', headers: { accept: 'text/html' } })).body
    for (const [code] of errorDefinitions()) {
      assert.ok(text.includes(code), code)
      assert.ok(html.includes(`id="${code.toLowerCase()}"`), code)
    }
  })
})

describe('tags', () => {
  test('PUT makes a tag, DELETE removes it', async () => {
    const url = '/v1/images/demo/team/app:stable'
    const put = await app.inject({
      method: 'PUT',
      url,
      payload: { from: `demo/team/app@${image}` },
    })
    assert.equal(put.statusCode, 200)
    assert.equal(put.json().digest, image)
    assert.equal((await app.inject({ url })).json().tag, 'stable')
    assert.equal((await app.inject({ method: 'DELETE', url })).statusCode, 204)
    assert.equal((await app.inject({ url })).statusCode, 404)
  })

  test('what is no tag or no JSON is refused', async () => {
    const put = (url: string, payload: string, type = 'application/json') =>
      app.inject({ method: 'PUT', url, payload, headers: { 'content-type': type } })
    const good = JSON.stringify({ from: 'demo/team/app:1' })
    assert.equal(
      (await put(`/v1/images/demo/team/app@${image}`, good)).json().code,
      'ERR_REF_INVALID',
    )
    assert.equal((await put('/v1/images/demo/x', '{')).json().code, 'ERR_HTTP_REQUEST_INVALID')
    assert.equal((await put('/v1/images/demo/x', good, 'text/plain')).statusCode, 415)
    const long = JSON.stringify({ from: 'x'.repeat(100_000) })
    assert.equal((await put('/v1/images/demo/x', long)).json().code, 'ERR_HTTP_BODY_TOO_LARGE')
  })

  test('another site cannot change anything through a browser', async () => {
    const headers: Record<string, string>[] = [
      { 'sec-fetch-site': 'cross-site' },
      { origin: 'https://evil.example', host: 'localhost' },
      { origin: 'null' },
    ]
    for (const row of headers) {
      const response = await app.inject({
        method: 'DELETE',
        url: '/v1/images/demo/two',
        headers: row,
      })
      assert.equal(response.json().code, 'ERR_HTTP_CROSS_SITE')
    }
  })
})

describe('conditions on what a reference names (RFC 9110 §13.1)', () => {
  const url = '/v1/images/demo/conditions:1'
  const other = '/v1/images/demo/two'
  const ask = async (
    method: 'GET' | 'HEAD' | 'PUT' | 'DELETE' | 'POST',
    headers: Record<string, string> = {},
    path = url,
  ): Promise<[number, string | undefined]> => {
    const payload =
      method === 'PUT' ? { from: 'demo/team/app:1' } : method === 'POST' ? 'bytes' : undefined
    const type = method === 'POST' ? { 'content-type': 'application/octet-stream' } : {}
    const response = await app.inject({
      method,
      url: path,
      headers: { ...type, ...headers },
      ...(payload === undefined ? {} : { payload }),
    })
    return [response.statusCode, response.statusCode < 400 ? undefined : response.json().code]
  }
  const failed = [412, 'ERR_HTTP_PRECONDITION_FAILED']
  const etag = `"${image}"`

  test('reading', async () => {
    assert.deepEqual(await ask('PUT'), [200, undefined])
    const stale = await app.inject({ url, headers: { 'if-none-match': etag } })
    assert.deepEqual([stale.statusCode, stale.headers['etag'], stale.body], [304, etag, ''])
    assert.equal(stale.headers['cache-control'], 'no-cache')
    assert.deepEqual(await ask('HEAD', { 'if-none-match': '*' }), [304, undefined])
    assert.deepEqual(await ask('GET', { 'if-none-match': '"x"' }), [200, undefined])
    assert.deepEqual(await ask('GET', { 'if-match': etag }), [200, undefined])
    assert.deepEqual(await ask('GET', { 'if-match': '"x"' }), failed)
  })

  test('tagging', async () => {
    assert.deepEqual(await ask('PUT', { 'if-none-match': '*' }), failed)
    assert.deepEqual(await ask('PUT', { 'if-match': '"x"' }), failed)
    assert.deepEqual(await ask('PUT', { 'if-match': etag }), [200, undefined])
    const fresh = '/v1/images/demo/conditions:2'
    assert.deepEqual(await ask('PUT', { 'if-match': '*' }, fresh), failed)
    assert.deepEqual(await ask('PUT', { 'if-none-match': '*' }, fresh), [200, undefined])
  })

  test('removing', async () => {
    assert.deepEqual(await ask('DELETE', { 'if-match': '"x"' }), failed)
    assert.deepEqual(await ask('DELETE', { 'if-none-match': etag }), failed)
    assert.deepEqual(await ask('GET'), [200, undefined])
    assert.deepEqual(await ask('DELETE', { 'if-match': etag }), [204, undefined])
    const gone = [404, 'ERR_IMAGE_NOT_FOUND']
    assert.deepEqual(await ask('DELETE', { 'if-match': etag }), gone, '§13.2.1: 404 comes first')
    assert.deepEqual(await ask('GET', { 'if-match': etag }), gone)
  })

  test('importing: refused before the body is taken, and decided when the tag is set', async () => {
    const { beginUpload } = planes.control
    let admitted = 0
    planes.control.beginUpload = (...args) => {
      admitted++
      return beginUpload.apply(planes.control, args)
    }
    const post = async (path: string, condition: string) => {
      const headers = { 'if-none-match': condition }
      const init = { method: 'POST', body: 'bytes', headers }
      const response = await fetch(server.url + path, init)
      await response.arrayBuffer()
      return response.status
    }
    assert.equal(await post(other, '*'), 412)
    assert.equal(admitted, 0)
    const { image: describeImage } = planes.control
    planes.control.image = (ref) => {
      // Somebody else sets the tag between the two.
      const before = describeImage.call(planes.control, ref)
      planes.addImage(ref, [Buffer.alloc(10, 3)], {})
      return before
    }
    assert.equal(await post('/v1/images/demo/conditions:3', '*'), 412)
    assert.equal(admitted, 1)
    planes.control.image = describeImage
    assert.equal(await post('/v1/images/demo/conditions:4', '*'), 202)
    planes.control.beginUpload = beginUpload
  })
})

describe('health and status', () => {
  test('/readyz follows its checks', async () => {
    planes.control.checks = [
      { name: 'store', ok: true },
      { name: 'draining', ok: false, reason: 'shutting down' },
    ]
    const failed = await app.inject({ url: '/readyz' })
    assert.equal(failed.statusCode, 503)
    assert.match(failed.body, /\[-\]draining failed: shutting down/)
    assert.equal((await app.inject({ url: '/readyz?exclude=draining' })).statusCode, 200)
    assert.equal((await app.inject({ url: '/livez' })).statusCode, 200)
    planes.control.checks = [{ name: 'store', ok: true }]
    assert.equal((await app.inject({ url: '/readyz' })).body, 'ok\n')
    assert.match((await app.inject({ url: '/healthz?verbose' })).body, /\[\+\]store ok/)
    const json = await app.inject({ url: '/readyz', headers: { accept: 'application/json' } })
    assert.equal(json.json().ready, true)
  })

  test('/ is text for curl and the page for browsers', async () => {
    const text = await app.inject({ url: '/' })
    assert.match(text.body, /10 times from one memory/)
    const page = await app.inject({ url: '/', headers: { accept: 'text/html,*/*' } })
    assert.match(String(page.headers['content-type']), /^text\/html/)
    assert.match(String(page.headers['content-security-policy']), /default-src 'none'/)
    const again = await app.inject({
      url: '/',
      headers: { accept: 'text/html', 'if-none-match': String(page.headers['etag']) },
    })
    assert.equal(again.statusCode, 304)
  })

  test('a given request id is kept, a bad one is not', async () => {
    const id = async (given: string) =>
      (await app.inject({ url: '/livez', headers: { 'x-request-id': given } })).headers[
        'x-request-id'
      ]
    assert.equal(await id('abc-1'), 'abc-1')
    assert.notEqual(await id('<script>'), '<script>')
  })
})

test('each request is counted once, by operation', async () => {
  const before = readHttpCounters(server.counters)
  const of = (sample: typeof before, method: string, route: string) =>
    sample.operations.find((row) => row.method === method && row.route === route)
  await app.inject({ url: '/v1/stats' })
  await app.inject({ url: '/v1/images/demo/two/-/dev/0' })
  await app.inject({ url: '/v1/images/demo/two/-/dev/9' })
  await app.inject({ url: '/nope' })
  const now = readHttpCounters(server.counters)
  assert.equal(now.requests - before.requests, 4)
  const device = '/v1/images/{ref}/-/dev/{number}'
  const [a, b] = [of(before, 'GET', device), of(now, 'GET', device)]
  assert.equal((b?.requests['2xx'] ?? 0) - (a?.requests['2xx'] ?? 0), 1)
  assert.equal((b?.requests['4xx'] ?? 0) - (a?.requests['4xx'] ?? 0), 1)
  assert.equal((b?.responseBytes ?? 0) - (a?.responseBytes ?? 0), 5000)
})
