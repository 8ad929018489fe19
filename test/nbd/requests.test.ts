/** Every request over an in-memory pair, with simple and with structured replies. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { NBD_CMD, NBD_CMD_FLAG, NBD_E } from '../../src/nbd/index.ts'
import { pattern, TestExport } from './exports.ts'
import { TestServer, turns } from './harness.ts'
import type { WireClient } from './wire.ts'
import { chunk, hex, request, simpleReply, u16, u32, u64 } from './wire.ts'

const SIZE = 300_001
const COOKIE = 0xfedcba9876543210n

async function open(
  options: { structured?: boolean; fast?: boolean; size?: number } = {},
): Promise<{ target: TestExport; server: TestServer; client: WireClient } & AsyncDisposable> {
  const target = new TestExport(pattern(options.size ?? SIZE))
  target.fast = options.fast ?? false
  const server = new TestServer(target)
  const client = server.pair()
  await client.go('x', { structured: options.structured ?? false })
  return { target, server, client, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

const LENGTHS = [1, 511, 4096, 16_384, 16_385, 100_000, SIZE]

for (const fast of [false, true]) {
  describe(`READ, ${fast ? 'fast path' : 'read()'}`, () => {
    test('simple replies', async () => {
      await using opened = await open({ fast })
      const { target, client } = opened
      for (const length of LENGTHS) {
        for (const offset of [0, 1, SIZE - length].filter((at) => at + length <= SIZE)) {
          client.send(request({ offset, length }))
          await client.expect(
            simpleReply(COOKIE, 0, target.bytes.subarray(offset, offset + length)),
          )
        }
      }
      assert.equal(target.sent, target.released)
    })

    test('structured replies: one OFFSET_DATA chunk with DONE', async () => {
      await using opened = await open({ fast, structured: true })
      const { target, client } = opened
      for (const flags of [0, NBD_CMD_FLAG.DF]) {
        for (const length of LENGTHS) {
          const offset = Math.min(5, SIZE - length)
          client.send(request({ flags, offset, length }))
          const data = target.bytes.subarray(offset, offset + length)
          await client.expect(chunk(1, 1, COOKIE, Buffer.concat([u64(offset), data])))
        }
      }
    })

    test('many requests of one receive are answered, each with its cookie', async () => {
      await using opened = await open({ fast })
      const { target, server, client } = opened
      const count = 1000
      client.send(
        ...Array.from({ length: count }, (_, i) =>
          request({ cookie: BigInt(i) << 40n, offset: i * 7, length: (i % 50) * 400 + 1 }),
        ),
      )
      for (let i = 0; i < count; i++) {
        const length = (i % 50) * 400 + 1
        const data = target.bytes.subarray(i * 7, i * 7 + length)
        await client.expect(simpleReply(BigInt(i) << 40n, 0, data))
      }
      await turns(2)
      assert.equal(server.counter('requests.READ'), count)
      assert.equal(server.counter('in_flight'), 0)
      assert.equal(server.counter('in_flight_bytes'), 0)
    })
  })
}

test('replies go out as they are ready, not in the order of the requests', async () => {
  await using opened = await open()
  const { target, client } = opened
  target.hold = true
  client.send(request({ cookie: 1n, length: 3 }), request({ cookie: 2n, offset: 9, length: 4 }))
  await turns(3)
  const [first, second] = target.held
  assert.ok(first !== undefined && second !== undefined)
  target.answer(second)
  await client.expect(simpleReply(2n, 0, target.bytes.subarray(9, 13)))
  target.answer(first)
  await client.expect(simpleReply(1n, 0, target.bytes.subarray(0, 3)))
})

describe('length 0', () => {
  test('READ succeeds without data', async () => {
    for (const offset of [0, SIZE]) {
      const simple = await open()
      simple.client.send(request({ offset }))
      await simple.client.expect(simpleReply(COOKIE, 0))
      await simple.server[Symbol.asyncDispose]()
      const structured = await open({ structured: true })
      structured.client.send(request({ offset }))
      await structured.client.expect(chunk(1, 0, COOKIE, Buffer.alloc(0)))
      await structured.server[Symbol.asyncDispose]()
    }
  })

  test('an empty export is served', async () => {
    await using opened = await open({ size: 0 })
    const { client } = opened
    client.send(request({}), request({ length: 1 }))
    await client.expect(simpleReply(COOKIE, 0), simpleReply(COOKIE, NBD_E.EINVAL))
  })
})

describe('commands', () => {
  const cases: [what: string, Buffer, keyof typeof NBD_E | 'OK'][] = [
    ['FLUSH', request({ type: NBD_CMD.FLUSH }), 'OK'],
    ['CACHE', request({ type: NBD_CMD.CACHE, offset: 1, length: SIZE - 1 }), 'OK'],
    ['CACHE past the end', request({ type: NBD_CMD.CACHE, offset: 1, length: SIZE }), 'EINVAL'],
    ['CACHE with an unknown flag', request({ type: NBD_CMD.CACHE, flags: 0x80 }), 'EINVAL'],
    ['READ past the end', request({ offset: SIZE - 1, length: 2 }), 'EINVAL'],
    ['READ from behind the end', request({ offset: SIZE + 1, length: 1 }), 'EINVAL'],
    ['READ 0 from behind the end', request({ offset: SIZE + 1 }), 'EINVAL'],
    ['READ that wraps 2^64', request({ offset: 0xffffffffffffffffn, length: 2 }), 'EINVAL'],
    ['READ at 2^63', request({ offset: 1n << 63n, length: 1 }), 'EINVAL'],
    ['READ of 4 GiB - 1', request({ length: 0xffffffff }), 'EINVAL'],
    ['READ with NO_HOLE', request({ flags: NBD_CMD_FLAG.NO_HOLE, length: 1 }), 'EINVAL'],
    ['READ with FUA', request({ flags: NBD_CMD_FLAG.FUA, length: 1 }), 'EINVAL'],
    ['READ with PAYLOAD_LEN', request({ flags: NBD_CMD_FLAG.PAYLOAD_LEN, length: 1 }), 'EINVAL'],
    ['READ with all flags', request({ flags: 0xffff, length: 1 }), 'EINVAL'],
    ['FLUSH with a flag', request({ type: NBD_CMD.FLUSH, flags: 1 }), 'EINVAL'],
    [
      'WRITE',
      Buffer.concat([request({ type: NBD_CMD.WRITE, length: 9 }), Buffer.alloc(9, 0x25)]),
      'EPERM',
    ],
    ['WRITE of nothing', request({ type: NBD_CMD.WRITE }), 'EPERM'],
    [
      'WRITE past the end',
      Buffer.concat([request({ type: NBD_CMD.WRITE, offset: SIZE, length: 2 }), hex('0102')]),
      'EPERM',
    ],
    ['TRIM', request({ type: NBD_CMD.TRIM, length: 512 }), 'EPERM'],
    ['WRITE_ZEROES', request({ type: NBD_CMD.WRITE_ZEROES, length: 512 }), 'EPERM'],
    [
      'WRITE_ZEROES past the end',
      request({ type: NBD_CMD.WRITE_ZEROES, offset: SIZE * 2 }),
      'EPERM',
    ],
    [
      'WRITE_ZEROES with FAST_ZERO',
      request({ type: NBD_CMD.WRITE_ZEROES, flags: NBD_CMD_FLAG.FAST_ZERO }),
      'EINVAL',
    ],
    [
      'BLOCK_STATUS without a context',
      request({ type: NBD_CMD.BLOCK_STATUS, length: 512 }),
      'EINVAL',
    ],
    ['RESIZE', request({ type: NBD_CMD.RESIZE }), 'EINVAL'],
    ['an unknown command', request({ type: 999, length: 5 }), 'EINVAL'],
  ]
  for (const [what, bytes, expected] of cases) {
    test(`${what}: ${expected}, simple and structured`, async () => {
      const error = expected === 'OK' ? 0 : NBD_E[expected]
      const simple = await open()
      simple.client.send(bytes, request({ cookie: 5n, length: 1 }))
      await simple.client.expect(simpleReply(COOKIE, error))
      await simple.client.expect(simpleReply(5n, 0, simple.target.bytes.subarray(0, 1)))
      await turns(2)
      assert.equal(simple.server.counter('in_flight'), 0)
      await simple.server[Symbol.asyncDispose]()

      await using opened = await open({ structured: true })
      const { client } = opened
      client.send(bytes, request({ cookie: 5n, length: 1 }))
      const reply = await client.chunk()
      assert.equal(reply.cookie, COOKIE)
      assert.equal(reply.flags, 1)
      if (expected === 'OK') {
        assert.deepEqual([reply.type, reply.payload.length], [0, 0])
      } else {
        assert.deepEqual([reply.type, reply.payload.readUInt32BE(0)], [0x8001, error])
        const textLength = reply.payload.readUInt16BE(4)
        assert.ok(textLength > 0)
        assert.equal(reply.payload.length, 6 + textLength)
      }
      assert.equal((await client.chunk()).cookie, 5n)
    })
  }

  test('DF without structured replies is EINVAL', async () => {
    await using opened = await open()
    const { server, client } = opened
    client.send(request({ flags: NBD_CMD_FLAG.DF, length: 1 }))
    await client.expect(simpleReply(COOKIE, NBD_E.EINVAL))
    assert.equal(server.counter('errors.READ.EINVAL'), 1)
  })

  test('CACHE reaches the export, and its failure does not reach the client', async () => {
    await using opened = await open()
    const { target, server, client } = opened
    client.send(request({ type: NBD_CMD.CACHE, offset: 4096, length: 8192 }))
    await client.expect(simpleReply(COOKIE, 0))
    assert.deepEqual(target.cached, [[4096, 8192]])
    target.cache = () => {
      throw new Error('no')
    }
    client.send(request({ type: NBD_CMD.CACHE, length: 1 }))
    await client.expect(simpleReply(COOKIE, 0))
    assert.equal(server.errors.length, 1)
  })
})

describe('CACHE', () => {
  test('of a longer range the first maxRequestBytes are acted on; none of an empty one', async () => {
    const target = new TestExport(pattern(SIZE))
    await using server = new TestServer(target, { limits: { maxRequestBytes: 8192 } })
    const client = server.pair()
    await client.go()
    client.send(
      request({ type: NBD_CMD.CACHE, offset: 4096, length: SIZE - 4096 }),
      request({ type: NBD_CMD.CACHE, offset: 1, length: 8191 }),
      request({ type: NBD_CMD.CACHE, offset: SIZE }),
    )
    for (let i = 0; i < 3; i++) await client.expect(simpleReply(COOKIE, 0))
    assert.deepEqual(target.cached, [
      [4096, 8192],
      [1, 8191],
    ])
  })

  test('of many that arrive together eight are acted on, and all are answered', async () => {
    await using opened = await open()
    const { target, client } = opened
    for (let receive = 1; receive <= 2; receive++) {
      const hints = Array.from({ length: 1000 }, (_, i) =>
        request({ type: NBD_CMD.CACHE, cookie: BigInt(i), offset: i, length: SIZE - i }),
      )
      client.send(...hints)
      for (let i = 0; i < hints.length; i++) await client.expect(simpleReply(BigInt(i), 0))
      assert.equal(target.cached.length, receive * 8)
    }
  })
})

describe('failing reads', () => {
  test('what read() throws becomes its errno', async () => {
    await using opened = await open()
    const { target, server, client } = opened
    target.onRead = () => {
      throw Object.assign(new Error('x'), { code: 'ENOMEM' })
    }
    client.send(request({ length: 5 }))
    await client.expect(simpleReply(COOKIE, NBD_E.ENOMEM))
    assert.equal(server.errors.length, 1)
  })

  test('fail() carries errno and, structured, the text', async () => {
    await using opened = await open({ structured: true })
    const { target, server, client } = opened
    target.onRead = (_offset, _length, reply) => {
      reply.fail('EIO', 'page 3 is corrupt')
      // Only the first answer counts.
      reply.fail('EPERM', 'again')
      reply.send([Buffer.alloc(5)], target.lend())
    }
    client.send(request({ length: 5 }))
    const text = Buffer.from('page 3 is corrupt')
    const payload = Buffer.concat([u32(NBD_E.EIO), u16(text.length), text])
    await client.expect(chunk(1, 0x8001, COOKIE, payload))
    assert.deepEqual([target.sent, target.released], [1, 1])
    target.onRead = undefined
    client.send(request({ length: 1 }))
    assert.equal((await client.chunk()).type, 1)
    await turns(2)
    assert.equal(server.counter('in_flight_bytes'), 0)
  })

  test('a wrong number of bytes is EIO, reported, and released', async () => {
    await using opened = await open()
    const { target, server, client } = opened
    for (const length of [0, 4, 6]) {
      target.onRead = (_o, _l, reply) => reply.send([Buffer.alloc(length)], target.lend())
      client.send(request({ length: 5 }))
      await client.expect(simpleReply(COOKIE, NBD_E.EIO))
    }
    assert.deepEqual([target.sent, target.released, server.errors.length], [3, 3, 3])
  })
})

describe('negotiation over the wire', () => {
  test('an unexpected error of the provider is ERR_PLATFORM and tells nothing', async () => {
    await using server = new TestServer(new TestExport(pattern(10)))
    const client = server.pair()
    await client.greet()
    client.send(hex('49484156454f5054 00000007 0000000b 00000005 6372617368 0000 # GO crash'))
    const { type, data } = await client.optionReply()
    assert.equal(type, 0x80000004)
    assert.equal(data.toString(), 'the export cannot be opened.')
    assert.equal(server.errors.length, 1)
    assert.equal(server.counter('handshake_failures.export'), 1)
  })

  test('requests sent ahead, behind GO, are answered', async () => {
    const target = new TestExport(pattern(100))
    await using server = new TestServer(target)
    const client = server.pair()
    await client.greet()
    client.send(
      hex('49484156454f5054 00000001 00000001 78 # EXPORT_NAME x'),
      request({ length: 3 }),
    )
    await client.read(10)
    await client.expect(simpleReply(COOKIE, 0, target.bytes.subarray(0, 3)))
  })
})
