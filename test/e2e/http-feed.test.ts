/**
 * The live feed of a whole server under clients that break the WebSocket protocol, or flood it:
 * each is told and cut off, others go on getting their deltas, and nothing stays behind.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { after, afterEach, before, describe, test } from 'node:test'

import type { HttpTarget } from './http-support/target.ts'
import { startHttpTarget } from './http-support/target.ts'
import { residentBytes } from '../resident-memory.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const FLOODERS = FULL ? 40 : 8
const PINGS = FULL ? 200_000 : 20_000
const MAX_GROWTH_BYTES = 64 << 20

const UPGRADE =
  'GET /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n' +
  'sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'

/** RFC 6455 §5.2, masked with zeros, which change nothing. */
function frame(first: number, payload: Uint8Array, length?: readonly number[]): Buffer {
  return Buffer.from([first, ...(length ?? [0x80 | payload.length]), 0, 0, 0, 0, ...payload])
}

const NONE = new Uint8Array(0)
const FIN = 0x80
/** Frames, and the close code that they are answered with (RFC 6455 §7.4.1). */
const BROKEN: readonly (readonly [string, Buffer, number])[] = [
  ['a reserved opcode', frame(FIN | 15, NONE), 1002],
  ['a reserved bit', frame(FIN | 0x40 | 1, NONE), 1002],
  ['a frame without a mask', Buffer.from([FIN | 1, 0]), 1002],
  ['a continuation of nothing', frame(FIN | 0, NONE), 1002],
  ['a message inside a message', Buffer.concat([frame(1, NONE), frame(1, NONE)]), 1002],
  ['a ping in fragments', frame(9, NONE), 1002],
  ['a ping of 200 bytes', frame(FIN | 9, new Uint8Array(200), [0xfe, 0, 200]), 1002],
  ['text that is no UTF-8', frame(FIN | 1, Uint8Array.of(0xc0, 0xae)), 1007],
  ['a message of 2,000 bytes', frame(FIN | 1, new Uint8Array(2_000), [0xfe, 7, 0xd0]), 1009],
  ['a message of 2^62 bytes', frame(FIN | 2, NONE, [0xff, 0x40, 0, 0, 0, 0, 0, 0, 0]), 1009],
  ['a close with a bad code', frame(FIN | 8, Uint8Array.of(0, 1)), 1002],
]

describe('the feed', () => {
  let target: HttpTarget
  before(async () => {
    target = await startHttpTarget(2)
  })
  after(() => target[Symbol.asyncDispose]())
  afterEach(async () => {
    await target.serves()
    await target.settled()
  })

  function open(): Socket {
    const socket = connect(target.port, '127.0.0.1')
    socket.on('error', () => undefined) // 'close' follows
    socket.write(UPGRADE)
    return socket
  }

  test('says what was wrong with a frame, and ends', async () => {
    const wrong: string[] = []
    for (const [name, bytes, code] of BROKEN) {
      const socket = open()
      const chunks: Buffer[] = []
      socket.on('data', (chunk: Buffer) => chunks.push(chunk))
      socket.write(bytes)
      await new Promise((resolve) => socket.once('close', resolve))
      const close = Buffer.from([0x88, 2, code >> 8, code & 255])
      if (!Buffer.concat(chunks).subarray(-4).equals(close)) wrong.push(name)
    }
    assert.deepEqual(wrong, [])
  })

  test(`cuts off ${FLOODERS} clients that send ${PINGS} pings in one go, and goes on`, async () => {
    const good = new WebSocket(`${target.server.http.replace('http', 'ws')}/v1/events`)
    for (let i = 0; i < 2; i++) await once(good, 'message')
    const atRest = residentBytes(target.server.pid)
    const ping = frame(FIN | 9, new Uint8Array(125), [0x80 | 125])
    const flood = Buffer.concat(Array<Buffer>(1_000).fill(ping))
    const flooders = Array.from({ length: FLOODERS }, () => open().resume())
    const ended = flooders.map((socket) => new Promise((resolve) => socket.once('close', resolve)))
    for (const socket of flooders) for (let i = 0; i < PINGS; i += 1_000) socket.write(flood)
    await Promise.all(ended)
    for (let i = 0; i < 2; i++) await once(good, 'message')
    const growth = residentBytes(target.server.pid) - atRest
    assert.ok(growth < MAX_GROWTH_BYTES, `${growth} bytes more resident`)
    good.close()
  })

  test('takes a flood of requests for a snapshot as one', async () => {
    const socket = open()
    let received = 0
    socket.on('data', (chunk: Buffer) => (received += chunk.length))
    await new Promise((resolve) => socket.once('data', resolve))
    const resync = frame(FIN | 1, Buffer.from('{"type":"resync"}'))
    const flood = Buffer.concat(Array<Buffer>(5_000).fill(resync))
    await new Promise((resolve) => socket.write(flood, resolve))
    const sent = flood.length
    for (let deltas = 0; deltas < 3; deltas++)
      await new Promise((resolve) => socket.once('data', resolve))
    assert.ok(received < sent, `${received} bytes for ${sent}`)
    socket.resetAndDestroy()
  })
})
