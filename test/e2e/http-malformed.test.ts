/**
 * What maltreats a whole server over HTTP: requests that are none, floods, clients that leave at every point
 * of a reply, a thousand ranges, deep pipelines on connections that die. With one and with two data workers:
 * the answers are right, others are served meanwhile, and nothing stays behind.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { after, afterEach, before, describe, test } from 'node:test'

import { digestOf } from '../../src/core/index.ts'
import { evidence } from '../evidence.ts'
import { malformedRequests, oddRequests } from '../http/malformed-requests.ts'
import { readMultipart } from '../http/multipart.ts'
import type { RawClient } from '../http/raw-client.ts'
import { Random, spreadSeed } from '../random.ts'
import type { HttpTarget } from './http-support/target.ts'
import { post, startHttpTarget } from './http-support/target.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
/** Fewer than the connections that a server takes of one address. */
const FLOOD = FULL ? 500 : 200
const CUTS = FULL ? 1_500 : 60
const PIPELINES = FULL ? 500 : 25
const DEPTH = 100
const SEED = Number(process.env['COMMONPAGE_SEED'] ?? 20)

for (const workers of [1, 2]) {
  describe(`a server with ${workers} data worker(s)`, () => {
    let target: HttpTarget
    before(async () => {
      target = await startHttpTarget(workers)
    })
    after(() => target[Symbol.asyncDispose]())
    afterEach(async () => {
      await target.serves()
      await target.settled()
    })

    test('answers every malformed and every odd request as it should', async () => {
      const wrong: string[] = []
      const malformed = malformedRequests(target)
      for (const { name, bytes, status, code } of malformed) {
        await using client = await target.open()
        client.send(bytes)
        const response = await client.next()
        const found = response === undefined ? 'no answer' : codeOf(response.body)
        if (response?.status !== status || found !== code) {
          wrong.push(`${name}: ${response?.status} ${found}, expected ${status} ${code}`)
        }
      }
      const odd = oddRequests(target)
      for (const { name, bytes, statuses } of odd) {
        await using client = await target.open()
        client.send(bytes)
        for (const status of statuses) {
          const found = (await client.next())?.status
          if (found !== status) wrong.push(`${name}: ${found}, expected ${status}`)
        }
      }
      assert.deepEqual(wrong, [])
      evidence('http-malformed', { workers, malformed: malformed.length, odd: odd.length })
    })

    test(`serves a good client while ${FLOOD} others dribble their headers`, async () => {
      const slow = await Promise.all(Array.from({ length: FLOOD }, () => target.open()))
      for (const client of slow) client.send('GET /livez HTTP/1.1\r\nhost: localhost\r\nx-slow: ')
      for (let i = 0; i < 20; i++) {
        for (const client of slow) client.send('y')
        await target.serves()
      }
      if (FULL) {
        // The limit is 30 s, looked at every 2 s.
        for (const client of slow) assert.equal((await client.next())?.status, 408)
      }
      for (const client of slow) await client[Symbol.asyncDispose]()
    })

    test('refuses every broken upload and gives its space back', async () => {
      const nothing = `sha256:${'0'.repeat(64)}`
      const upload = (path: string, framing: string, body: string): string =>
        `POST ${path} HTTP/1.1\r\nhost: localhost\r\n${framing}\r\n\r\n${body}`
      // No other request to this server sends these bytes.
      const refused = 'of a refused upload'
      const whole = `content-length: ${refused.length}`
      const blobs = '/v1/blobs/demo'
      const rows: [string, string, number, string][] = [
        [
          'chunks that turn to garbage',
          upload(
            blobs,
            'transfer-encoding: chunked',
            `${refused.length.toString(16)}\r\n${refused}\r\nzz`,
          ),
          400,
          'ERR_HTTP_MALFORMED',
        ],
        [
          'more than any disk',
          upload(blobs, 'content-length: 9000000000000000', refused),
          507,
          'ERR_STORE_FULL',
        ],
        [
          'another digest',
          upload(`${blobs}?digest=${nothing}`, whole, refused),
          400,
          'ERR_STORE_DIGEST_MISMATCH',
        ],
        ['no digest', upload(`${blobs}?digest=md5:x`, whole, refused), 400, 'ERR_DIGEST_INVALID'],
        ['no domain', upload('/v1/blobs/DEMO', whole, refused), 400, 'ERR_REF_INVALID'],
        [
          'no byte of an image',
          upload('/v1/images/demo/none:1?wait=true', 'content-length: 0', ''),
          400,
          'ERR_IMPORT_EMPTY',
        ],
        [
          'no reference',
          upload('/v1/images/demo?wait=true', whole, refused),
          400,
          'ERR_REF_INVALID',
        ],
      ]
      for (const [name, bytes, status, code] of rows) {
        await using client = await target.open()
        client.send(bytes)
        const response = await client.next()
        const found = response === undefined ? 'no answer' : codeOf(response.body)
        assert.deepEqual([response?.status, found], [status, code], name)
      }
      const blob = `${blobs}/${digestOf(Buffer.from(refused))}`
      assert.equal((await target.ask(blob)).status, 404, 'nothing of a refused upload is there')
      // Three bytes are no image that can be read, and no broken upload: they are stored and served as they are.
      const none = '/v1/images/demo/none:1'
      assert.equal(await post(`${target.server.http}${none}?wait=true`, Buffer.from('abc')), 201)
      assert.equal(String((await target.ask(`${none}/-/raw`)).body), 'abc')
      const files = await target.ask(`${none}/-/files`)
      assert.deepEqual([files.status, codeOf(files.body)], [422, 'ERR_IMAGE_NOT_PARSED'])
      const announced = 1_000_000
      for (const at of [0, 1, 65_536, announced - 1]) {
        const client = await target.open()
        client.send(upload(blobs, `content-length: ${announced}`, ''))
        client.socket.write(randomBytes(at))
        if (at % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
        client.socket.resetAndDestroy()
      }
      if (FULL) {
        await using client = await target.open()
        client.send(upload(blobs, `content-length: ${announced}`, 'abc'))
        assert.equal((await client.next())?.status, 408)
      }
    })

    test(`forgets ${CUTS} clients that leave at every point of a reply`, async () => {
      const chance = new Random(spreadSeed(SEED))
      const ranges = Array.from({ length: 40 }, (_, i) => `${i * 500_000}-${i * 500_000 + 30_000}`)
      const replies: [string, string | undefined][] = [
        [`${target.kept}/-/raw`, 'bytes=0-9'],
        [`${target.kept}/-/raw`, undefined],
        [target.blob, 'bytes=100-200099'],
        [target.blob, `bytes=${ranges.join(',')}`],
        [target.blob, undefined],
      ]
      let replied = 0
      for (let i = 0; i < CUTS; i++) {
        const [path, range] = replies[i % replies.length] ?? ['/', undefined]
        const limit = chance.of(
          0,
          1,
          chance.next(400),
          chance.next(200_000),
          chance.next(2_000_000),
        )
        replied += await leaveAfter(target.port, path, range, limit, chance.once(2))
      }
      evidence('http-aborts', { workers, seed: SEED, clients: CUTS, bytesRead: replied })
    })

    test('sends 1,024 ranges in their order, and refuses one more', async () => {
      const chance = new Random(spreadSeed(SEED))
      const starts = Array.from({ length: 1024 }, () =>
        chance.next(target.blobBytes.length - 1_000),
      )
      const lengths = starts.map(() => 1 + chance.next(900))
      const specs = starts.map((at, i) => `${at}-${at + (lengths[i] ?? 1) - 1}`)
      const storeBefore = await readFromStore(target)
      const response = await target.ask(target.blob, { range: `bytes=${specs.join(',')}` })
      assert.equal(response.status, 206)
      const parts = readMultipart(response.headers.get('content-type') ?? '', response.body)
      assert.equal(parts.length, 1024)
      for (const [i, part] of parts.entries()) {
        const at = starts[i] ?? 0
        assert.ok(
          part.bytes.equals(target.blobBytes.subarray(at, at + (lengths[i] ?? 0))),
          `part ${i}`,
        )
      }
      const more = await target.ask(target.blob, { range: `bytes=${[...specs, '0-0'].join(',')}` })
      assert.deepEqual([more.status, codeOf(more.body)], [400, 'ERR_HTTP_TOO_MANY_RANGES'])
      const asked = lengths.reduce((sum, length) => sum + length, 0)
      evidence('http-1024-ranges', {
        workers,
        askedBytes: asked,
        sentBytes: response.body.length,
        storeBytes: (await readFromStore(target)) - storeBefore,
      })
    })

    test('bounds what odd ranges cost', async () => {
      const size = target.blobBytes.length
      const same = (spec: string, count: number): string =>
        `bytes=${Array(count).fill(spec).join(',')}`
      const rows: [string, number, number][] = [
        [same('0-0', 1024), 206, 1024 * 256],
        [same('-1', 1024), 206, 1024 * 256],
        [same('0-20000', 1024), 206, 1024 * 20_300],
        [same('0-30000', 1024), 200, size],
        [`bytes=0-${size - 1},0-0`, 200, size],
        [`bytes=${'9'.repeat(60_000)}-`, 416, 1_000],
        [`bytes=0-${'9'.repeat(60_000)}`, 206, size],
        [`bytes=${','.repeat(60_000)}0-0`, 206, 1],
        [`bytes=${','.repeat(60_000)}`, 416, 1_000],
        [`bytes=${' '.repeat(30_000)},0-0${'\t'.repeat(30_000)}`, 206, 1],
        [`bytes=${size}-`, 416, 1_000],
        ['bytes=5-1', 416, 1_000],
        ['bytes=--1', 416, 1_000],
        ['bytes=1', 416, 1_000],
        ['bytes=0x0-1', 416, 1_000],
        ['bytes=0-1;2-3', 416, 1_000],
        ['pages=0-1', 200, size],
      ]
      for (const [range, status, atMost] of rows) {
        const response = await target.ask(target.blob, { range })
        const name = `${range.slice(0, 40)} (${range.length})`
        assert.equal(response.status, status, name)
        assert.ok(response.body.length <= atMost, `${name}: ${response.body.length} bytes`)
        if (status === 200) assert.ok(response.body.equals(target.blobBytes), name)
      }
    })

    test(`answers pipelines of ${DEPTH} in their order, or not at all when the connection dies`, async () => {
      const chance = new Random(spreadSeed(SEED))
      let answers = 0
      for (let i = 0; i < PIPELINES; i++) {
        const client = await target.open()
        const dies = i % 4 === 0 ? Infinity : chance.next(DEPTH)
        answers += await runPipeline(target, client, chance, dies)
      }
      evidence('http-pipelines', {
        workers,
        seed: SEED,
        pipelines: PIPELINES,
        depth: DEPTH,
        answers,
      })
    })
  })
}

function codeOf(body: Buffer): string {
  return String(JSON.parse(String(body)).code)
}

async function readFromStore(target: HttpTarget): Promise<number> {
  return JSON.parse(String((await target.ask('/v1/stats')).body)).storeReadBytes
}

/** Asks, and leaves once `limit` bytes have come. @returns the bytes that came */
async function leaveAfter(
  port: number,
  path: string,
  range: string | undefined,
  limit: number,
  reset: boolean,
): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined) // 'close' follows
  const line = range === undefined ? '' : `range: ${range}\r\n`
  socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n${line}\r\n`)
  let received = 0
  const leave = (): void => void (reset ? socket.resetAndDestroy() : socket.destroy())
  if (limit === 0) socket.once('connect', () => setImmediate(leave))
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length
    if (received >= limit) leave()
  })
  await new Promise((resolve) => socket.once('close', resolve))
  return received
}

interface Expected {
  readonly status: number
  readonly bytes?: Buffer
}

/** Sends a mixed pipeline at once and takes answers until `dies` of them came. @returns how many came */
async function runPipeline(
  target: HttpTarget,
  client: RawClient,
  chance: Random,
  dies: number,
): Promise<number> {
  const expected: Expected[] = []
  for (let i = 0; i < DEPTH; i++) expected.push(pipelined(target, client, chance))
  for (const [i, { status, bytes }] of expected.entries()) {
    if (i === dies) {
      if (chance.once(2)) client.socket.resetAndDestroy()
      else client.socket.destroy()
      await client.ended()
      return i
    }
    const response = await client.next()
    // Beyond the requests that may wait, those at the end of the pipeline are told to come again.
    if (response?.status === 503 && i > DEPTH / 2) continue
    assert.equal(response?.status, status, `answer ${i}`)
    if (bytes !== undefined) assert.ok(response?.body.equals(bytes), `bytes of answer ${i}`)
  }
  await client[Symbol.asyncDispose]()
  return DEPTH
}

/** One request of a pipeline: hot, cold, a record, or refused. */
function pipelined(target: HttpTarget, client: RawClient, chance: Random): Expected {
  const at = chance.next(target.blobBytes.length - 100_000)
  switch (chance.next(5)) {
    case 0:
      client.get(`${target.kept}/-/raw`, { range: 'bytes=0-4095' })
      return { status: 206, bytes: target.imageBytes.subarray(0, 4096) }
    case 1:
      client.get(target.blob, { range: `bytes=${at}-${at + 65_535}` })
      return { status: 206, bytes: target.blobBytes.subarray(at, at + 65_536) }
    case 2:
      client.get(target.image)
      return { status: 200 }
    case 3:
      client.get(target.blob, { range: 'bytes=5-1' })
      return { status: 416 }
    default:
      client.get(`${target.kept}/-/files/absent`)
      return { status: 404 }
  }
}
