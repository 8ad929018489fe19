/**
 * The timeout of idle connections: it does not count while the server is at work for a client that can only wait,
 * and counts again for whatever comes behind that on the connection.
 */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { setTimeout as wait } from 'node:timers/promises'

import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const CONNECTION_MS = 150
/** Work for so long that an idle connection would have been closed. */
const LONG_MS = 3 * CONNECTION_MS

const server = await startTestServer({ timeouts: { connectionMs: CONNECTION_MS } })
after(() => server[Symbol.asyncDispose]())
const { control, ledger, weather } = server.planes
weather.pinBudgetBytes = 64 << 20
const huge = server.planes.addBlob('demo', Buffer.alloc(32 << 20, 1))

/** Sends a request and one for more than sockets hold behind it, and reads nothing: what that pins is given back. */
async function standsStillBehind(request: string): Promise<void> {
  await using client = await RawClient.open(server.port)
  client.socket.pause()
  client.send(request)
  client.get(`/v1/blobs/demo/${huge}`)
  await until(() => ledger.heldLeases === 1)
  await until(() => ledger.heldLeases === 0)
  client.socket.resume()
}

async function startJob(): Promise<string> {
  const init = { method: 'POST', body: 'image' }
  const response = await fetch(`${server.url}/v1/images/demo/new:1`, init)
  assert.equal(response.status, 202)
  return response.headers.get('location') ?? ''
}

describe('?wait=', () => {
  test('for a job that runs outlasts the timeout, and a reader that stands still behind it is dropped', async () => {
    const gate = Promise.withResolvers<void>()
    control.jobGate = gate.promise
    const job = await startJob()
    const { job: ask } = control
    control.job = (id, options) => {
      if (options?.waitMs !== undefined) void wait(LONG_MS).then(gate.resolve)
      return ask.call(control, id, options)
    }
    await standsStillBehind(`GET ${job}?wait=1m HTTP/1.1\r\nhost: x\r\n\r\n`)
    control.job = ask
  })

  test('for a job that has ended does not keep a reader that stands still behind it', async () => {
    control.jobGate = Promise.resolve()
    const job = await startJob()
    await until(() => control.jobList.get(job.slice('/v1/jobs/'.length))?.state === 'done')
    await standsStillBehind(`GET ${job}?wait=1m HTTP/1.1\r\nhost: x\r\n\r\n`)
  })
})

describe('a blob', () => {
  const { finishBlob } = control
  const post = (query: string) =>
    `POST /v1/blobs/demo${query} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello`

  for (const query of ['', '?park=true']) {
    test(`may take longer than the timeout when its body is there: ${query}`, async (t) => {
      t.after(() => void (control.finishBlob = finishBlob))
      control.finishBlob = async (...args) => {
        await wait(LONG_MS)
        return finishBlob.apply(control, args)
      }
      await using client = await RawClient.open(server.port)
      client.send(post(query))
      const response = await client.next()
      assert.ok(response?.status === 201 || response?.status === 200, `${response?.status}`)
    })
  }

  test('does not keep a reader that stands still behind it', () => standsStillBehind(post('')))
})
