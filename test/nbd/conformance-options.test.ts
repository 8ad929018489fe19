/**
 * NBD proto, "Option types", "Option reply types" and "Transmission flags": each option with its well-formed,
 * odd and malformed forms, as raw bytes to a real socket.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'

import type { ExportProvider } from '../../src/nbd/index.ts'
import { NBD_INFO, NBD_OPT, NBD_REP, NbdOpenError } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { start, TestServer, turns } from './harness.ts'
import type { OptionReply, WireClient } from './wire.ts'
import {
  hex,
  infoData,
  numbered,
  option,
  optionReply,
  request,
  simpleReply,
  u16,
  u32,
  u64,
} from './wire.ts'

const SIZE = 100_000
const COOKIE = 0xfedcba9876543210n
const ERROR = 0x80000000
/** HAS_FLAGS, READ_ONLY, CAN_MULTI_CONN, SEND_CACHE. */
const FLAGS = 0x503
const DF = 0x80

async function ask(client: WireClient, bytes: Buffer): Promise<OptionReply[]> {
  client.send(bytes)
  const replies: OptionReply[] = []
  for (;;) {
    const reply = await client.optionReply()
    replies.push(reply)
    if (reply.type === NBD_REP.ACK || reply.type >= ERROR) return replies
  }
}

const lastType = (replies: readonly OptionReply[]): number | undefined => replies.at(-1)?.type

async function greeted(server: TestServer): Promise<WireClient> {
  const { client } = await server.connect()
  await client.greet()
  return client
}

async function serving(exports: ExportProvider): Promise<TestServer> {
  return new TestServer(exports).listen()
}

describe('EXPORT_NAME', () => {
  test('size, flags and 124 zero bytes, or none with C_NO_ZEROES; then transmission begins', async () => {
    await using opened = await start(SIZE)
    for (const [flags, zeroes] of [
      [1, 124],
      [3, 0],
    ] as const) {
      const { client } = await opened.server.connect()
      await client.greet(u32(flags))
      client.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')))
      await client.expect(u64(SIZE), u16(FLAGS), Buffer.alloc(zeroes))
      client.send(numbered(1, 9))
      await client.expect(simpleReply(0n, 0, opened.target.bytes.subarray(0, 9)))
    }
  })

  test('behind STRUCTURED_REPLY: DF is shown, and replies are structured', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    await ask(client, option(NBD_OPT.STRUCTURED_REPLY))
    client.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')), request({ offset: 9, length: 2 }))
    await client.expect(u64(SIZE), u16(FLAGS | DF))
    const { payload } = await client.chunk()
    assert.deepEqual(payload, Buffer.concat([u64(9), opened.target.bytes.subarray(9, 11)]))
  })

  test('the empty name is the default export', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    client.send(option(NBD_OPT.EXPORT_NAME))
    await client.expect(u64(SIZE), u16(FLAGS))
  })

  test('an export that cannot be had closes the connection without a byte: unknown, refused, crashed', async () => {
    await using opened = await start(SIZE)
    for (const name of ['nope', 'policy', 'crash']) {
      const { client, socket } = await opened.server.connect()
      await client.greet()
      client.send(option(NBD_OPT.EXPORT_NAME, Buffer.from(name)))
      assert.equal((await client.readToEnd()).length, 0)
      socket.end()
    }
    await opened.server.ended(3)
    assert.deepEqual(opened.server.outcomes, ['refused', 'refused', 'refused'])
  })

  test('a name with NUL, that is not UTF-8, or of more than 4096 bytes closes the connection', async () => {
    await using opened = await start(SIZE)
    const names = [
      hex('6100'),
      hex('c328'),
      hex('ff'),
      Buffer.alloc(4097, 'a'),
      Buffer.alloc(70_000),
    ]
    for (const name of names) {
      const client = await greeted(opened.server)
      client.send(option(NBD_OPT.EXPORT_NAME, name))
      await client.gone()
      assert.equal(client.buffered, 0)
    }
    await opened.server.ended(names.length)
    assert.deepEqual(new Set(opened.server.outcomes), new Set(['protocol_error']))
    assert.equal(opened.target.opened, 0)
  })
})

