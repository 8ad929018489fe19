/**
 * NBD proto, "Request message", "Simple reply message", "Command flags" and "Request types", line by line, as
 * raw bytes to a real socket: what each command and flag of a read-only export is answered with, and what ends
 * a connection. Lengths, orders and failing reads are in requests.test.ts, endings in endings.test.ts.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { NBD_CMD, NBD_CMD_FLAG, NBD_E } from '../../src/nbd/index.ts'
import { start, turns } from './harness.ts'
import type { WireClient } from './wire.ts'
import { hex, request, simpleReply, u32 } from './wire.ts'

const MIB = 1024 * 1024
const SIZE = 100_000
const COOKIE = 0xfedcba9876543210n
const { EINVAL, EPERM } = NBD_E

async function opened() {
  const started = await start(SIZE)
  const { client } = await started.server.connect()
  await client.go()
  return { ...started, client }
}

/** Sends the bytes of one request and wants this error value; the stream must stay in step. */
async function expectError(client: WireClient, bytes: Buffer, error: number): Promise<void> {
  client.send(bytes, request({ cookie: 1n, type: NBD_CMD.FLUSH }))
  await client.expect(simpleReply(COOKIE, error), simpleReply(1n, 0))
}

describe('framing', () => {
  test('a request is 28 bytes; its cookie is opaque and comes back bit for bit', async () => {
    await using server = await opened()
    const { client, target } = server
    for (const cookie of [0n, 1n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n, 0x0102030405060708n]) {
      client.send(request({ cookie, offset: 11, length: 3 }))
      await client.expect(simpleReply(cookie, 0, target.bytes.subarray(11, 14)))
    }
  })

  test('a simple reply has data only for READ without error: 16 bytes for all else', async () => {
    await using server = await opened()
    const { client } = server
    const bare = [
      request({ type: NBD_CMD.FLUSH }),
      request({ type: NBD_CMD.CACHE, length: 512 }),
      request({ type: NBD_CMD.TRIM, length: 512 }),
      request({ offset: SIZE, length: 512 }),
      request({ length: 0 }),
    ]
    client.send(...bare)
    await client.read(bare.length * 16)
    await turns(3)
    assert.equal(client.buffered, 0)
  })

  test('a wrong request magic is a hard disconnect: those never to be used, replies, extended headers', async () => {
    const magics = [0x12560953, 0x96744668, 0x25609514, 0x67446698, 0x668e33ef, 0x21e41c71, 0]
    await using started = await start(SIZE)
    for (const magic of magics) {
      const { client } = await started.server.connect()
      await client.go()
      client.send(u32(magic), request({ length: 1 }).subarray(4), request({ length: 1 }))
      await client.gone()
      assert.equal(client.buffered, 0)
    }
    await started.server.ended(magics.length)
    assert.deepEqual(new Set(started.server.codes), new Set(['ERR_NBD_PROTOCOL']))
    assert.equal(started.target.closed, started.target.opened)
  })
})

describe('commands and flags', () => {
  /** Answer of each command when it has no flag, and when it has one that is documented for it. */
  const table: [name: string, type: number, plain: number, allowed: number, withAllowed: number][] =
    [
      ['READ', NBD_CMD.READ, 0, 0, 0],
      ['WRITE', NBD_CMD.WRITE, EPERM, 0, 0],
      ['FLUSH', NBD_CMD.FLUSH, 0, 0, 0],
      ['TRIM', NBD_CMD.TRIM, EPERM, 0, 0],
      ['CACHE', NBD_CMD.CACHE, 0, 0, 0],
      ['WRITE_ZEROES', NBD_CMD.WRITE_ZEROES, EPERM, NBD_CMD_FLAG.NO_HOLE, EPERM],
      ['BLOCK_STATUS', NBD_CMD.BLOCK_STATUS, EINVAL, 0, 0],
      ['RESIZE', NBD_CMD.RESIZE, EINVAL, 0, 0],
      ['command 9', 9, EINVAL, 0, 0],
      ['command 0xffff', 0xffff, EINVAL, 0, 0],
    ]
  for (const [name, type, plain, allowed, withAllowed] of table) {
    test(`${name}: ${plain === 0 ? 'success' : `error ${plain}`}; every flag that was not offered is EINVAL (FUA, DF, FAST_ZERO, PAYLOAD_LEN and unknown ones)`, async () => {
      await using server = await opened()
      const { client } = server
      await expectError(client, request({ type }), plain)
      for (let bit = 0; bit < 16; bit++) {
        const flags = 1 << bit
        const error = flags === allowed ? withAllowed : EINVAL
        await expectError(client, request({ type, flags }), error)
      }
    })
  }

  test('every other command number is EINVAL, and the connection lives', async () => {
    await using server = await opened()
    const { client } = server
    for (let type = 9; type < 0x10000; type += 997) {
      await expectError(
        client,
        request({ type, offset: 2n ** 64n - 1n, length: 0xffffffff }),
        EINVAL,
      )
    }
  })
})

