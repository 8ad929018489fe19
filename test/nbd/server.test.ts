/** Connections on real sockets: how they begin, how they end, and what they may hold meanwhile. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { NbdLimits } from '../../src/nbd/index.ts'
import { createNbdServer, NBD_CMD, NBD_E, NBD_OPT, NBD_REP } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { TestServer, turns } from './harness.ts'
import { hex, infoData, option, optionReply, request, simpleReply, WireClient } from './wire.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const MIB = 1024 * 1024

async function start(
  size = 100_000,
  limits: Partial<NbdLimits> = {},
): Promise<{ target: TestExport; server: TestServer }> {
  const target = new TestExport(pattern(size))
  return { target, server: await new TestServer(target, { limits }).listen() }
}

/** Requests numbered from 0, each for the byte at its number. */
function numbered(count: number, length = 1): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => request({ cookie: BigInt(i), offset: i, length })),
  )
}

describe('handshake', () => {
  test('a silent client is dropped at the deadline; an open export may idle beyond it', async () => {
    const { server, target } = await start(1000, { handshakeMs: 80 })
    await using _ = server
    const idle = await server.connect()
    await idle.client.go()
    const silent = await server.connect()
    const halfway = await server.connect()
    await halfway.client.greet()
    await silent.client.gone()
    await halfway.client.gone()
    await server.ended(2)
    assert.deepEqual(server.outcomes, ['handshake_timeout', 'handshake_timeout'])
    assert.equal(server.counter('handshake_failures.flags'), 1)
    assert.equal(server.counter('handshake_failures.option'), 1)
    idle.client.send(request({ length: 3 }))
    await idle.client.expect(simpleReply(0xfedcba9876543210n, 0, target.bytes.subarray(0, 3)))
  })

  test('1,000 half-open handshakes do not stop a good client', async () => {
    const { server, target } = await start(1000, { maxHandshakes: 400 })
    await using _ = server
    const sockets = Array.from({ length: 1000 }, () =>
      connect({ host: '127.0.0.1', port: server.port }).on('error', () => {}),
    )
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    const { client } = await server.connect()
    await client.go()
    client.send(request({ cookie: 1n, length: 3 }))
    await client.expect(simpleReply(1n, 0, target.bytes.subarray(0, 3)))
    assert.ok(server.server.connections <= 402, `${server.server.connections} connections`)
    for (const socket of sockets) socket.destroy()
  })

  test('a probe that connects and leaves is no error', async () => {
    const { server } = await start()
    await using _ = server
    const { socket } = await server.connect()
    socket.end()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes, server.errors], [['aborted'], [], []])
  })

  test('ABORT: ACK, then the end', async () => {
    const { server } = await start()
    await using _ = server
    const { client, socket } = await server.connect()
    await client.greet()
    client.send(option(NBD_OPT.ABORT))
    assert.equal((await client.readToEnd()).toString('hex'), optionReply(2, 1).toString('hex'))
    socket.end()
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['aborted'])
  })

  test('unknown client flags: dropped', async () => {
    const { server } = await start()
    await using _ = server
    const { client } = await server.connect()
    await client.greet(hex('00000005'))
    await client.gone()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes], [['protocol_error'], ['ERR_NBD_PROTOCOL']])
  })

  test('an export that is opened when the client has gone is closed', async () => {
    const target = new TestExport(pattern(10))
    let finish = (): void => {}
    const server = new TestServer(target, {
      exports: {
        ...providerOf(target),
        async open() {
          await new Promise<void>((resolve) => (finish = resolve))
          target.opened++
          return target
        },
      },
    })
    await server.listen()
    await using _ = server
    const { client, socket } = await server.connect()
    await client.greet()
    client.send(option(NBD_OPT.GO, infoData('x')))
    await turns(20)
    socket.resetAndDestroy()
    await server.ended(1)
    finish()
    await turns(2)
    assert.deepEqual([target.opened, target.closed], [1, 1])
  })

  test('INFO opens and closes; with info() it does not open', async () => {
    const target = new TestExport(pattern(10))
    for (const info of [undefined, async () => target]) {
      const provider = providerOf(target)
      const server = new TestServer(target, { exports: { ...provider, ...(info && { info }) } })
      await using _ = server
      const client = server.pair()
      await client.greet()
      client.send(option(NBD_OPT.INFO, infoData('x')))
      assert.equal((await client.optionReply()).type, NBD_REP.INFO)
      assert.equal((await client.optionReply()).type, NBD_REP.ACK)
    }
    assert.deepEqual([target.opened, target.closed], [1, 1])
  })

  test('LIST is cut at its limit and stops while the client does not read', async () => {
    let listed = 0
    const target = new TestExport(pattern(10))
    const server = new TestServer(target, {
      limits: { maxListEntries: 5000 },
      exports: {
        ...providerOf(target),
        async *list() {
          for (;;) yield { name: `e${listed++}`, description: 'd'.repeat(3000) }
        },
      },
    })
    await using _ = server
    const client = server.pair()
    await client.greet()
    client.stream.pause()
    client.send(option(NBD_OPT.LIST))
    await turns(50)
    assert.ok(listed < 300, `${listed} names read ahead`)
    client.stream.resume()
    let entries = 0
    while ((await client.optionReply()).type === NBD_REP.SERVER) entries++
    assert.equal(entries, 5000)
  })

  test('the number of connections is bounded, and the application may refuse one', async () => {
    const { server } = await start(10, { maxConnections: 2 })
    await using _ = server
    const first = await server.connect()
    await first.client.go()
    await (await server.connect()).client.greet()
    await (await server.connect()).client.gone()
    assert.equal(server.server.connections, 2)
    const picky = new TestServer(new TestExport(pattern(1)), { onConnection: () => false })
    await using _picky = picky
    await picky.pair().gone()
    assert.deepEqual(picky.outcomes, ['refused'])
  })
})

