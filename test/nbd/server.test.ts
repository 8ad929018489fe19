/** Connections on real sockets: how they begin, how they end, and what they may hold meanwhile. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { createNbdServer, NBD_CMD, NBD_E, NBD_OPT, NBD_REP } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { start, TestServer, turns } from './harness.ts'
import {
  hex,
  infoData,
  numbered,
  option,
  optionReply,
  request,
  simpleReply,
  WireClient,
} from './wire.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const MIB = 1024 * 1024

describe('handshake', () => {
  test('a silent client is dropped at the deadline; an open export may idle beyond it', async () => {
    await using opened = await start(1000, { handshakeMs: 80 })
    const { server, target } = opened
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
    await using opened = await start(1000, { maxHandshakes: 400 })
    const { server, target } = opened
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
    await using opened = await start()
    const { server } = opened
    const { socket } = await server.connect()
    socket.end()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes, server.errors], [['aborted'], [], []])
  })

  test('ABORT: ACK, then the end', async () => {
    await using opened = await start()
    const { server } = opened
    const { client, socket } = await server.connect()
    await client.greet()
    client.send(option(NBD_OPT.ABORT))
    assert.equal((await client.readToEnd()).toString('hex'), optionReply(2, 1).toString('hex'))
    socket.end()
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['aborted'])
  })

  test('unknown client flags: dropped', async () => {
    await using opened = await start()
    const { server } = opened
    const { client } = await server.connect()
    await client.greet(hex('00000005'))
    await client.gone()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes], [['protocol_error'], ['ERR_NBD_PROTOCOL']])
  })

  test('an export that is opened when the client has gone is closed', async () => {
    const target = new TestExport(pattern(10))
    let finish = (): void => {}
    await using server = new TestServer(target, {
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
      await using server = new TestServer(target, {
        exports: { ...provider, ...(info && { info }) },
      })
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
    await using server = new TestServer(target, {
      limits: { maxListEntries: 5000 },
      exports: {
        ...providerOf(target),
        async *list() {
          for (;;) yield { name: `e${listed++}`, description: 'd'.repeat(3000) }
        },
      },
    })
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
    await using opened = await start(10, { maxConnections: 2 })
    const { server } = opened
    const first = await server.connect()
    await first.client.go()
    await (await server.connect()).client.greet()
    await (await server.connect()).client.gone()
    assert.equal(server.server.connections, 2)
    await using picky = new TestServer(new TestExport(pattern(1)), { onConnection: () => false })
    await picky.pair().gone()
    assert.deepEqual(picky.outcomes, ['refused'])
  })
})

describe('ending', () => {
  test('DISC: every outstanding reply, then FIN', async () => {
    await using opened = await start()
    const { server, target } = opened
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
    await using opened = await start()
    const { server } = opened
    const { client, socket } = await server.connect()
    await client.go()
    client.send(request({ type: NBD_CMD.DISC }))
    socket.destroy()
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['disconnected'])
  })

  test('a client that does not close after DISC is not waited for', async () => {
    await using opened = await start(1000, { lingerMs: 50 })
    const { server } = opened
    const { client } = await server.connect()
    await client.go()
    client.send(request({ type: NBD_CMD.DISC }))
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['disconnected'])
  })

  test('half-close: every request that was sent is answered, also those there was no room for', async () => {
    await using opened = await start(1000, { maxInFlight: 4 })
    const { server, target } = opened
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
    await using opened = await start()
    const { server, target } = opened
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
    await using opened = await start()
    const { server } = opened
    const { client } = await server.connect()
    await client.go()
    client.send(Buffer.alloc(28))
    await client.gone()
    await server.ended(1)
    assert.deepEqual([server.outcomes, server.codes], [['protocol_error'], ['ERR_NBD_PROTOCOL']])
  })

  test('a WRITE of 33 MiB is swallowed, one of 65 MiB is not', async () => {
    await using opened = await start()
    const { server } = opened
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

describe('drain', () => {
  test('reads no further request, finishes what is in flight, FIN, no error reply', async () => {
    await using opened = await start()
    const { server, target } = opened
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
    await using opened = await start()
    const { server } = opened
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
    await using opened = await start()
    const { server, target } = opened
    target.hold = true
    const { client } = await server.connect()
    await client.go()
    client.send(numbered(1))
    while (target.held.length < 1) await new Promise<void>((r) => (target.onHeld = r))
    // A second call, as from a dispose while draining, ends with the first.
    await Promise.all([server.server.drain({ deadlineMs: 30 }), server.server.drain()])
    assert.deepEqual(server.outcomes, ['drained'])
    assert.equal(target.closed, 1)
  })
})

describe('listening', () => {
  test('Unix socket', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nbd-'))
    try {
      await using opened = await start()
      const { server, target } = opened
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
    await using opened = await start()
    const { server } = opened
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
    assert.deepEqual(server.outcomes, ['terminated'])
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