describe('READ', () => {
  test('beyond the end is EINVAL, computed without a wrap; up to the end is served', async () => {
    await using server = await opened()
    const { client, target } = server
    const outside: [bigint | number, number][] = [
      [SIZE, 1],
      [SIZE - 1, 2],
      [0, SIZE + 1],
      [SIZE + 1, 0],
      [2n ** 64n - 1n, 1],
      [2n ** 64n - 1n, 0xffffffff],
      [2n ** 64n - BigInt(SIZE), SIZE],
      [2n ** 32n, 1],
      [2n ** 53n, 1],
    ]
    for (const [offset, length] of outside)
      await expectError(client, request({ offset, length }), EINVAL)
    client.send(request({ offset: SIZE - 1, length: 1 }))
    await client.expect(simpleReply(COOKIE, 0, target.bytes.subarray(-1)))
  })

  test('length 0 does not disconnect: success without data, also at the very end', async () => {
    await using server = await opened()
    for (const offset of [0, 1, SIZE]) await expectError(server.client, request({ offset }), 0)
  })

  test('the whole maximum payload of 32 MiB is served; a byte more is EINVAL and no attack', async () => {
    await using started = await start(32 * MIB + 5)
    const { client } = await started.server.connect()
    await client.go()
    for (const length of [32 * MIB + 1, 64 * MIB, 0xffffffff]) {
      await expectError(client, request({ length }), EINVAL)
    }
    client.send(request({ offset: 5, length: 32 * MIB }))
    const { error, data } = await client.simple(32 * MIB)
    assert.equal(error, 0)
    assert.ok(data.equals(started.target.bytes.subarray(5)))
  })
})

describe('commands that write', () => {
  test('WRITE: exactly `length` bytes are thrown away, whatever they look like, then EPERM', async () => {
    await using server = await opened()
    const { client } = server
    const lookalike = request({ cookie: 99n, length: 1 })
    for (const length of [0, 1, 27, 28, 29, 4096, 65_536, 65_537, MIB]) {
      for (const flags of [0, NBD_CMD_FLAG.FUA, NBD_CMD_FLAG.PAYLOAD_LEN]) {
        const bytes = Buffer.concat([
          request({ type: NBD_CMD.WRITE, flags, length }),
          Buffer.alloc(length, lookalike),
        ])
        await expectError(client, bytes, flags === 0 ? EPERM : EINVAL)
      }
    }
  })

  test('WRITE: EPERM comes before every complaint about the range', async () => {
    await using server = await opened()
    for (const offset of [SIZE, 2n ** 64n - 1n]) {
      const bytes = Buffer.concat([
        request({ type: NBD_CMD.WRITE, offset, length: 2 }),
        hex('0102'),
      ])
      await expectError(server.client, bytes, EPERM)
    }
  })

  test('WRITE of 64 MiB is swallowed; more ends the connection at its header', async () => {
    await using server = await opened()
    const { client } = server
    client.send(request({ type: NBD_CMD.WRITE, length: 64 * MIB }))
    const zeroes = Buffer.alloc(MIB)
    for (let i = 0; i < 64; i++) client.send(zeroes)
    await client.expect(simpleReply(COOKIE, EPERM))
    client.send(request({ type: NBD_CMD.WRITE, length: 64 * MIB + 1 }))
    await client.gone()
    await server.server.ended(1)
    assert.deepEqual(server.server.codes, ['ERR_NBD_LIMIT'])
  })

  test('TRIM and WRITE_ZEROES: EPERM, also beyond the end, and without a payload to swallow', async () => {
    await using server = await opened()
    for (const type of [NBD_CMD.TRIM, NBD_CMD.WRITE_ZEROES]) {
      for (const offset of [0, SIZE, 2n ** 63n]) {
        await expectError(server.client, request({ type, offset, length: 0xffffffff }), EPERM)
      }
    }
  })
})

describe('FLUSH and CACHE', () => {
  test('FLUSH succeeds although it is not offered, also when offset and length break the rule', async () => {
    await using server = await opened()
    for (const fields of [
      {},
      { offset: 1 },
      { length: 5 },
      { offset: 2n ** 64n - 1n, length: 1 },
    ]) {
      await expectError(server.client, request({ type: NBD_CMD.FLUSH, ...fields }), 0)
    }
  })

  test('CACHE: the export is told, the answer does not wait for it; beyond the end is EINVAL', async () => {
    await using server = await opened()
    const { client, target } = server
    target.hold = true
    await expectError(client, request({ type: NBD_CMD.CACHE, offset: 4096, length: 8192 }), 0)
    assert.deepEqual(target.cached, [[4096, 8192]])
    for (const [offset, length] of [
      [SIZE, 1],
      [2n ** 64n - 1n, 2],
    ] as const) {
      await expectError(client, request({ type: NBD_CMD.CACHE, offset, length }), EINVAL)
    }
    assert.equal(target.cached.length, 1)
  })
})
