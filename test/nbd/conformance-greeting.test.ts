/**
 * NBD proto, "Fixed newstyle negotiation" and "Option haggling", line by line, as raw bytes to a real socket.
 * What each option means is in conformance-options.test.ts.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { describe, test } from 'node:test'

import { NBD_DEFAULT_LIMITS, NBD_OPT, NBD_REP } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { start, TestServer, turns } from './harness.ts'
import type { OptionReply, WireClient } from './wire.ts'
import {
  CLIENT_FLAGS,
  GREETING,
  hex,
  infoData,
  numbered,
  option,
  optionReply,
  request,
  simpleReply,
  u32,
  u64,
} from './wire.ts'

const KIB = 1024
const MIB = 1024 * KIB
const ERROR = 0x80000000
const COOKIE = 0xfedcba9876543210n

/** All replies to one option. */
async function answers(client: WireClient): Promise<OptionReply[]> {
  const replies: OptionReply[] = []
  for (;;) {
    const reply = await client.optionReply()
    replies.push(reply)
    if (reply.type === NBD_REP.ACK || reply.type >= ERROR) return replies
  }
}

/** The server still understands this client. */
async function stillInSync(client: WireClient, target: TestExport): Promise<void> {
  client.send(option(NBD_OPT.GO, infoData('x')))
  assert.equal((await answers(client)).at(-1)?.type, NBD_REP.ACK)
  client.send(request({ offset: 7, length: 5 }))
  await client.expect(simpleReply(COOKIE, 0, target.bytes.subarray(7, 12)))
}

describe('greeting', () => {
  test('TCP_NODELAY is set on every accepted socket', async () => {
    await using opened = await start()
    const listener = createServer({ noDelay: false })
    const settings: (boolean | undefined)[] = []
    listener.on('connection', (socket: Socket) => {
      const setNoDelay = socket.setNoDelay.bind(socket)
      socket.setNoDelay = (on) => {
        settings.push(on)
        return setNoDelay(on)
      }
      opened.server.server.handle(socket)
    })
    listener.listen(0, '127.0.0.1')
    await once(listener, 'listening')
    const socket = createConnection((listener.address() as AddressInfo).port, '127.0.0.1')
    await once(socket, 'data')
    socket.destroy()
    listener.close()
    assert.deepEqual(settings, [true])
  })

  test('18 bytes, before the client says a word: both magics, FIXED_NEWSTYLE, NO_ZEROES, no other bit', async () => {
    await using opened = await start()
    const { client } = await opened.server.connect()
    await client.expect(GREETING)
    await turns(5)
    assert.equal(client.buffered, 0)
  })

  test('every client flag that was not offered drops the connection, without a further byte', async () => {
    await using opened = await start()
    const { server } = opened
    for (let bit = 2; bit < 32; bit++) {
      const { client } = await server.connect()
      await client.greet(u32((3 | (1 << bit)) >>> 0))
      await client.gone()
      assert.equal(client.buffered, 0)
      await server.ended(bit - 1)
    }
    assert.deepEqual(new Set(server.outcomes), new Set(['protocol_error']))
    assert.equal(server.counter('handshake_failures.flags'), 30)
  })

  test('without C_FIXED_NEWSTYLE: EXPORT_NAME is served, ABORT honoured, all else ERR_INVALID, TLS not offered', async () => {
    await using opened = await start()
    const { server, target } = opened
    const numbers = [...Object.values(NBD_OPT), 77].filter((n) => n > NBD_OPT.ABORT)
    for (const zeroes of [true, false]) {
      const { client } = await server.connect()
      await client.greet(u32(zeroes ? 0 : 2))
      for (const number of numbers) {
        client.send(option(number))
        const { type } = await client.optionReply()
        assert.equal(type, NBD_REP.ERR_INVALID, `option ${number}`)
      }
      client.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')), numbered(1, 3))
      const info = await client.read(10 + (zeroes ? 124 : 0))
      assert.equal(info.readBigUInt64BE(0), BigInt(target.size))
      await client.expect(simpleReply(0n, 0, target.bytes.subarray(0, 3)))
    }
    const { client } = await server.connect()
    await client.greet(u32(0))
    client.send(option(NBD_OPT.ABORT))
    assert.equal((await client.readToEnd()).toString('hex'), optionReply(2, 1).toString('hex'))
  })
})

