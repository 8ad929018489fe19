/** What happens on the connection: pipelines, clients that leave, data that comes late or not at all. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, describe, test } from 'node:test'

import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())
const { big, blob, planes } = server
const { ledger, weather } = planes
const BLOB = `/v1/blobs/demo/${blob}`

afterEach(async () => {
  weather.cold = false
  weather.gate = undefined
  weather.openGate = undefined
  weather.failAt = undefined
  weather.pinBudgetBytes = 1 << 20
  await until(() => ledger.heldLeases === 0)
  assert.equal(ledger.doubleReleases, 0)
  assert.equal(ledger.misuses, 0)
  await until(() => ledger.open === 0)
})

describe('pipelines', () => {
  test('answers come in order, hot, cold and refused ones mixed', async () => {
    await using client = await RawClient.open(server.port)
    weather.cold = true
    const ranges = ['0-9', '100-50099', '5-1', '20-29', '200000-799999', '7-7']
    for (const range of ranges) client.get(BLOB, { range: `bytes=${range}` })
    for (const range of ranges) {
      const response = await client.next()
      const [first = 0, last = 0] = range.split('-').map(Number)
      if (first > last) assert.equal(response?.status, 416)
      else assert.ok(response?.body.equals(big.subarray(first, last + 1)), range)
    }
  })

  test('a waiting response pins nothing, and is forgotten when the connection ends', async () => {
    const client = await RawClient.open(server.port)
    let calls = 0
    const { promise: open, resolve } = Promise.withResolvers<void>()
    weather.cold = true
    weather.gate = () => {
      calls++
      return open
    }
    const { leases, views } = ledger
    for (let i = 0; i < 10; i++) client.get(BLOB, { range: 'bytes=0-99999' })
    await until(() => calls > 0)
    assert.equal(calls, 1, 'only the first reads')
    assert.equal(ledger.views - views, 1, 'only the first is open')
    assert.equal(ledger.leases, leases)
    client.socket.destroy()
    await client.ended()
    resolve()
    await until(() => ledger.open === 0)
    assert.equal(calls, 1, 'the others were forgotten')
  })

  test('a pipeline deeper than the limit is told so', async () => {
    await using client = await RawClient.open(server.port)
    const { promise: open, resolve } = Promise.withResolvers<void>()
    weather.cold = true
    weather.gate = () => open
    const count = 100
    client.send(`GET ${BLOB} HTTP/1.1\r\nhost: x\r\nrange: bytes=0-0\r\n\r\n`.repeat(count))
    await until(() => ledger.reads.length > 0)
    resolve()
    const statuses: (number | undefined)[] = []
    for (let i = 0; i < count; i++) statuses.push((await client.next())?.status)
    assert.equal(statuses.filter((status) => status === 206).length, 65)
    assert.equal(statuses.filter((status) => status === 503).length, 35)
  })
})

describe('clients that leave', () => {
  test('a read that waits is told to stop', async () => {
    const client = await RawClient.open(server.port)
    const { aborted } = ledger
    weather.cold = true
    let waiting = false
    weather.gate = async (signal) => {
      waiting = true
      if (signal !== undefined && !signal.aborted) await once(signal, 'abort')
    }
    client.get(BLOB)
    await until(() => waiting)
    client.socket.destroy()
    await until(() => ledger.aborted === aborted + 1)
  })

  test('nothing is read ahead of a socket that is not read, and all is released', async () => {
    const client = await RawClient.open(server.port)
    client.socket.pause()
    weather.pinBudgetBytes = 64 * 1024
    const huge = planes.addBlob('demo', Buffer.alloc(64 << 20))
    const before = ledger.leases
    client.get(`/v1/blobs/demo/${huge}`)
    await until(() => ledger.leases > before)
    let seen = -1
    while (seen !== ledger.leases) {
      seen = ledger.leases
      // the kernel's buffers fill within a few turns; then nothing moves any more
      for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve))
    }
    assert.ok(
      seen - before < 512,
      `${seen - before} pieces of 64 KiB were read for a stalled client`,
    )
    assert.ok(ledger.heldLeases <= 1)
    client.socket.destroy()
    await until(() => ledger.heldLeases === 0)
  })

  test('leases of a hot reply are released when the connection ends', async () => {
    const client = await RawClient.open(server.port)
    client.socket.pause()
    weather.pinBudgetBytes = 64 << 20
    const huge = planes.addBlob('demo', Buffer.alloc(32 << 20, 1))
    client.get(`/v1/blobs/demo/${huge}`)
    await until(() => ledger.heldLeases === 1)
    client.socket.destroy()
    await until(() => ledger.heldLeases === 0)
  })

  test('one that leaves while its target is opened pins nothing', async () => {
    const client = await RawClient.open(server.port)
    const { promise, resolve } = Promise.withResolvers<void>()
    let opening = false
    weather.openGate = () => {
      opening = true
      return promise
    }
    const { leases, copies, views } = ledger
    client.get(BLOB, { range: 'bytes=0-99999' })
    await until(() => opening)
    client.socket.destroy()
    await client.ended()
    // The server has seen it when it has answered another client that asked later.
    await using other = await RawClient.open(server.port)
    other.get('/livez')
    await other.next()
    resolve()
    await until(() => ledger.views > views && ledger.open === 0)
    assert.deepEqual([ledger.leases, ledger.copies], [leases, copies])
  })

  test('200 clients that leave at any moment leave nothing behind', async () => {
    weather.pinBudgetBytes = 128 * 1024
    const clients = await Promise.all(
      Array.from({ length: 200 }, () => RawClient.open(server.port)),
    )
    for (const [i, client] of clients.entries()) {
      weather.cold = i % 3 === 0
      client.get(BLOB, i % 2 === 0 ? {} : { range: 'bytes=0-99999,5-20,700000-' })
      if (i % 5 === 0) client.get(BLOB)
      if (i % 4 === 0) client.socket.destroy()
      else if (i % 4 === 1) setImmediate(() => client.socket.destroy())
      else if (i % 4 === 2) client.socket.once('data', () => client.socket.destroy())
      else void client.next().then(() => client.socket.destroy())
    }
    await Promise.all(clients.map((client) => client.ended()))
  })
})

describe('data that is late or bad', () => {
  test('the header goes out when the data takes long', async () => {
    await using client = await RawClient.open(server.port)
    const { promise: open, resolve } = Promise.withResolvers<void>()
    weather.cold = true
    weather.gate = () => open
    client.get(BLOB, { range: 'bytes=0-99999' })
    assert.ok(await client.headArrived())
    assert.equal(ledger.heldLeases, 0)
    resolve()
    assert.ok((await client.next())?.body.equals(big.subarray(0, 100_000)))
  })

  test('a bad page gives 502 and the connection lives on', async () => {
    await using client = await RawClient.open(server.port)
    weather.cold = true
    weather.failAt = 50_000
    client.get(BLOB, { range: 'bytes=0-99999' })
    const refused = await client.next()
    assert.equal(refused?.status, 502)
    assert.equal(JSON.parse(String(refused?.body)).code, 'ERR_CACHE_PAGE_CORRUPT')
    client.get(BLOB, { range: 'bytes=0-9999' })
    assert.equal((await client.next())?.status, 206)
  })

  test('a bad page behind the header breaks the connection, and no byte of it was sent', async () => {
    await using client = await RawClient.open(server.port)
    weather.cold = true
    weather.pinBudgetBytes = 64 * 1024
    weather.failAt = 500_000
    client.get(BLOB)
    assert.ok(await client.headArrived())
    assert.equal(await client.next(), undefined)
  })
})

describe('requests that are no good', () => {
  const rows: [string, string, number, string][] = [
    [
      'a long header',
      `GET / HTTP/1.1\r\nhost: x\r\nrange: bytes=${'0-0,'.repeat(30_000)}\r\n\r\n`,
      400,
      'ERR_HTTP_HEADERS_TOO_LARGE',
    ],
    ['no HTTP', 'NBDMAGIC nonsense\r\n\r\n', 400, 'ERR_HTTP_MALFORMED'],
    [
      'an unknown expectation',
      'GET /livez HTTP/1.1\r\nhost: x\r\nexpect: tea\r\n\r\n',
      417,
      'ERR_HTTP_EXPECTATION_FAILED',
    ],
  ]
  for (const [name, bytes, status, code] of rows) {
    test(`${name} → ${status} ${code}`, async () => {
      await using client = await RawClient.open(server.port)
      client.send(bytes)
      const response = await client.next()
      assert.equal(response?.status, status)
      assert.match(response?.headers.get('content-type') ?? '', /^application\/problem\+json/)
      assert.equal(JSON.parse(String(response?.body)).code, code)
    })
  }

  test('20 KiB of header are fine: that is what 1,024 ranges take', async () => {
    await using client = await RawClient.open(server.port)
    client.get('/livez', { 'x-padding': 'x'.repeat(40_000) })
    assert.equal((await client.next())?.status, 200)
  })
})