describe('ending', () => {
  test('DISC: every outstanding reply, then FIN', async () => {
    const { server, target } = await start()
    await using _ = server
    for (let round = 0; round < (FULL ? 500 : 30); round++) {
      target.hold = true
      const { client, socket } = await server.connect()
      await client.go()
      client.send(numbered(4, 30_000), request({ type: NBD_CMD.DISC }), numbered(3))
      while (target.held.length < 4) await new Promise<void>((r) => (target.onHeld = r))
      await turns(round % 4)
      for (const held of target.held.splice(0)) target.answer(held)
      assert.equal((await client.readToEnd()).length, 4 * (16 + 30_000))
      socket.end()
    }
    await server.ended(FULL ? 500 : 30)
    assert.deepEqual(new Set(server.outcomes), new Set(['disconnected']))
    assert.equal(target.sent, target.released)
  })

  test('DISC and an immediate close by the client', async () => {
    const { server } = await start()
    await using _ = server
    const { client, socket } = await server.connect()
    await client.go()
    client.send(request({ type: NBD_CMD.DISC }))
    socket.destroy()
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['disconnected'])
  })

  test('a client that does not close after DISC is not waited for', async () => {
    const { server } = await start(1000, { lingerMs: 50 })
    await using _ = server
    const { client } = await server.connect()
    await client.go()
    client.send(request({ type: NBD_CMD.DISC }))
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['disconnected'])
  })

  test('half-close: every request that was sent is answered, also those there was no room for', async () => {
    const { server, target } = await start(1000, { maxInFlight: 4 })
    await using _ = server
    target.hold = true
    target.onHeld = () => setImmediate(() => target.held.splice(0).forEach((h) => target.answer(h)))
    const { client, socket } = await server.connect()
    await client.go()
    client.send(numbered(500))
    socket.end()
    assert.equal((await client.readToEnd()).length, 500 * 17)
    await server.ended(1)
    assert.deepEqual([server.outcomes, target.closed], [['closed'], 1])
  })

  test('reads under way see the end of their connection', async () => {
    const { server, target } = await start()
    await using _ = server
    target.hold = true
    const { client, socket } = await server.connect()
    await client.go()
    client.send(numbered(2))
    while (target.held.length < 2) await new Promise<void>((r) => (target.onHeld = r))
    const [first, second] = target.held
    assert.ok(first !== undefined && second !== undefined)
    const { aborted } = first.reply
    assert.equal(aborted.aborted, false)
    socket.resetAndDestroy()
    await server.ended(1)
    assert.ok(aborted.aborted && second.reply.aborted.aborted)
    target.answer(first)
    second.reply.fail('EIO', 'late')
    assert.deepEqual([target.sent, target.released], [1, 1])
    assert.equal(server.counter('in_flight'), 0)
  })

  test('bad request magic ends the connection', async () => {
    const { server } = await start()
    await using _ = server
    const { client } = await server.connect()
    await client.go()
    client.send(Buffer.alloc(28))
    await client.gone()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes], [['protocol_error'], ['ERR_NBD_PROTOCOL']])
  })

  test('a WRITE of 33 MiB is swallowed, one of 65 MiB is not', async () => {
    const { server } = await start()
    await using _ = server
    const { client } = await server.connect()
    await client.go()
    client.send(
      request({ type: NBD_CMD.WRITE, cookie: 1n, length: 33 * MIB }),
      Buffer.alloc(33 * MIB),
    )
    await client.expect(simpleReply(1n, NBD_E.EPERM))
    client.send(request({ type: NBD_CMD.WRITE, length: 65 * MIB }))
    await client.gone()
    await server.ended(1)
    assert.deepEqual(server.codes, ['ERR_NBD_LIMIT'])
  })
})