describe('option haggling', () => {
  test('any wrong byte in the magic of an option is a hard disconnect', async () => {
    await using opened = await start()
    for (let at = 0; at < 8; at++) {
      const { client } = await opened.server.connect()
      const bytes = option(NBD_OPT.LIST)
      bytes[at] = (bytes[at] ?? 0) ^ 1
      await client.greet()
      client.send(bytes, option(NBD_OPT.LIST))
      await client.gone()
      assert.equal(client.buffered, 0)
    }
    await opened.server.ended(8)
    assert.deepEqual(new Set(opened.server.codes), new Set(['ERR_NBD_PROTOCOL']))
  })

  test('every option but EXPORT_NAME gets replies that echo it, the last of them ACK or an error', async () => {
    await using opened = await start()
    for (const data of [Buffer.alloc(0), Buffer.alloc(1), Buffer.alloc(300), infoData('nope')]) {
      const { client } = await opened.server.connect()
      await client.greet()
      for (const number of [0, ...Object.values(NBD_OPT), 12, 77, 0xffffffff]) {
        if (number === NBD_OPT.EXPORT_NAME || number === NBD_OPT.ABORT) continue
        client.send(option(number, data))
        const replies = await answers(client)
        for (const reply of replies) assert.equal(reply.option, number)
        for (const { type } of replies.slice(0, -1)) assert.ok(type > NBD_REP.ACK && type < ERROR)
        await turns(2)
        assert.equal(client.buffered, 0, `bytes behind the last reply to option ${number}`)
      }
    }
  })

  test('pipelined options are queued, and answered in order', async () => {
    await using opened = await start()
    const { client } = await opened.server.connect()
    await client.greet()
    const asked = [3, 99, 8, 6, 5, 6, 3, 8, 10].map(
      (n) => [n, infoData(n === 6 ? 'x' : '')] as const,
    )
    client.send(...asked.map(([n, data]) => option(n, n === 6 ? data : undefined)))
    const answered = []
    for (let i = 0; i < asked.length; i++) answered.push((await answers(client)).at(-1))
    assert.deepEqual(
      answered.map((reply) => [reply?.option, reply?.type]),
      [
        [3, NBD_REP.ACK],
        [99, NBD_REP.ERR_UNSUP],
        [8, NBD_REP.ACK],
        [6, NBD_REP.ACK],
        [5, NBD_REP.ERR_UNSUP],
        [6, NBD_REP.ACK],
        [3, NBD_REP.ACK],
        [8, NBD_REP.ERR_INVALID],
        [10, NBD_REP.ERR_UNSUP],
      ],
    )
  })

  test('an unknown option is skipped by its length: ERR_UNSUP, and the next message is not lost', async () => {
    await using opened = await start()
    for (const length of [0, 1, 15, 16, 17, 4096, 64 * KIB, 64 * KIB + 1, MIB]) {
      const { client } = await opened.server.connect()
      await client.greet()
      // Its data look like options: none of them may be taken for one.
      const data = Buffer.alloc(length, option(NBD_OPT.ABORT))
      client.send(option(0x4d2, data), option(99))
      assert.equal((await client.optionReply()).type, NBD_REP.ERR_UNSUP)
      const { option: echoed, type } = await client.optionReply()
      assert.deepEqual([echoed, type], [99, NBD_REP.ERR_UNSUP])
      await stillInSync(client, opened.target)
    }
  })

  test('a repeated STRUCTURED_REPLY is ERR_INVALID, and structured replies stay on', async () => {
    await using opened = await start()
    const { client } = await opened.server.connect()
    await client.greet()
    client.send(option(8), option(8))
    assert.equal((await client.optionReply()).type, NBD_REP.ACK)
    assert.equal((await client.optionReply()).type, NBD_REP.ERR_INVALID)
    client.send(option(NBD_OPT.GO, infoData('x')), request({ length: 1 }))
    await answers(client)
    assert.equal((await client.chunk()).type, 1)
  })

  test('no refused option ends the connection: 2,000 errors, then GO', async () => {
    await using opened = await start()
    const { client } = await opened.server.connect()
    await client.greet()
    const refused = [option(3, hex('00')), option(6), option(7, infoData('nope')), option(0)]
    client.send(...Array.from({ length: 500 }, () => refused).flat())
    for (let i = 0; i < 2000; i++) assert.ok((await client.optionReply()).type >= ERROR)
    await stillInSync(client, opened.target)
  })

  test('while the server shuts down: ERR_SHUTDOWN to whatever would go on, ABORT is acknowledged', async () => {
    await using opened = await start()
    const { client, socket } = await opened.server.connect()
    await client.greet()
    client.send(option(99))
    await answers(client)
    const drained = opened.server.server.drain()
    for (const number of [NBD_OPT.LIST, NBD_OPT.STRUCTURED_REPLY]) client.send(option(number))
    for (const number of [NBD_OPT.INFO, NBD_OPT.GO]) client.send(option(number, infoData('x')))
    for (let i = 0; i < 4; i++) assert.equal((await answers(client))[0]?.type, NBD_REP.ERR_SHUTDOWN)
    client.send(option(NBD_OPT.ABORT))
    await client.expect(optionReply(NBD_OPT.ABORT, NBD_REP.ACK))
    await client.readToEnd()
    socket.end()
    await drained
  })

  test('parsing does not depend on how the bytes are split: every byte in a segment of its own', async () => {
    await using opened = await start()
    const { client, socket } = await opened.server.connect()
    socket.setNoDelay(true)
    const bytes = Buffer.concat([
      CLIENT_FLAGS,
      option(99, Buffer.alloc(5)),
      option(NBD_OPT.INFO, infoData('x', [0, 1, 2, 3])),
      option(NBD_OPT.STRUCTURED_REPLY),
      option(NBD_OPT.GO, infoData('x', [3])),
      request({ offset: 3, length: 4 }),
    ])
    await client.expect(GREETING)
    for (const byte of bytes) {
      socket.write(Buffer.of(byte))
      await turns(1)
    }
    for (const last of [NBD_REP.ERR_UNSUP, NBD_REP.ACK, NBD_REP.ACK, NBD_REP.ACK]) {
      assert.equal((await answers(client)).at(-1)?.type, last)
    }
    const { payload } = await client.chunk()
    assert.deepEqual(payload, Buffer.concat([u64(3), opened.target.bytes.subarray(3, 7)]))
  })
})

