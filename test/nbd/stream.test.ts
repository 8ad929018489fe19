/** Replies in pieces: order, back-pressure, and errors behind the first piece. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ReplyPiece } from '../../src/nbd/index.ts'
import { NBD_CMD_FLAG, NBD_E } from '../../src/nbd/index.ts'
import { pattern, TestExport } from './exports.ts'
import { TestServer, turns } from './harness.ts'
import type { WireClient } from './wire.ts'
import { chunk, request, simpleReply, u64 } from './wire.ts'

const SIZE = 8 * 1024 * 1024
const PIECE = 64 * 1024
const COOKIE = 0xfedcba9876543210n

/** An export whose reads above `from` bytes are streamed in pieces; `failAt` breaks them. */
class StreamExport extends TestExport {
  failAt = Infinity
  extra = 0
  pulled = 0
  returned = 0
  gate: Promise<void> | undefined

  override read(offset: number, length: number, reply: Parameters<TestExport['read']>[2]): void {
    if (length < PIECE) super.read(offset, length, reply)
    else reply.stream(this.#pieces(offset, length))
  }

  async *#pieces(offset: number, length: number): AsyncGenerator<ReplyPiece> {
    try {
      for (let at = 0; at < length + this.extra; at += PIECE) {
        if (at >= this.failAt) throw Object.assign(new Error('disk gone'), { code: 'EIO' })
        if (at > 0) await this.gate
        this.pulled++
        const end = Math.min(at + PIECE, length + this.extra)
        yield { parts: [this.bytes.subarray(offset + at, offset + end)], release: this.lend() }
      }
    } finally {
      this.returned++
    }
  }
}

