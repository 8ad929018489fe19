/** What a connection, and all of them, may hold: in-flight bounds, slow readers, releases under resets. */
import assert from 'node:assert/strict'
import { Duplex } from 'node:stream'
import { describe, test } from 'node:test'

import { NBD_CMD, NBD_CMD_FLAG, NBD_E, NBD_OPT } from '../../src/nbd/index.ts'
import { pattern, TestExport } from './exports.ts'
import { start, TestServer, turns } from './harness.ts'
import { CLIENT_FLAGS, infoData, numbered, option, request, simpleReply } from './wire.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const MIB = 1024 * 1024

/** Takes so many writes at once and leaves the one after them hanging. */
class StuckStream extends Duplex {
  takes = Infinity
  #stuck: (() => void) | undefined

  override _read(): void {}

  override _writev(_chunks: unknown, done: () => void): void {
    if (this.takes-- > 0) done()
    else this.#stuck = done
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#stuck?.()
    done(error)
  }

  /** Takes the hanging write. */
  proceed(): void {
    const done = this.#stuck
    this.#stuck = undefined
    this.takes--
    done?.()
  }
}

describe('bounds', () => {
  test('a client that asks and does not read holds a bounded number of bytes', async () => {
    await using opened = await start(2 * MIB, { slowReaderMs: 400 })
    const { server, target } = opened
    const { client, socket } = await server.connect()
    await client.go()
    socket.pause()
    client.send(...Array.from({ length: 7168 }, () => request({ length: MIB })))
    let most = 0
    while (server.outcomes.length === 0) {
      most = Math.max(most, target.sent - target.released)
      assert.ok(server.counter('in_flight_bytes') <= 32 * MIB)
      assert.ok(server.counter('in_flight') <= 128)
      await turns(1)
    }
    assert.ok(most > 16 && most <= 32, `${most} MiB lent at once`)
    assert.deepEqual([server.outcomes, server.codes], [['slow_reader'], ['ERR_NBD_SLOW_READER']])
    assert.deepEqual([target.sent - target.released, target.unreleasedAtClose], [0, 0])
    assert.equal(server.counter('in_flight_bytes'), 0)
    socket.destroy()
  })

  test('a flood of small requests and refused writes is bounded as well', async () => {
    await using opened = await start(100_000, { slowReaderMs: 200, maxInFlight: 64 })
    const { server, target } = opened
    target.fast = true
    const { client, socket } = await server.connect()
    await client.go()
    socket.pause()
    const write = Buffer.concat([request({ type: NBD_CMD.WRITE, length: 1 }), Buffer.alloc(1)])
    const flood = Buffer.concat(
      Array.from({ length: 5000 }, (_, i) => (i % 5 === 0 ? write : request({ length: 16_384 }))),
    )
    const feed = (): void => {
      while (!socket.destroyed && socket.write(flood));
    }
    socket.on('drain', feed)
    socket.on('error', () => {})
    feed()
    while (server.outcomes.length === 0) {
      assert.ok(server.counter('in_flight') <= 64)
      await turns(1)
    }
    assert.deepEqual(server.outcomes, ['slow_reader'])
  })

  test('when the bytes of the whole server are used up, others still read a little, then a lot', async () => {
    const target = new TestExport(pattern(8 * MIB))
    const limits = { maxTotalInFlightBytes: 4 * MIB }
    await using server = await new TestServer(target, { limits }).listen()
    target.hold = true
    const hog = await server.connect()
    await hog.client.go()
    hog.client.send(numbered(4, MIB))
    while (target.held.length < 4) await new Promise<void>((r) => (target.onHeld = r))
    const other = await server.connect()
    await other.client.go()
    other.client.send(numbered(1, 4096), request({ cookie: 9n, length: MIB }))
    while (target.held.length < 5) await new Promise<void>((r) => (target.onHeld = r))
    target.hold = false
    for (const held of target.held.splice(4)) target.answer(held)
    await other.client.expect(simpleReply(0n, 0, target.bytes.subarray(0, 4096)))
    await turns(20)
    assert.equal(other.client.buffered, 0)
    for (const held of target.held.splice(0)) target.answer(held)
    for (let i = 0; i < 4; i++) await hog.client.simple(MIB)
    await other.client.expect(simpleReply(9n, 0, target.bytes.subarray(0, MIB)))
  })

  test('a read larger than the whole budget neither waits for all others nor keeps them waiting', async () => {
    const target = new TestExport(pattern(5 * MIB))
    const limits = { maxTotalInFlightBytes: 2 * MIB, maxInFlightBytes: MIB }
    await using server = await new TestServer(target, { limits }).listen()
    target.hold = true
    const stalled = await server.connect()
    await stalled.client.go()
    stalled.client.send(request({ length: MIB }))
    while (target.held.length < 1) await new Promise<void>((r) => (target.onHeld = r))
    target.hold = false
    const [large, other] = [await server.connect(), await server.connect()]
    await large.client.go()
    await other.client.go()
    for (let i = 0; i < 3; i++) {
      large.client.send(request({ cookie: 2n, length: 4 * MIB }))
      other.client.send(request({ cookie: 3n, length: MIB / 4 }))
      await other.client.expect(simpleReply(3n, 0, target.bytes.subarray(0, MIB / 4)))
      await large.client.expect(simpleReply(2n, 0, target.bytes.subarray(0, 4 * MIB)))
    }
    for (const held of target.held.splice(0)) target.answer(held)
    await stalled.client.simple(MIB)
    while (server.counter('in_flight') > 0) await turns(1)
    assert.equal(server.counter('in_flight_bytes'), 0)
  })

  test('a read that is refused waits for no bytes and takes none, simple and structured', async () => {
    const target = new TestExport(pattern(8 * MIB))
    const limits = { maxTotalInFlightBytes: 4 * MIB }
    await using server = await new TestServer(target, { limits }).listen()
    target.hold = true
    const hog = await server.connect()
    await hog.client.go()
    hog.client.send(numbered(4, MIB))
    while (target.held.length < 4) await new Promise<void>((r) => (target.onHeld = r))
    const refused = [
      { offset: 8 * MIB - 1, length: MIB },
      { offset: 2n ** 64n - 1n, length: MIB },
      { flags: NBD_CMD_FLAG.FUA, length: MIB },
      { length: 33 * MIB },
    ]
    for (const structured of [false, true]) {
      const { client, socket } = await server.connect()
      await client.go('x', { structured })
      // Behind a small read, which is served from the share of everyone: no request is alone.
      client.send(numbered(1, 4096), ...refused.map((fields) => request(fields)))
      for (let i = 0; i < refused.length; i++) {
        if (structured) assert.equal((await client.chunk()).payload.readUInt32BE(0), NBD_E.EINVAL)
        else assert.equal((await client.simple(0)).error, NBD_E.EINVAL)
      }
      assert.equal(server.counter('in_flight_bytes'), 4 * MIB + 32_768)
      socket.resetAndDestroy()
      await server.ended(structured ? 2 : 1)
    }
  })

  test('a connection that ends gives back what its unfinished reads had taken', async () => {
    const target = new TestExport(pattern(8 * MIB))
    const limits = { maxTotalInFlightBytes: 4 * MIB }
    await using server = await new TestServer(target, { limits }).listen()
    target.hold = true
    const hog = await server.connect()
    await hog.client.go()
    hog.client.send(numbered(4, MIB))
    while (target.held.length < 4) await new Promise<void>((r) => (target.onHeld = r))
    target.hold = false
    const other = await server.connect()
    await other.client.go()
    other.client.send(request({ cookie: 9n, length: MIB }))
    await turns(20)
    assert.equal(other.client.buffered, 0)
    hog.socket.resetAndDestroy()
    await other.client.expect(simpleReply(9n, 0, target.bytes.subarray(0, MIB)))
  })

  test('the callback of a finished write does not release the next, which is under way', async () => {
    const target = new TestExport(pattern(100_000))
    await using server = new TestServer(target, { limits: { maxInFlight: 1 } })
    const socket = new StuckStream()
    server.server.handle(socket)
    socket.push(Buffer.concat([CLIENT_FLAGS, option(NBD_OPT.GO, infoData('x'))]))
    await turns(5)
    socket.takes = 2
    socket.push(numbered(5, 50_000))
    await turns(5)
    assert.deepEqual([target.sent, target.released], [3, 2])
    socket.takes = 1
    socket.proceed()
    await turns(5)
    assert.deepEqual([target.sent, target.released], [4, 3])
  })

  test('a read larger than the bound of a connection is served, alone', async () => {
    await using opened = await start(5 * MIB, { maxInFlightBytes: MIB })
    const { server, target } = opened
    const { client } = await server.connect()
    await client.go()
    client.send(numbered(3, 4 * MIB))
    for (let i = 0; i < 3; i++) {
      await client.expect(simpleReply(BigInt(i), 0, target.bytes.subarray(i, i + 4 * MIB)))
    }
  })
})

