/** What bodies take in memory is bounded by what they are made of, not by what they carry: pieces of one byte. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { after, describe, test } from 'node:test'

import { KIB, MIB } from '../../src/core/index.ts'
import { PIECE_OVERHEAD_BYTES, UPLOAD_BUFFER_BYTES } from '../../src/server/http/limits.ts'
import { receiveBody } from '../../src/server/http/upload.ts'
import { collectGarbage } from '../collect-garbage.ts'
import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

/** The largest piece that a body comes in: what node reads from a socket at once. */
const MAX_PIECE_BYTES = 64 * KIB

const folder = await mkdtemp(join(tmpdir(), 'commonpage-body-'))
after(() => rm(folder, { recursive: true }))

const PUT_CHUNKED =
  'PUT /v1/images/demo/tagged:1 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n'
/** Requests behind another. */
const WAITING = 3

function heapBytes(): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

/** Each byte as an HTTP chunk of its own. */
function inPieces(bytes: Buffer): Buffer {
  const wire = Buffer.alloc(6 * bytes.length, '1\r\nx\r\n')
  for (const [i, byte] of bytes.entries()) wire[6 * i + 3] = byte
  return wire
}

describe('a JSON body in pieces of one byte', () => {
  test('costs what it carries, and is read', async () => {
    await using server = await startTestServer()
    const sockets: Socket[] = []
    server.app.server.on('connection', (socket: Socket) => sockets.push(socket))
    const wire = inPieces(Buffer.alloc(60_000, ' '))
    const clients = await Promise.all(Array.from({ length: 2 }, () => RawClient.open(server.port)))
    const before = heapBytes()
    for (const client of clients) {
      client.send(PUT_CHUNKED)
      client.socket.write(wire)
    }
    await until(
      () =>
        sockets.length === 2 &&
        sockets.every((row) => row.bytesRead === PUT_CHUNKED.length + wire.length),
    )
    const grown = heapBytes() - before
    // 25 MiB when each piece is kept as it came
    assert.ok(grown < 8 * MIB, `the heap has grown by ${grown} bytes`)
    const end = inPieces(Buffer.from(JSON.stringify({ from: 'demo/team/app:1' })))
    for (const client of clients) {
      client.socket.write(end)
      client.send('0\r\n\r\n')
      assert.equal((await client.next())?.status, 200)
      await client[Symbol.asyncDispose]()
    }
  })
})

describe('JSON bodies that wait behind another answer', () => {
  test('cost what they carry, and are read in their turn', async () => {
    await using server = await startTestServer()
    const sockets: Socket[] = []
    server.app.server.on('connection', (socket: Socket) => sockets.push(socket))
    const { control } = server.planes
    const gate = Promise.withResolvers<void>()
    const { stats } = control
    control.stats = async () => {
      await gate.promise
      return stats.call(control)
    }
    await using client = await RawClient.open(server.port)
    client.get('/v1/stats')
    const text = JSON.stringify({ from: 'demo/team/app:1' })
    const body = inPieces(Buffer.concat([Buffer.alloc(50_000, ' '), Buffer.from(text)]))
    const before = heapBytes()
    const request = Buffer.concat([Buffer.from(PUT_CHUNKED), body, Buffer.from('0\r\n\r\n')])
    for (let i = 0; i < WAITING; i++) client.socket.write(request)
    await until(() => (sockets[0]?.bytesRead ?? 0) > WAITING * request.length)
    const grown = heapBytes() - before
    // 31 MiB when each piece is kept as it came
    assert.ok(grown < 8 * MIB, `the heap has grown by ${grown} bytes`)
    gate.resolve()
    for (let i = 0; i <= WAITING; i++) assert.equal((await client.next())?.status, 200)
  })
})

/** Receives a body whose writes wait for `release`, each. */
async function receiveGated(t: TestContext, path: string) {
  const gates: (() => void)[] = []
  const taken = { pieces: 0, bytes: 0, written: 0 }
  const probe = await open(path, 'w')
  const prototype = Object.getPrototypeOf(probe) as typeof probe
  await probe.close()
  const { writev } = prototype
  t.mock.method(
    prototype,
    'writev',
    async function (this: typeof probe, ...args: Parameters<typeof writev>) {
      await new Promise<void>((resolve) => gates.push(resolve))
      const done = await Reflect.apply<typeof probe, typeof args, ReturnType<typeof writev>>(
        writev,
        this,
        args,
      )
      taken.written += done.bytesWritten
      return done
    },
  )
  const front = createServer()
  t.after(() => front.close())
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  const client = await RawClient.open((front.address() as AddressInfo).port)
  t.after(() => client[Symbol.asyncDispose]())
  client.send('POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n')
  const [request] = (await once(front, 'request')) as [IncomingMessage]
  const received = receiveBody(request, { path, limitBytes: 1 << 30 })
  // When the receiver is ready, it listens: only then may the body flow.
  await until(() => request.listenerCount('data') > 0)
  request.on('data', (piece: Buffer) => {
    taken.pieces++
    taken.bytes += piece.length
  })
  return { client, request, received, taken, gates }
}

describe('an upload whose file stands still', () => {
  test('takes few pieces of one byte, and has them all in the end', async (t) => {
    const path = join(folder, 'small')
    const { client, request, received, taken, gates } = await receiveGated(t, path)
    const body = randomBytes(20_000)
    client.socket.write(inPieces(body))
    await until(() => request.isPaused())
    assert.ok(taken.pieces <= UPLOAD_BUFFER_BYTES / PIECE_OVERHEAD_BYTES, `${taken.pieces} pieces`)
    client.send('0\r\n\r\n')
    const opener = setInterval(() => gates.shift()?.(), 1)
    t.after(() => clearInterval(opener))
    assert.equal(await received, body.length)
    assert.ok(body.equals(await readFile(path)))
  })

  test('holds what waits and what is being written within one bound', async (t) => {
    const path = join(folder, 'large')
    const { client, request, received, taken, gates } = await receiveGated(t, path)
    const body = randomBytes(4 * MIB)
    client.send(`${body.length.toString(16)}\r\n`)
    client.socket.write(body)
    client.send('\r\n0\r\n\r\n')
    await until(() => request.isPaused())
    gates.shift()?.()
    // The second write, of what waited behind the first, stands still as well.
    await until(() => gates.length > 0 && request.isPaused())
    const held = taken.bytes - taken.written
    assert.ok(taken.written > 0)
    assert.ok(held <= UPLOAD_BUFFER_BYTES + MAX_PIECE_BYTES, `${held} bytes`)
    const opener = setInterval(() => gates.shift()?.(), 1)
    t.after(() => clearInterval(opener))
    assert.equal(await received, body.length)
    assert.ok(body.equals(await readFile(path)))
  })
})