describe('bounds', () => {
  test('a client that asks and does not read holds a bounded number of bytes', async () => {
    const { server, target } = await start(2 * MIB, { slowReaderMs: 400 })
    await using _ = server
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
    const { server, target } = await start(100_000, { slowReaderMs: 200, maxInFlight: 64 })
    await using _ = server
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
    const server = await new TestServer(target, { limits }).listen()
    await using _ = server
    target.hold = true
    const hog = await server.connect()
    await hog.client.go()
    hog.client.send(request({ length: 4 * MIB }))
    while (target.held.length < 1) await new Promise<void>((r) => (target.onHeld = r))
    const other = await server.connect()
    await other.client.go()
    other.client.send(numbered(1, 4096), request({ cookie: 9n, length: MIB }))
    while (target.held.length < 2) await new Promise<void>((r) => (target.onHeld = r))
    target.hold = false
    for (const held of target.held.splice(1)) target.answer(held)
    await other.client.expect(simpleReply(0n, 0, target.bytes.subarray(0, 4096)))
    await turns(20)
    assert.equal(other.client.buffered, 0)
    for (const held of target.held.splice(0)) target.answer(held)
    await hog.client.simple(4 * MIB)
    await other.client.expect(simpleReply(9n, 0, target.bytes.subarray(0, MIB)))
  })

  test('a read larger than the bound of a connection is served, alone', async () => {
    const { server, target } = await start(5 * MIB, { maxInFlightBytes: MIB })
    await using _ = server
    const { client } = await server.connect()
    await client.go()
    client.send(numbered(3, 4 * MIB))
    for (let i = 0; i < 3; i++) {
      await client.expect(simpleReply(BigInt(i), 0, target.bytes.subarray(i, i + 4 * MIB)))
    }
  })
})