describe('ABORT', () => {
  test('is acknowledged whatever its data, then the server closes', async () => {
    await using opened = await start(SIZE)
    for (const data of [Buffer.alloc(0), Buffer.from('why'), Buffer.alloc(4096, 1)]) {
      const client = await greeted(opened.server)
      client.send(option(NBD_OPT.ABORT, data), option(NBD_OPT.LIST))
      assert.deepEqual(await client.readToEnd(), optionReply(2, NBD_REP.ACK))
      client.stream.end()
    }
  })

  test('a client that closes at once, without reading the ACK, is no error', async () => {
    await using opened = await start(SIZE)
    for (let i = 0; i < 20; i++) {
      const { client, socket } = await opened.server.connect()
      await client.greet()
      socket.write(option(NBD_OPT.ABORT), () => socket.destroy())
    }
    await opened.server.ended(20)
    assert.deepEqual(opened.server.codes, [])
    assert.deepEqual(opened.server.errors, [])
  })
})

describe('LIST', () => {
  test('one SERVER for each export, with name and description, then ACK', async () => {
    const target = new TestExport(pattern(10))
    const names = ['x', '', 'ü/深', 'n'.repeat(4096)]
    await using server = await serving(providerOf(target, names))
    const replies = await ask(await greeted(server), option(NBD_OPT.LIST))
    assert.deepEqual(
      replies.slice(0, -1).map(({ data }) => {
        const length = data.readUInt32BE(0)
        return [data.toString('utf8', 4, 4 + length), data.toString('utf8', 4 + length)]
      }),
      names.map((name) => [name, `about ${name}`.slice(0, 4000)]),
    )
    assert.equal(lastType(replies), NBD_REP.ACK)
  })

  test('nothing to list is ACK alone; a name over 4096 bytes is left out', async () => {
    const target = new TestExport(pattern(10))
    for (const names of [[], ['n'.repeat(4097)]]) {
      await using server = await serving(providerOf(target, names))
      const replies = await ask(await greeted(server), option(NBD_OPT.LIST))
      assert.deepEqual(
        replies.map(({ type }) => type),
        [NBD_REP.ACK],
      )
    }
  })

  test('data are ERR_INVALID; a provider may refuse with ERR_POLICY', async () => {
    const target = new TestExport(pattern(10))
    await using server = await serving({
      ...providerOf(target),
      // oxlint-disable-next-line require-yield
      async *list() {
        throw new NbdOpenError('POLICY', 'lists are off')
      },
    })
    const client = await greeted(server)
    assert.equal(lastType(await ask(client, option(NBD_OPT.LIST, hex('00')))), NBD_REP.ERR_INVALID)
    assert.equal(lastType(await ask(client, option(NBD_OPT.LIST))), NBD_REP.ERR_POLICY)
    assert.equal(lastType(await ask(client, option(NBD_OPT.GO, infoData('x')))), NBD_REP.ACK)
  })
})