async function open(
  structured: boolean,
): Promise<{ target: StreamExport; server: TestServer; client: WireClient } & AsyncDisposable> {
  const target = new StreamExport(pattern(SIZE))
  const server = new TestServer(target)
  const client = server.pair()
  await client.go('x', { structured })
  return { target, server, client, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

/** Reads chunks until DONE; gives the data in place and the error, if any. */
async function collect(
  client: WireClient,
  offset: number,
  length: number,
): Promise<{ data: Buffer; error: number; chunks: number }> {
  const data = Buffer.alloc(length)
  let chunks = 0
  for (;;) {
    const { flags, type, payload } = await client.chunk()
    let error = 0
    if (type === 1) {
      chunks++
      payload.copy(data, Number(payload.readBigUInt64BE(0)) - offset, 8)
    } else if (type !== 0) {
      error = payload.readUInt32BE(0)
    }
    if ((flags & 1) !== 0) return { data, error, chunks }
  }
}

test('simple: one header, all bytes', async () => {
  await using opened = await open(false)
  const { target, client } = opened
  client.send(request({ offset: 100, length: 1_000_000 }))
  await client.expect(simpleReply(COOKIE, 0, target.bytes.subarray(100, 1_000_100)))
  assert.deepEqual([target.sent, target.returned], [target.released, 1])
})

test('structured: a chunk per piece; DF: one chunk', async () => {
  await using opened = await open(true)
  const { target, client } = opened
  client.send(request({ offset: 512, length: 1_000_000 }))
  const pieces = await collect(client, 512, 1_000_000)
  assert.deepEqual([pieces.error, pieces.chunks], [0, 16])
  assert.ok(pieces.data.equals(target.bytes.subarray(512, 1_000_512)))
  client.send(request({ flags: NBD_CMD_FLAG.DF, offset: 512, length: 1_000_000 }))
  const data = target.bytes.subarray(512, 1_000_512)
  await client.expect(chunk(0, 1, COOKIE, Buffer.concat([u64(512), data])))
  await client.expect(chunk(1, 0, COOKIE, Buffer.alloc(0)))
})

test('simple: replies that become ready during a stream wait for its end', async () => {
  await using opened = await open(false)
  const { target, client } = opened
  let openGate = (): void => {}
  target.gate = new Promise((resolve) => (openGate = resolve))
  client.send(request({ cookie: 1n, length: 3 * PIECE }))
  await client.expect(simpleReply(1n, 0, target.bytes.subarray(0, PIECE)))
  client.send(request({ cookie: 2n, length: 10 }))
  await turns(5)
  assert.equal(client.buffered, 0)
  openGate()
  await client.expect(target.bytes.subarray(PIECE, 3 * PIECE))
  await client.expect(simpleReply(2n, 0, target.bytes.subarray(0, 10)))
})

test('simple: a stream goes on however much waits for its end', async () => {
  await using opened = await open(false)
  const { target, client } = opened
  let openGate = (): void => {}
  target.gate = new Promise((resolve) => (openGate = resolve))
  client.send(request({ cookie: 1n, length: SIZE }))
  await client.expect(simpleReply(1n, 0, target.bytes.subarray(0, PIECE)))
  // Twice of what may wait for the socket before a stream pauses.
  const others = Array.from({ length: 2 * 17 }, (_, i) => BigInt(2 + i))
  const length = PIECE - 1
  client.send(...others.map((cookie) => request({ cookie, length })))
  await turns(5)
  assert.equal(target.sent - target.released, others.length)
  openGate()
  await client.expect(target.bytes.subarray(PIECE, SIZE))
  for (const cookie of others) {
    await client.expect(simpleReply(cookie, 0, target.bytes.subarray(0, length)))
  }
})

test('structured: other replies go between the chunks of a stream', async () => {
  await using opened = await open(true)
  const { target, client } = opened
  let openGate = (): void => {}
  target.gate = new Promise((resolve) => (openGate = resolve))
  client.send(request({ cookie: 1n, length: 2 * PIECE }), request({ cookie: 2n, length: 10 }))
  const cookies = [(await client.chunk()).cookie, (await client.chunk()).cookie]
  assert.deepEqual(new Set(cookies), new Set([1n, 2n]))
  openGate()
  assert.equal((await client.chunk()).cookie, 1n)
})

test('several streams take turns and all arrive', async () => {
  await using opened = await open(false)
  const { target, client } = opened
  const cookies = [1n, 2n, 3n]
  client.send(...cookies.map((cookie) => request({ cookie, length: 5 * PIECE })))
  for (const cookie of cookies) {
    await client.expect(simpleReply(cookie, 0, target.bytes.subarray(0, 5 * PIECE)))
  }
})

describe('errors', () => {
  for (const structured of [false, true]) {
    test(`before the first piece: an error reply (structured ${structured})`, async () => {
      await using opened = await open(structured)
      const { target, server, client } = opened
      target.failAt = 0
      client.send(request({ length: PIECE }), request({ cookie: 2n, length: 1 }))
      if (structured) {
        const replies = [await client.chunk(), await client.chunk()]
        const failed = replies.find((reply) => reply.cookie === COOKIE)
        assert.equal(failed?.type, 0x8001)
      } else {
        const replies = [await client.simple(1), await client.simple(1)]
        const errors = replies.map(({ cookie, error }) => [cookie, error])
        assert.deepEqual(
          new Map(errors as [bigint, number][]),
          new Map([
            [2n, 0],
            [COOKIE, NBD_E.EIO],
          ]),
        )
      }
      assert.equal(server.counter('errors.READ.EIO'), 1)
    })
  }

  test('simple, behind the header: the connection is dropped', async () => {
    await using opened = await open(false)
    const { target, server, client } = opened
    target.failAt = 2 * PIECE
    client.send(request({ length: 4 * PIECE }))
    await client.gone()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes], [['failed'], ['ERR_NBD_READ']])
    assert.equal(target.sent, target.released)
  })

  test('simple, behind the header: streams in line never begin, what waits is released', async () => {
    await using opened = await open(false)
    const { target, server, client } = opened
    let openGate = (): void => {}
    target.gate = new Promise((resolve) => (openGate = resolve))
    target.failAt = 2 * PIECE
    client.send(request({ length: 3 * PIECE }), request({ cookie: 2n, length: 3 * PIECE }))
    await client.expect(simpleReply(COOKIE, 0, target.bytes.subarray(0, PIECE)))
    client.send(...Array.from({ length: 8 }, () => request({ length: 20_000 })))
    await turns(5)
    assert.equal(target.sent - target.released, 8)
    openGate()
    await server.ended(1)
    await turns(5)
    assert.deepEqual([target.pulled, server.outcomes], [2, ['failed']])
    assert.deepEqual([target.sent, target.doubleReleases], [target.released, 0])
    assert.deepEqual([target.closed, target.unreleasedAtClose], [1, 0])
  })

  test('structured, behind some chunks: an error chunk at the offset, the connection lives', async () => {
    await using opened = await open(true)
    const { target, server, client } = opened
    target.failAt = 2 * PIECE
    client.send(request({ offset: 512, length: 4 * PIECE }))
    await client.chunk()
    await client.chunk()
    const { type, flags, payload } = await client.chunk()
    assert.deepEqual([type, flags, payload.readUInt32BE(0)], [0x8002, 1, NBD_E.EIO])
    assert.equal(payload.readBigUInt64BE(payload.length - 8), BigInt(512 + 2 * PIECE))
    client.send(request({ cookie: 2n, length: 1 }))
    assert.equal((await client.chunk()).cookie, 2n)
    await turns(2)
    assert.equal(server.counter('in_flight_bytes'), 0)
  })

  test('DF, behind some bytes: padded with zeroes to its length, then an error chunk', async () => {
    await using opened = await open(true)
    const { target, client } = opened
    target.failAt = 2 * PIECE
    client.send(request({ flags: NBD_CMD_FLAG.DF, length: 4 * PIECE }))
    const data = await client.chunk()
    assert.deepEqual([data.type, data.flags, data.payload.length], [1, 0, 8 + 4 * PIECE])
    assert.ok(data.payload.subarray(8 + 2 * PIECE).every((byte) => byte === 0))
    assert.equal((await client.chunk()).type, 0x8002)
  })

  test('too few and too many bytes are errors', async () => {
    await using opened = await open(true)
    const { target, server, client } = opened
    for (const extra of [-PIECE, PIECE]) {
      target.extra = extra
      client.send(request({ length: 4 * PIECE }))
      assert.equal((await collect(client, 0, 4 * PIECE)).error, NBD_E.EIO)
    }
    assert.equal(target.sent, target.released)
    assert.equal(server.errors.length, 2)
  })
})

