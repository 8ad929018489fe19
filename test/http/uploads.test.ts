/** Bodies that come in: admitted before they are read, streamed to their file, given back when they fail. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, beforeEach, describe, test } from 'node:test'

import { digestOf } from '../../src/core/index.ts'
import { receiveBody } from '../../src/server/http/upload.ts'
import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())
const { control } = server.planes

beforeEach(() => {
  control.aborted = []
  control.freeBytes = 1 << 30
  control.limitBytes = 1 << 30
})

type Body = NonNullable<RequestInit['body']> | null
type Json = Record<string, unknown>

async function readJson(response: Response): Promise<Json> {
  return Object(await response.json()) as Json
}

async function post(path: string, body: Body, headers: Record<string, string> = {}) {
  const init = { method: 'POST', body, headers, duplex: 'half' } as const
  const response = await fetch(server.url + path, init)
  return { status: response.status, headers: response.headers, json: await readJson(response) }
}

describe('nothing', () => {
  for (const path of ['/v1/images/demo/new:1', '/v1/blobs/demo', '/v1/blobs/demo?park=true']) {
    test(`POST ${path} without a body is refused before anything is set aside`, async () => {
      const jobs = (await control.jobs()).length
      let admitted = 0
      const { beginUpload } = control
      control.beginUpload = (...args) => {
        admitted++
        return beginUpload.apply(control, args)
      }
      for (const body of [null, '']) {
        const { status, json } = await post(path, body)
        assert.deepEqual([status, json['code']], [400, 'ERR_IMPORT_EMPTY'])
      }
      assert.equal(admitted, 0)
      // Chunks do not tell before they have come: what was set aside is given back.
      await using client = await RawClient.open(server.port)
      client.send(`POST ${path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`)
      const response = await client.next()
      assert.equal(response?.status, 400)
      assert.equal(JSON.parse(String(response.body)).code, 'ERR_IMPORT_EMPTY')
      control.beginUpload = beginUpload
      assert.deepEqual([admitted, control.aborted.length, control.uploads.size], [1, 1, 0])
      assert.equal((await control.jobs()).length, jobs)
    })
  }
})

describe('blobs', () => {
  test('are stored once, by digest', async () => {
    const bytes = randomBytes(3_000_000)
    const first = await post('/v1/blobs/demo', bytes)
    assert.equal(first.status, 201)
    assert.deepEqual(first.json, {
      digest: digestOf(bytes),
      sizeBytes: bytes.length,
      created: true,
    })
    assert.equal(first.headers.get('location'), `/v1/blobs/demo/${digestOf(bytes)}`)
    const second = await post(`/v1/blobs/demo?digest=${digestOf(bytes)}`, bytes)
    assert.equal(second.status, 200)
    const back = await fetch(server.url + (first.headers.get('location') ?? ''))
    assert.ok(Buffer.from(await back.arrayBuffer()).equals(bytes))
  })

  test('of unknown length arrive whole, whatever type they claim', async () => {
    const bytes = randomBytes(500_000)
    const stream = new Blob([bytes]).stream()
    const { status, json } = await post('/v1/blobs/demo', stream, {
      'content-type': 'application/json',
    })
    assert.equal(status, 201)
    assert.equal(json['digest'], digestOf(bytes))
  })

  test('the wrong digest is refused', async () => {
    const wrong = `sha256:${'0'.repeat(64)}`
    assert.equal(
      (await post(`/v1/blobs/demo?digest=${wrong}`, 'x')).json['code'],
      'ERR_STORE_DIGEST_MISMATCH',
    )
  })
})

describe('imports', () => {
  test('answer with the job, or wait for its report', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    control.jobGate = promise
    const started = await post('/v1/images/demo/new:1', randomBytes(1000))
    assert.equal(started.status, 202)
    const location = started.headers.get('location') ?? ''
    assert.equal((await readJson(await fetch(server.url + location)))['state'], 'running')
    resolve()
    const done = await readJson(await fetch(`${server.url}${location}?wait=10s`))
    assert.equal(done['state'], 'done')
    const waited = await post('/v1/images/demo/new:2?wait=true', randomBytes(1000))
    assert.equal(waited.status, 201)
    assert.equal(waited.json['ref'], 'demo/new:2')
    assert.equal(waited.headers.get('location'), '/v1/images/demo/new:2')
  })

  test('what cannot be imported is refused', async () => {
    assert.equal(
      (await post('/v1/images/demo/new?format=zip', 'x')).json['code'],
      'ERR_HTTP_FORMAT_UNSUPPORTED',
    )
    assert.equal(
      (await post('/v1/images/demo/new?device=x', 'x')).json['code'],
      'ERR_DIGEST_INVALID',
    )
    assert.equal(
      (await post(`/v1/images/demo/new@sha256:${'0'.repeat(64)}`, 'x')).json['code'],
      'ERR_REF_INVALID',
    )
    assert.equal(
      (await post('/v1/images/demo/new?wait=soon', 'x')).json['code'],
      'ERR_INVALID_ARGUMENT',
    )
  })
})

describe('admission', () => {
  test('507 comes before the body, and 100-continue is not given', async () => {
    await using client = await RawClient.open(server.port)
    control.freeBytes = 10
    client.send(
      'POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n',
    )
    const response = await client.next()
    assert.equal(response?.status, 507)
    assert.equal(JSON.parse(String(response?.body)).code, 'ERR_STORE_FULL')
    assert.equal(control.uploads.size, 0)
  })

  test('100-continue is given after admission', async () => {
    await using client = await RawClient.open(server.port)
    client.send(
      'POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n',
    )
    assert.equal((await client.next())?.status, 100)
    client.send('abc')
    assert.equal((await client.next())?.status, 201)
  })

  test('100-continue works for JSON bodies as well', async () => {
    await using client = await RawClient.open(server.port)
    const body = JSON.stringify({ from: 'demo/team/app:1' })
    client.send(
      `PUT /v1/images/demo/tagged HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`,
    )
    assert.equal((await client.next())?.status, 100)
    client.send(body)
    assert.equal((await client.next())?.status, 200)
  })

  test('a client that sends all the same meets the answer, not a reset', async () => {
    await using client = await RawClient.open(server.port)
    control.freeBytes = 10
    client.send(
      `POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n${'x'.repeat(1_000_000)}`,
    )
    const response = await client.next()
    assert.equal(response?.status, 507)
    assert.equal(response?.headers.get('connection'), 'close')
  })

  test('a body beyond what was admitted is cut off and given back', async () => {
    control.limitBytes = 100_000
    const { status, json } = await post(
      '/v1/blobs/demo',
      new Blob([randomBytes(5_000_000)]).stream(),
    )
    assert.equal(status, 413)
    assert.equal(json['code'], 'ERR_HTTP_BODY_TOO_LARGE')
    assert.equal(control.aborted.length, 1)
    assert.equal(control.uploads.size, 0)
  })

  test('a file that cannot be written is told as what it is, and given back', async (t) => {
    const probe = await open('/dev/null', 'w')
    const prototype = Object.getPrototypeOf(probe) as typeof probe
    await probe.close()
    const { beginUpload } = control
    t.after(() => void (control.beginUpload = beginUpload))
    const uploadTo = async (path: string | undefined) => {
      control.beginUpload = async (...args) => {
        const upload = await beginUpload.apply(control, args)
        return path === undefined ? upload : { ...upload, path }
      }
      const { status, json } = await post('/v1/blobs/demo', 'bytes')
      assert.equal(control.uploads.size, 0)
      return [status, json['code']]
    }
    assert.deepEqual(await uploadTo('/dev/full'), [507, 'ERR_STORE_FULL'])
    assert.deepEqual(await uploadTo(tmpdir()), [500, 'ERR_STORE_WRITE_FAILED'])
    for (const errno of ['EIO', 'EROFS', 'EFBIG'] as const) {
      const error = Object.assign(new Error('write'), {
        code: errno,
        errno: -constants.errno[errno],
      })
      const mocked = t.mock.method(prototype, 'writev', () => Promise.reject(error))
      assert.deepEqual(await uploadTo(undefined), [500, 'ERR_STORE_WRITE_FAILED'], errno)
      mocked.mock.restore()
    }
    assert.equal(control.aborted.length, 5)
  })

  test('a body that ends early is given back', async () => {
    const client = await RawClient.open(server.port)
    client.send('POST /v1/blobs/demo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc')
    await until(() => control.uploads.size === 1)
    client.socket.destroy()
    await once(client.socket, 'close')
    await until(() => control.aborted.length === 1)
    assert.equal(control.uploads.size, 0)
  })

  test('a client that left before its body was asked for is noticed at once', async (t) => {
    const front = createServer()
    t.after(() => front.close())
    front.listen(0, '127.0.0.1')
    await once(front, 'listening')
    const { port } = front.address() as AddressInfo
    const client = await RawClient.open(port)
    client.send('POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc')
    const [request] = (await once(front, 'request')) as [IncomingMessage]
    client.socket.destroy()
    await new Promise((resolve) => request.once('close', resolve))
    const path = join(await mkdtemp(join(tmpdir(), 'commonpage-upload-')), 'body')
    t.after(() => rm(dirname(path), { recursive: true }))
    await assert.rejects(receiveBody(request, { path, limitBytes: 1000 }), {
      code: 'ERR_HTTP_UPLOAD_ABORTED',
    })
  })
})