test('resets at random points: each reply is released once, each export closed once', async () => {
  const { server, target } = await start(3 * MIB, { maxInFlight: 16 })
  await using _ = server
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

describe('drain', () => {
  test('reads no further request, finishes what is in flight, FIN, no error reply', async () => {
    const { server, target } = await start()
    await using _ = server
    target.hold = true
    const { client, socket } = await server.connect()
    await client.go()
    client.send(numbered(3, 1000))
    while (target.held.length < 3) await new Promise<void>((r) => (target.onHeld = r))
    const drained = server.server.drain()
    client.send(numbered(5))
    await turns(10)
    assert.equal(target.held.length, 3)
    for (const held of target.held.splice(0)) target.answer(held)
    const bytes = await client.readToEnd()
    assert.equal(bytes.length, 3 * 1016)
    for (let i = 0; i < 3; i++) assert.equal(bytes.readUInt32BE(i * 1016 + 4), 0)
    socket.end()
    await drained
    assert.deepEqual(server.outcomes, ['drained'])
    await assert.rejects(once(connect({ host: '127.0.0.1', port: server.port }), 'connect'))
    assert.throws(() => server.server.listen({ port: 0 }), { code: 'ERR_NBD_STATE' })
  })

  test('negotiation is told ERR_SHUTDOWN; a silent one is closed', async () => {
    const { server } = await start()
    await using _ = server
    const [talking, silent] = [await server.connect(), await server.connect()]
    await talking.client.greet()
    await silent.client.greet()
    await turns(5)
    const drained = server.server.drain()
    talking.client.send(option(NBD_OPT.GO, infoData('x')))
    assert.equal((await talking.client.optionReply()).type, NBD_REP.ERR_SHUTDOWN)
    await drained
    assert.equal(server.server.connections, 0)
  })

  test('a read that never ends is given up at the deadline', async () => {
    const { server, target } = await start()
    await using _ = server
    target.hold = true
    const { client } = await server.connect()
    await client.go()
    client.send(numbered(1))
    while (target.held.length < 1) await new Promise<void>((r) => (target.onHeld = r))
    await server.server.drain({ deadlineMs: 30 })
    assert.deepEqual(server.outcomes, ['drained'])
    assert.equal(target.closed, 1)
  })
})

describe('listening', () => {
  test('Unix socket', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nbd-'))
    try {
      const { server, target } = await start()
      await using _ = server
      const path = join(folder, 's')
      assert.equal(await server.server.listen({ path }), path)
      const client = await WireClient.over(connect({ path }))
      await client.go()
      client.send(numbered(1))
      await client.expect(simpleReply(0n, 0, target.bytes.subarray(0, 1)))
      assert.equal(server.server.clients()[0]?.peer, undefined)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('two servers share a port with reusePort; a port in use is an error otherwise', async () => {
    await using first = createNbdServer({ exports: providerOf(new TestExport(pattern(1))) })
    await using second = createNbdServer({ exports: providerOf(new TestExport(pattern(1))) })
    const listen = { host: '127.0.0.1', port: 0, reusePort: true }
    const { port } = (await first.listen(listen)) as AddressInfo
    assert.equal(((await second.listen({ ...listen, port })) as AddressInfo).port, port)
    await assert.rejects(second.listen({ host: '127.0.0.1', port }), { code: 'EADDRINUSE' })
  })

  test('clients() and disconnect()', async () => {
    const { server } = await start()
    await using _ = server
    const { client } = await server.connect()
    await client.go('x', { structured: true })
    client.send(request({ length: 10 }), request({ type: NBD_CMD.TRIM }))
    await client.chunk()
    await client.chunk()
    const [info] = server.server.clients()
    assert.ok(info !== undefined)
    assert.deepEqual(
      [info.exportName, info.structured, info.requests, info.errors, info.readBytes, info.phase],
      ['sha256:x', true, 2, 1, 10, 'transmitting'],
    )
    assert.equal(info.peer?.address, '127.0.0.1')
    assert.equal(server.server.disconnect(info.id + 1), false)
    assert.equal(server.server.disconnect(info.id), true)
    await client.gone()
    await server.ended(1)
  })

  test('limits must be positive integers', () => {
    const exports = providerOf(new TestExport(pattern(1)))
    for (const maxInFlight of [0, -1, 1.5, NaN]) {
      assert.throws(() => createNbdServer({ exports, limits: { maxInFlight } }), {
        code: 'ERR_NBD_STATE',
      })
    }
  })
})