describe('INFO and GO', () => {
  test('transmission flags: 0x503; DF only with structured replies; MULTI_CONN only where it holds', async () => {
    for (const multiConn of [true, false]) {
      const target = Object.assign(new TestExport(pattern(SIZE)), { multiConn })
      await using server = await serving(providerOf(target))
      const base = multiConn ? FLAGS : FLAGS & ~0x100
      const client = await greeted(server)
      for (const flags of [base, base | DF]) {
        const [info] = await ask(client, option(NBD_OPT.INFO, infoData('x')))
        assert.deepEqual(info?.data, Buffer.concat([u16(0), u64(SIZE), u16(flags)]))
        if (flags === base) await ask(client, option(NBD_OPT.STRUCTURED_REPLY))
      }
    }
  })

  test('EXPORT always; BLOCK_SIZE 1 / 4096 / 32 MiB, NAME and DESCRIPTION when asked; unknown and repeated types ignored', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    for (const number of [NBD_OPT.INFO, NBD_OPT.GO]) {
      const asked = [4, 0xffff, NBD_INFO.BLOCK_SIZE, NBD_INFO.NAME, NBD_INFO.DESCRIPTION, 3, 3, 0]
      const replies = await ask(client, option(number, infoData('x', asked)))
      const infos = replies.slice(0, -1).map(({ type, data }) => [type, data.toString('hex')])
      assert.deepEqual(
        infos,
        [
          Buffer.concat([u16(NBD_INFO.EXPORT), u64(SIZE), u16(FLAGS)]),
          Buffer.concat([u16(NBD_INFO.BLOCK_SIZE), u32(1), u32(4096), u32(32 << 20)]),
          Buffer.concat([u16(NBD_INFO.NAME), Buffer.from('sha256:x')]),
          Buffer.concat([u16(NBD_INFO.DESCRIPTION), Buffer.from('a test')]),
        ].map((data) => [NBD_REP.INFO, data.toString('hex')]),
      )
    }
  })

  test('GO: no zero padding behind the ACK, whatever the client said of NO_ZEROES', async () => {
    await using opened = await start(SIZE)
    for (const flags of [1, 3]) {
      const { client } = await opened.server.connect()
      await client.greet(u32(flags))
      await ask(client, option(NBD_OPT.GO, infoData('x')))
      await turns(3)
      assert.equal(client.buffered, 0)
      client.send(numbered(1))
      await client.expect(simpleReply(0n, 0, opened.target.bytes.subarray(0, 1)))
    }
  })

  test('GO after INFO with the same arguments: the same answer, also when the name was moved in between', async () => {
    const [first, second] = [new TestExport(pattern(SIZE)), new TestExport(pattern(5000))]
    let current = first
    await using server = await serving({
      ...providerOf(first),
      async open() {
        current.opened++
        return current
      },
    })
    const client = await greeted(server)
    const infos = await ask(client, option(NBD_OPT.INFO, infoData('x', [1, 2, 3])))
    current = second
    const went = await ask(client, option(NBD_OPT.GO, infoData('x', [1, 2, 3])))
    assert.deepEqual(
      went.map(({ type, data }) => [type, data]),
      infos.map(({ type, data }) => [type, data]),
    )
    client.send(request({ offset: SIZE - 2, length: 2 }))
    await client.expect(simpleReply(COOKIE, 0, first.bytes.subarray(-2)))
    const other = await greeted(server)
    const [moved] = await ask(other, option(NBD_OPT.INFO, infoData('x')))
    assert.equal(moved?.data.readBigUInt64BE(2), 5000n)
    client.stream.destroy()
    other.stream.destroy()
    await server.ended(2)
    assert.deepEqual([first.opened, first.closed, second.opened, second.closed], [1, 1, 1, 1])
  })

  test('what INFO opened is closed: by GO for another name, by the next INFO, by the end', async () => {
    const target = new TestExport(pattern(10))
    await using server = await serving(providerOf(target, ['x', 'y']))
    const client = await greeted(server)
    for (const name of ['x', 'y', 'x']) await ask(client, option(NBD_OPT.INFO, infoData(name)))
    assert.deepEqual([target.opened, target.closed], [3, 2])
    await ask(client, option(NBD_OPT.GO, infoData('y')))
    assert.deepEqual([target.opened, target.closed], [4, 3])
    const probe = await greeted(server)
    await ask(probe, option(NBD_OPT.INFO, infoData('x')))
    for (const { stream } of [probe, client]) stream.destroy()
    await server.ended(2)
    assert.equal(target.closed, target.opened)
  })

  test('why an export cannot be had: ERR_UNKNOWN, ERR_POLICY, ERR_PLATFORM; the connection goes on', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    for (const [name, type] of [
      ['nope', NBD_REP.ERR_UNKNOWN],
      ['policy', NBD_REP.ERR_POLICY],
      ['crash', NBD_REP.ERR_PLATFORM],
    ] as const) {
      for (const number of [NBD_OPT.INFO, NBD_OPT.GO]) {
        const replies = await ask(client, option(number, infoData(name)))
        assert.deepEqual(
          replies.map((reply) => reply.type),
          [type],
        )
      }
    }
    assert.equal(lastType(await ask(client, option(NBD_OPT.GO, infoData('')))), NBD_REP.ACK)
  })

  test("every refusal of a provider is the error of its name, with its words, behind EXPORT_NAME the connection's end", async () => {
    for (const refusal of ['UNKNOWN', 'POLICY', 'SHUTDOWN', 'PLATFORM', 'TLS_REQD'] as const) {
      const target = new TestExport(pattern(10))
      await using server = await serving({
        ...providerOf(target),
        async open(name, context) {
          if (name === '') return providerOf(target).open(name, context)
          throw new NbdOpenError(refusal, `not ${name}.`)
        },
      })
      const client = await greeted(server)
      for (const number of [NBD_OPT.INFO, NBD_OPT.GO]) {
        const replies = await ask(client, option(number, infoData('y')))
        assert.deepEqual(
          replies.map(({ type, data }) => [type, data.toString()]),
          [[NBD_REP[`ERR_${refusal}`], 'not y.']],
        )
      }
      assert.equal(lastType(await ask(client, option(NBD_OPT.GO, infoData('')))), NBD_REP.ACK)
      const byName = await greeted(server)
      byName.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('y')))
      assert.equal((await byName.readToEnd()).length, 0)
    }
  })

  test('block sizes are never demanded: a client that asks for none reads any range', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    assert.equal(lastType(await ask(client, option(NBD_OPT.GO, infoData('x')))), NBD_REP.ACK)
    client.send(request({ offset: 513, length: 28 }))
    await client.expect(simpleReply(COOKIE, 0, opened.target.bytes.subarray(513, 541)))
  })

  const malformed: Record<string, Buffer> = {
    'no data': Buffer.alloc(0),
    'no room for the number of infos': Buffer.concat([u32(1), Buffer.from('x'), hex('00')]),
    'a name longer than the data': Buffer.concat([u32(2), Buffer.from('x'), u16(0)]),
    'a name length of 0xffffffff': Buffer.concat([u32(0xffffffff), Buffer.from('x'), u16(0)]),
    'a name length of 0xfffffffa, which wraps': Buffer.concat([u32(0xfffffffa), u16(0)]),
    'fewer infos than announced': Buffer.concat([infoData('x').subarray(0, -2), u16(0xffff)]),
    'half an info': Buffer.concat([infoData('x').subarray(0, -2), u16(1), hex('00')]),
    'bytes behind the infos': Buffer.concat([infoData('x', [3]), hex('00')]),
    'NUL in the name': infoData('a\0b'),
    'a name that is not UTF-8': infoData(hex('eda080')),
    'a name of 4097 bytes': infoData('a'.repeat(4097)),
  }
  for (const [what, data] of Object.entries(malformed)) {
    test(`${what}: ERR_INVALID, and the connection goes on`, async () => {
      await using opened = await start(SIZE)
      const client = await greeted(opened.server)
      for (const number of [NBD_OPT.INFO, NBD_OPT.GO]) {
        const replies = await ask(client, option(number, data))
        assert.deepEqual(
          replies.map((reply) => [reply.option, reply.type]),
          [[number, NBD_REP.ERR_INVALID]],
        )
      }
      assert.equal(lastType(await ask(client, option(NBD_OPT.GO, infoData('x')))), NBD_REP.ACK)
    })
  }
})

