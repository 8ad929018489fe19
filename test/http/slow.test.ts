/**
 * Clients that take their time: with headers, with bodies, with reading. Each is ended within its limit,
 * told why where an answer is still possible, and holds nothing afterwards; others are served meanwhile.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, afterEach, describe, test } from 'node:test'

import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const CLIENTS = process.env['COMMONPAGE_FULL'] === '1' ? 2_000 : 200
/** Bytes of header that arrive between two answers to good clients. */
const DRIBBLES = 20

const server = await startTestServer({
  timeouts: { headersMs: 400, jsonBodyMs: 200, uploadPeriodMs: 200, connectionMs: 2_000 },
})
after(() => server[Symbol.asyncDispose]())
const { control, ledger } = server.planes

afterEach(async () => {
  await until(() => control.uploads.size === 0 && ledger.open === 0 && ledger.heldLeases === 0)
})

async function refusal(client: RawClient): Promise<[number | undefined, string]> {
  const response = await client.next()
  await client.ended()
  return [response?.status, response === undefined ? '' : JSON.parse(String(response.body)).code]
}

describe('slow headers', () => {
  test(`${CLIENTS} clients that dribble are told 408, and a good one is served all the time`, async () => {
    const clients = await Promise.all(
      Array.from({ length: CLIENTS }, () => RawClient.open(server.port)),
    )
    const header = `GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ${'y'.repeat(DRIBBLES)}`
    for (const client of clients) client.send(header.slice(0, -DRIBBLES))
    await using good = await RawClient.open(server.port)
    for (let i = 0; i < DRIBBLES; i++) {
      for (const client of clients) client.send('y')
      good.get(`/v1/blobs/demo/${server.blob}`, { range: 'bytes=0-99999' })
      assert.equal((await good.next())?.body.length, 100_000)
    }
    for (const row of await Promise.all(clients.map(refusal)))
      assert.deepEqual(row, [408, 'ERR_HTTP_HEADERS_TIMEOUT'])
  })

  test('a connection that sends nothing is ended as well', async () => {
    const client = await RawClient.open(server.port)
    assert.deepEqual(await refusal(client), [408, 'ERR_HTTP_HEADERS_TIMEOUT'])
  })

  test('a slow header behind a good request does not take its answer', async () => {
    const client = await RawClient.open(server.port)
    const { promise, resolve } = Promise.withResolvers<void>()
    server.planes.weather.cold = true
    server.planes.weather.gate = () => promise
    client.get(`/v1/blobs/demo/${server.blob}`, { range: 'bytes=0-99999' })
    client.send('GET /livez HTTP/1.1\r\nhost:')
    await until(() => ledger.reads.length > 0)
    const other = await RawClient.open(server.port)
    assert.equal((await refusal(other))[0], 408, 'the time of the first is over too')
    resolve()
    assert.equal((await client.next())?.status, 206)
    assert.deepEqual(await refusal(client), [408, 'ERR_HTTP_HEADERS_TIMEOUT'])
    server.planes.weather.cold = false
    server.planes.weather.gate = undefined
  })
})

describe('slow bodies', () => {
  const post = 'POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\n'

  for (const [name, bytes] of [
    ['one that stalls', `${post}content-length: 1000000\r\n\r\nabc`],
    ['a chunked one that stalls', `${post}transfer-encoding: chunked\r\n\r\n1000\r\nabc`],
    ['one that never starts', `${post}content-length: 10\r\n\r\n`],
  ] as const) {
    test(`${name} → 408, and its space is given back`, async () => {
      const client = await RawClient.open(server.port)
      control.aborted = []
      client.send(bytes)
      assert.deepEqual(await refusal(client), [408, 'ERR_HTTP_BODY_TIMEOUT'])
      assert.equal(control.aborted.length, 1)
    })
  }

  test('one that moves too slowly → 408', async () => {
    const client = await RawClient.open(server.port)
    client.send(`${post}content-length: 1000000\r\n\r\n`)
    const dribble = setInterval(() => client.send('x'.repeat(100)), 10)
    assert.deepEqual(await refusal(client), [408, 'ERR_HTTP_BODY_TIMEOUT'])
    clearInterval(dribble)
  })

  test('one that moves is received, however long it takes', async () => {
    await using client = await RawClient.open(server.port)
    const body = randomBytes(600_000)
    client.send(`${post}content-length: ${body.length}\r\n\r\n`)
    // six periods at twice the slowest rate allowed
    for (let at = 0; at < body.length; at += 50_000) {
      client.socket.write(body.subarray(at, at + 50_000))
      await new Promise((resolve) => setTimeout(resolve, 70))
    }
    assert.equal((await client.next())?.status, 201)
  })

  test('garbage in the middle gives the space back at once', async () => {
    const client = await RawClient.open(server.port)
    control.aborted = []
    client.send(`${post}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n`)
    await until(() => control.uploads.size === 1)
    client.send('zzz\r\n')
    assert.deepEqual(await refusal(client), [400, 'ERR_HTTP_MALFORMED'])
    await until(() => control.aborted.length === 1)
  })

  test('JSON that stalls → 408', async () => {
    const client = await RawClient.open(server.port)
    client.send(
      'PUT /v1/images/demo/x HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"fr',
    )
    assert.deepEqual(await refusal(client), [408, 'ERR_HTTP_BODY_TIMEOUT'])
  })

  test('JSON that breaks off is forgotten', async () => {
    const client = await RawClient.open(server.port)
    client.send(
      'PUT /v1/images/demo/x HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"fr',
    )
    client.socket.end()
    await client.ended()
  })
})

test('a reader that stands still is dropped, and what it held is released', async () => {
  const client = await RawClient.open(server.port)
  client.socket.pause()
  server.planes.weather.pinBudgetBytes = 64 << 20
  const huge = server.planes.addBlob('demo', Buffer.alloc(32 << 20, 1))
  client.get(`/v1/blobs/demo/${huge}`)
  await until(() => ledger.heldLeases === 1)
  await until(() => ledger.heldLeases === 0)
  client.socket.resume()
  await client.ended()
})
