/** Which names a server answers to: what a page on the web can make a browser send is refused on every route. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'

import { isAppError } from '../../src/core/index.ts'
import { AllowedHosts } from '../../src/server/http/allowed-hosts.ts'
import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'

describe('names', () => {
  const accepts = (names: readonly string[], host: string | undefined): boolean => {
    try {
      new AllowedHosts(names).check(host)
      return true
    } catch (error) {
      assert.ok(isAppError(error) && error.code === 'ERR_HTTP_HOST_NOT_ALLOWED', String(error))
      return false
    }
  }

  test('addresses, localhost and what is below it are always right', () => {
    for (const host of [
      '127.0.0.1',
      '127.0.0.1:8080',
      '127.1:8080',
      '[::1]:8080',
      '[::1]',
      '10.42.0.7:8080',
      '[fd00::7]:8080',
      'localhost',
      'LOCALHOST:8080',
      'localhost.:8080',
      'dev.localhost:1',
      '',
      undefined,
    ]) {
      assert.ok(accepts([], host), String(host))
    }
  })

  test('other names are wrong unless they are allowed', () => {
    for (const host of [
      'evil.example',
      'evil.example:8080',
      'localhost.evil.example',
      'notlocalhost',
      '127.0.0.1.evil.example',
      '.localhost',
      'localhost:99999',
      '[::1',
      ':8080',
      'lan',
      'images.example.org.evil.example',
      'a.images.example.org',
    ]) {
      assert.equal(accepts(['images.example.org', '*.lan'], host), false, host)
    }
    for (const host of ['images.example.org', 'IMAGES.example.org.:80', 'a.lan', 'b.a.lan:1']) {
      assert.ok(accepts(['images.example.org', '*.lan'], host), host)
      assert.equal(accepts([], host), false, host)
    }
  })

  test('what was accepted before does not let others in', () => {
    const hosts = new AllowedHosts([])
    for (let i = 0; i < 3; i++) {
      hosts.check('localhost:8080')
      assert.throws(() => hosts.check('evil.example'), { code: 'ERR_HTTP_HOST_NOT_ALLOWED' })
    }
  })
})

describe('a server that answers to its own names', async () => {
  const server = await startTestServer({ allowedHosts: ['images.example.org'] })
  after(() => server[Symbol.asyncDispose]())
  const image = '/v1/images/demo/team/app:1'
  type Answer = [status: number | undefined, code?: string]
  const ask = async (host: string, request: string, more = ''): Promise<Answer> => {
    await using client = await RawClient.open(server.port)
    client.send(`${request} HTTP/1.1\r\nhost: ${host}\r\n${more}\r\n`)
    const response = await client.next({ head: request.startsWith('HEAD') })
    const type = response?.headers.get('content-type') ?? ''
    if (!type.startsWith('application/problem+json')) return [response?.status]
    return [response?.status, response?.body.length === 0 ? '' : code(response?.body)]
  }
  const code = (body: Buffer | undefined) => String(JSON.parse(String(body)).code)
  const upgrade =
    'connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
    'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n'

  for (const [request, status, more] of [
    ['GET /', 200],
    ['GET /livez', 200],
    ['GET /metrics', 200],
    ['GET /openapi.json', 200],
    ['GET /absent', 404],
    [`GET ${image}`, 200],
    [`HEAD ${image}/-/raw`, 200],
    [`GET ${image}/-/raw`, 206, 'range: bytes=0-9\r\n'],
    [`GET ${image}/-/files/etc/hosts`, 200],
    [`GET /v1/blobs/demo/${server.blob}`, 206, 'range: bytes=0-9\r\n'],
    ['OPTIONS *', 204],
    ['DELETE /v1/images/demo/absent', 404],
    ['GET /v1/events', 101, upgrade],
  ] as const) {
    test(`${request.replace(server.blob, 'sha256:…')} → ${status}, and 421 for a name of the web`, async () => {
      for (const host of ['localhost:1', `127.0.0.1:${server.port}`, 'images.example.org']) {
        assert.equal((await ask(host, request, more))[0], status, host)
      }
      const refused = await ask('evil.example', request, more)
      const wanted = request.startsWith('HEAD') ? '' : 'ERR_HTTP_HOST_NOT_ALLOWED'
      assert.deepEqual(refused, [421, wanted])
    })
  }

  test('the page itself cannot follow the feed, though it is of the origin that it asks', async () => {
    const origin = 'origin: http://evil.example\r\n'
    const refused = await ask('evil.example', 'GET /v1/events', upgrade + origin)
    assert.deepEqual(refused, [421, 'ERR_HTTP_HOST_NOT_ALLOWED'])
  })

  test('the name in a target in absolute-form counts too (RFC 9112 §3.2.2)', async () => {
    assert.deepEqual(await ask('localhost', 'GET http://localhost:1/livez'), [200])
    for (const target of ['http://evil.example/livez', 'https://evil.example:1', 'http://evil']) {
      const refused = await ask('localhost', `GET ${target}`)
      assert.deepEqual(refused, [421, 'ERR_HTTP_HOST_NOT_ALLOWED'], target)
    }
  })

  test('the connection goes on', async () => {
    await using client = await RawClient.open(server.port)
    client.get('/livez', { host: 'evil.example' })
    client.get('/livez')
    assert.equal((await client.next())?.status, 421)
    assert.equal((await client.next())?.status, 200)
  })
})
