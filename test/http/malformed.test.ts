/** Requests that are no good or look so, against the application alone: status, code, and what becomes of the connection. */
import assert from 'node:assert/strict'
import { after, afterEach, describe, test } from 'node:test'

import { malformedRequests, oddRequests } from './malformed-requests.ts'
import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())
const targets = { blob: `/v1/blobs/demo/${server.blob}`, image: '/v1/images/demo/team/app:1' }
const { ledger, control, weather } = server.planes

afterEach(async () => {
  weather.cold = false
  weather.gate = undefined
  await until(() => ledger.open === 0 && ledger.heldLeases === 0 && control.uploads.size === 0)
})

describe('malformed requests', () => {
  for (const { name, bytes, status, code, closes } of malformedRequests(targets)) {
    test(`${name} → ${status} ${code}`, async () => {
      await using client = await RawClient.open(server.port)
      client.send(bytes)
      const response = await client.next()
      assert.deepEqual(
        [response?.status, response === undefined ? '' : JSON.parse(String(response.body)).code],
        [status, code],
      )
      assert.match(response?.headers.get('content-type') ?? '', /^application\/problem\+json/)
      if (closes) {
        await client.ended()
      } else {
        client.get('/livez')
        assert.equal((await client.next())?.status, 200, 'the connection goes on')
      }
    })
  }
})

describe('odd requests', () => {
  for (const { name, bytes, statuses } of oddRequests(targets)) {
    test(`${name} → ${statuses.join(', ')}`, async () => {
      await using client = await RawClient.open(server.port)
      client.send(bytes)
      for (const status of statuses) assert.equal((await client.next())?.status, status)
    })
  }

  test('nothing that came with a declined upgrade is taken for a request of its own', async () => {
    await using client = await RawClient.open(server.port)
    const smuggled = 'DELETE /v1/images/demo/team/app:1 HTTP/1.1\r\nhost: x\r\n\r\n'
    weather.cold = true
    const { promise, resolve } = Promise.withResolvers<void>()
    weather.gate = () => promise
    client.send(
      `GET ${targets.blob} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n` +
        `POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\ncontent-length: ${smuggled.length}\r\n\r\n`,
    )
    const { reads } = ledger
    await until(() => reads.length > 0)
    client.send(smuggled)
    // The server has read it when it has answered another client that asked later.
    await using other = await RawClient.open(server.port)
    other.get('/livez')
    await other.next()
    resolve()
    const response = await client.next()
    assert.equal(response?.headers.get('connection'), 'close')
    await client.ended()
    assert.equal((await fetch(`${server.url}${targets.image}`)).status, 200)
  })

  test('what is unsafe waits for what is before it (RFC 9112 §9.3.2)', async () => {
    await using client = await RawClient.open(server.port)
    const { promise, resolve } = Promise.withResolvers<void>()
    weather.cold = true
    weather.gate = () => promise
    const body = JSON.stringify({ from: 'demo/team/app:1' })
    client.get(targets.blob, { range: 'bytes=0-99999' })
    client.send(
      `PUT /v1/images/demo/later HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    client.get('/v1/images/demo/later')
    await until(() => ledger.reads.length > 0)
    assert.equal((await fetch(`${server.url}/v1/images/demo/later`)).status, 404)
    resolve()
    for (const status of [206, 200, 200]) assert.equal((await client.next())?.status, status)
  })

  test('requests that wait start nothing, whatever they ask for', async () => {
    const client = await RawClient.open(server.port)
    const { promise, resolve } = Promise.withResolvers<void>()
    weather.cold = true
    weather.gate = () => promise
    let asked = 0
    const { images } = control
    control.images = (query) => {
      asked++
      return images.call(control, query)
    }
    client.get(targets.blob, { range: 'bytes=0-99999' })
    for (let i = 0; i < 500; i++) client.get('/v1/images')
    await until(() => ledger.reads.length > 0)
    await using other = await RawClient.open(server.port)
    other.get('/livez')
    await other.next()
    assert.equal(asked, 0)
    client.socket.destroy()
    await client.ended()
    resolve()
    control.images = images
  })
})

test('a client that sends CONNECT and leaves before the answer harms nobody', async () => {
  for (let i = 0; i < 50; i++) {
    const client = await RawClient.open(server.port)
    client.send(
      `${i % 2 === 0 ? '' : 'GET /livez HTTP/1.1\r\nhost: x\r\n\r\n'}CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n`,
    )
    await new Promise((resolve) => setImmediate(resolve))
    client.socket.resetAndDestroy()
    await client.ended()
  }
  assert.equal((await fetch(`${server.url}/livez`)).status, 200)
})

test('a path of slashes takes no time', async () => {
  await using client = await RawClient.open(server.port)
  const started = process.cpuUsage()
  for (const path of ['/'.repeat(60_000), './'.repeat(15_000), '%2e/'.repeat(15_000)]) {
    client.get(`${targets.image}/-/files/${path}x`)
    assert.equal((await client.next())?.status, 404)
  }
  const { user } = process.cpuUsage(started)
  assert.ok(user < 500_000, `${user} µs of CPU`)
})