/** A stream that was begun before its first piece is asked for, as a Readable is, and has to be ended. */
class EagerPieces implements AsyncIterableIterator<ReplyPiece> {
  readonly #next: Promise<ReplyPiece>
  returned = 0

  constructor(next: Promise<ReplyPiece>) {
    this.#next = next
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<ReplyPiece>> {
    return { done: false, value: await this.#next }
  }

  async return(): Promise<IteratorResult<ReplyPiece>> {
    this.returned++
    throw new Error('of no interest behind the end of the connection')
  }
}

for (const structured of [false, true]) {
  test(`each stream is ended with its connection: running, waiting, late (structured ${structured})`, async () => {
    const target = new TestExport(pattern(PIECE))
    const streams: EagerPieces[] = []
    const replies: Parameters<TestExport['read']>[2][] = []
    const piece = Promise.withResolvers<ReplyPiece>()
    target.onRead = (_offset, _length, reply) => {
      replies.push(reply)
      if (replies.length === 4) return
      const pieces = new EagerPieces(piece.promise)
      streams.push(pieces)
      reply.stream(pieces)
    }
    await using server = new TestServer(target)
    const client = server.pair()
    await client.go('x', { structured })
    client.send(...Array.from({ length: 4 }, () => request({ length: PIECE })))
    while (replies.length < 4) await turns(1)
    client.stream.destroy()
    await server.ended(1)
    assert.deepEqual(
      streams.map(({ returned }) => returned),
      [0, 1, 1],
      'the first waits for its piece',
    )
    piece.resolve({ parts: [target.bytes], release: target.lend() })
    const late = new EagerPieces(piece.promise)
    replies[3]?.stream(late)
    await turns(2)
    assert.deepEqual(
      [...streams, late].map(({ returned }) => returned),
      [1, 1, 1, 1],
    )
    assert.deepEqual([target.sent, target.released, target.closed], [1, 1, 1])
    assert.deepEqual(server.errors, [])
  })
}

test('a client that does not read stops the pulling; its end releases everything', async () => {
  const target = new StreamExport(pattern(SIZE))
  await using server = await new TestServer(target).listen()
  const { client, socket } = await server.connect()
  await client.go()
  socket.pause()
  client.send(request({ length: SIZE }), request({ length: SIZE }), request({ length: SIZE }))
  // Loopback takes some MiB; wait until the server has stopped pulling for a while.
  for (let still = 0, last = -1; still < 200; still = target.pulled === last ? still + 1 : 0) {
    last = target.pulled
    await turns(1)
  }
  assert.ok(target.pulled * PIECE < 3 * SIZE, `${target.pulled} pieces pulled`)
  assert.ok(target.sent - target.released <= 34, `${target.sent - target.released} pieces held`)
  socket.resetAndDestroy()
  await server.ended(1)
  await turns(5)
  assert.deepEqual([target.sent, target.doubleReleases, target.closed], [target.released, 0, 1])
})