test('resets at random points: each reply is released once, each export closed once', async () => {
  await using opened = await start(3 * MIB, { maxInFlight: 16 })
  const { server, target } = opened
  let seed = 42
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
    return seed % below
  }
  target.onRead = (offset, length, reply) => {
    const answer = (): void => target.answer({ offset, length, reply })
    const delay = random(4)
    if (delay === 0) answer()
    else if (delay === 1) process.nextTick(answer)
    else if (delay === 2) setImmediate(answer)
    else void turns(3).then(answer)
  }
  const rounds = FULL ? 2000 : 150
  for (let round = 0; round < rounds; round++) {
    const { client, socket } = await server.connect()
    await client.go()
    const sizes = [1, 5000, 20_000, 300_000, 2 * MIB]
    const count = random(40) + 1
    client.send(
      ...Array.from({ length: count }, () => request({ length: sizes[random(sizes.length)] ?? 1 })),
    )
    if (random(3) === 0) socket.pause()
    await turns(random(8))
    if (random(2) === 0) socket.resetAndDestroy()
    else socket.destroy()
  }
  await server.ended(rounds)
  await turns(10)
  assert.ok(target.sent > rounds)
  assert.deepEqual(
    [target.released, target.doubleReleases, target.closed, target.unreleasedAtClose],
    [target.sent, 0, target.opened, 0],
  )
  assert.equal(server.counter('in_flight'), 0)
  assert.equal(server.counter('in_flight_bytes'), 0)
  assert.equal(server.counter('connections'), 0)
})