describe('limits of the negotiation', () => {
  test('above 1 MiB of option data: disconnected at the header, before the data have come', async () => {
    await using opened = await start()
    for (const length of [MIB + 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
      const { client } = await opened.server.connect()
      await client.greet()
      client.send(hex('49484156454f5054'), u32(NBD_OPT.GO), u32(length))
      await client.gone()
    }
    await opened.server.ended(4)
    assert.deepEqual(new Set(opened.server.codes), new Set(['ERR_NBD_LIMIT']))
  })

  test('above 64 KiB of option data: skipped, ERR_TOO_BIG, the connection goes on', async () => {
    await using opened = await start()
    const { client } = await opened.server.connect()
    await client.greet()
    for (const number of [NBD_OPT.LIST, NBD_OPT.INFO, NBD_OPT.GO, NBD_OPT.STRUCTURED_REPLY]) {
      client.send(option(number, Buffer.alloc(64 * KIB + 1)))
      const { option: echoed, type } = await client.optionReply()
      assert.deepEqual([echoed, type], [number, NBD_REP.ERR_TOO_BIG])
    }
    await stillInSync(client, opened.target)
  })

  test('the number of options, and of LISTs, is bounded', async () => {
    const maxOptions = 40
    await using opened = await start(100, { maxOptions })
    const { client } = await opened.server.connect()
    await client.greet()
    client.send(...Array.from({ length: maxOptions + 1 }, () => option(NBD_OPT.LIST)))
    const types: (number | undefined)[] = []
    for (let i = 0; i < maxOptions; i++) types.push((await answers(client)).at(-1)?.type)
    const { maxLists } = NBD_DEFAULT_LIMITS
    assert.equal(types.filter((type) => type === NBD_REP.ACK).length, maxLists)
    assert.deepEqual(new Set(types.slice(maxLists)), new Set([NBD_REP.ERR_POLICY]))
    await client.gone()
    await opened.server.ended(1)
    assert.deepEqual(opened.server.codes, ['ERR_NBD_LIMIT'])
  })

  test('answers that the client does not read hold a bounded number of bytes', async () => {
    const target = new TestExport(pattern(10))
    const provider = providerOf(target)
    let asked = 0
    const info = async () => {
      asked++
      return { name: 'x', size: 10, multiConn: true, description: 'd'.repeat(4000) }
    }
    await using server = new TestServer({ ...provider, info })
    const client = server.pair()
    await client.greet()
    client.stream.pause()
    const infos = 10_000
    client.send(...Array.from({ length: infos }, () => option(NBD_OPT.INFO, infoData('x', [2]))))
    await turns(50)
    // 256 KiB in the queue, one write under way, and what the stream between the two holds.
    assert.ok(asked * 4000 < 2 * MIB, `${asked} answers of 4 KB to a client that reads none`)
    client.stream.resume()
    for (let i = 0; i < infos; i++) assert.equal((await answers(client)).at(-1)?.type, NBD_REP.ACK)
    assert.equal(asked, infos)
  })
})