describe('options that are not offered', () => {
  test('STARTTLS, PEEK_EXPORT, meta contexts and extended headers are ERR_UNSUP, with or without data', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    await ask(client, option(NBD_OPT.STRUCTURED_REPLY))
    const contexts = Buffer.concat([
      u32(1),
      Buffer.from('x'),
      u32(1),
      u32(15),
      Buffer.from('base:allocation'),
    ])
    for (const number of [4, 5, 9, 10, 11]) {
      for (const data of [Buffer.alloc(0), contexts, Buffer.alloc(5)]) {
        const replies = await ask(client, option(number, data))
        assert.deepEqual(
          replies.map((reply) => reply.type),
          [NBD_REP.ERR_UNSUP],
        )
      }
    }
    // A refused STARTTLS begins no TLS and forgets nothing.
    await ask(client, option(NBD_OPT.GO, infoData('x')))
    client.send(request({ length: 1 }))
    assert.equal((await client.chunk()).type, 1)
  })

  test('STRUCTURED_REPLY with data is ERR_INVALID and negotiates nothing', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    const [refused] = await ask(client, option(NBD_OPT.STRUCTURED_REPLY, hex('00')))
    assert.equal(refused?.type, NBD_REP.ERR_INVALID)
    const [info] = await ask(client, option(NBD_OPT.GO, infoData('x')))
    assert.equal(info?.data.readUInt16BE(10), FLAGS)
    client.send(request({ length: 2 }))
    await client.expect(simpleReply(COOKIE, 0, opened.target.bytes.subarray(0, 2)))
  })
})

describe('replies that nbd-client can read', () => {
  test('each reply arrives in one segment', async () => {
    const target = Object.assign(new TestExport(pattern(10)), { description: 'd'.repeat(3000) })
    await using server = await serving(providerOf(target))
    const { client, socket } = await server.connect()
    await client.greet()
    for (const bytes of [
      option(NBD_OPT.STRUCTURED_REPLY),
      option(99, Buffer.alloc(500)),
      option(NBD_OPT.INFO, infoData('x', [1, 2, 3])),
      option(NBD_OPT.LIST),
    ]) {
      const first = once(socket, 'data')
      client.send(bytes)
      const [segment] = (await first) as [Buffer]
      let at = 0
      while (at < segment.length) at += 20 + segment.readUInt32BE(at + 16)
      assert.equal(at, segment.length)
      while ((await client.optionReply()).type < ERROR && client.buffered > 0);
    }
  })

  test('every INFO and every error text is shorter than 4096 bytes; a name is never cut', async () => {
    const long = 'ü'.repeat(2200)
    const target = Object.assign(new TestExport(pattern(10)), { name: long, description: long })
    await using server = await serving(providerOf(target))
    const client = await greeted(server)
    const replies = await ask(client, option(NBD_OPT.INFO, infoData('x', [1, 2])))
    const infos = replies.filter(({ type }) => type === NBD_REP.INFO)
    assert.deepEqual(
      infos.map(({ data }) => data.readUInt16BE(0)),
      [NBD_INFO.EXPORT, NBD_INFO.DESCRIPTION],
    )
    replies.push(...(await ask(client, option(NBD_OPT.INFO, infoData('n'.repeat(4096))))))
    for (const { data } of replies) assert.ok(data.length < 4096)
  })

  test('every error text is UTF-8 and ends with a full stop', async () => {
    await using opened = await start(SIZE)
    const client = await greeted(opened.server)
    const refused = [
      option(99),
      option(3, hex('00')),
      option(8, hex('00')),
      option(7),
      option(7, infoData('crash')),
      option(7, infoData('nope')),
      option(7, infoData('ü'.repeat(2048))),
      option(7, Buffer.alloc(70_000)),
    ]
    for (const bytes of refused) {
      const text = (await ask(client, bytes))[0]?.data ?? Buffer.alloc(0)
      assert.match(new TextDecoder('utf-8', { fatal: true }).decode(text), /^[^\0]+\.$/)
    }
  })
})
