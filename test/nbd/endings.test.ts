/**
 * A client that says it will send no more, by half-closing or by DISC, still gets every reply that it is owed,
 * whole, and then the server's FIN: from memory and from a cold cache, whose replies come late.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { NBD_CMD, NBD_OPT } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { TestServer, turns } from './harness.ts'
import { PageCacheServer } from './page-cache-server.ts'
import type { Replies } from './replies.ts'
import { parseSimple, parseStructured } from './replies.ts'
import { CLIENT_FLAGS, GREETING, infoData, option, request } from './wire.ts'

const ROUNDS = process.env['COMMONPAGE_FULL'] === '1' ? 10 : 1
const MIB = 1024 * 1024
const SIZE = 2 * MIB
const COUNTS = [0, 1, 50, 200]
/** Copied, lent, and (with 32 frames) streamed. */
const LENGTHS = [1, 4096, 16_384, 20_000, 100_000]

const asked = (i: number) => {
  const length = LENGTHS[i % LENGTHS.length] ?? 1
  return { offset: (i * 7919) % (SIZE - length), length }
}

function requests(count: number): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => request({ ...asked(i), cookie: BigInt(i) })),
  )
}

function assertAll({ answers, rest, unfinished }: Replies, count: number, bytes: Buffer): void {
  assert.deepEqual([answers.length, rest, unfinished], [count, 0, []])
  assert.equal(new Set(answers.map(({ cookie }) => cookie)).size, count)
  for (const { cookie, error, data } of answers) {
    const { offset, length } = asked(Number(cookie))
    assert.equal(error, 0)
    assert.ok(data.equals(bytes.subarray(offset, offset + length)), `bytes of read ${cookie}`)
  }
}

for (const cache of ['hot', 'cold'] as const) {
  for (const structured of [false, true]) {
    const replies = structured ? 'structured' : 'simple'
    for (const how of ['half-close', 'DISC', 'DISC and half-close'] as const) {
      test(`${how} behind n requests, ${cache} cache, ${replies} replies: n replies, then FIN`, async () => {
        for (let round = 0; round < ROUNDS; round++) {
          await using cached = await PageCacheServer.start({
            size: SIZE,
            cache: { frames: cache === 'hot' ? 256 : 32 },
          })
          if (cache === 'hot') await cached.warm()
          else cached.cache.source.gate = () => turns(1 + (round % 3))
          for (const [ended, count] of COUNTS.entries()) {
            const { client, socket } = await cached.server.connect()
            await client.go('', { structured })
            client.send(requests(count))
            if (how !== 'half-close') {
              // What comes behind DISC is ignored.
              client.send(request({ type: NBD_CMD.DISC }), requests(round % 3))
            }
            if (how !== 'DISC') socket.end()
            const parse = structured ? parseStructured : parseSimple
            const bytes = await client.readToEnd()
            assertAll(
              parse(bytes, (cookie) => asked(Number(cookie))),
              count,
              cached.bytes,
            )
            socket.end()
            await cached.server.ended(ended + 1)
          }
          const outcome = how === 'half-close' ? 'closed' : 'disconnected'
          assert.deepEqual(new Set(cached.server.outcomes), new Set([outcome]))
          await cached.settled()
        }
      })
    }
  }
}

describe('FIN right behind the negotiation', () => {
  /** Opens take a while, and the client's FIN is there before. */
  async function slowToOpen(): Promise<{ target: TestExport; server: TestServer }> {
    const target = new TestExport(pattern(SIZE))
    const provider = providerOf(target)
    const server = new TestServer({
      ...provider,
      async open(name, context) {
        await turns(10)
        return provider.open(name, context)
      },
    })
    return { target, server: await server.listen() }
  }

  for (const via of ['GO', 'EXPORT_NAME'] as const) {
    test(`flags, ${via}, requests and FIN in one segment: everything is answered`, async () => {
      const { target, server } = await slowToOpen()
      await using _server = server
      const { client, socket } = await server.connect()
      const enter =
        via === 'GO'
          ? option(NBD_OPT.GO, infoData('x'))
          : option(NBD_OPT.EXPORT_NAME, Buffer.from('x'))
      client.send(CLIENT_FLAGS, enter, requests(5))
      socket.end()
      await client.expect(GREETING)
      if (via === 'GO') while ((await client.optionReply()).type !== 1);
      else await client.read(10)
      const bytes = await client.readToEnd()
      assertAll(
        parseSimple(bytes, (cookie) => asked(Number(cookie))),
        5,
        target.bytes,
      )
      await server.ended(1)
      assert.deepEqual(server.outcomes, ['closed'])
    })
  }

  test('INFO, LIST and FIN in one segment: every option is answered, then FIN', async () => {
    const { target, server } = await slowToOpen()
    await using _server = server
    const { client, socket } = await server.connect()
    client.send(CLIENT_FLAGS, option(NBD_OPT.INFO, infoData('x')), option(NBD_OPT.LIST), option(99))
    socket.end()
    await client.expect(GREETING)
    const types: number[] = []
    for (let i = 0; i < 5; i++) types.push((await client.optionReply()).type)
    assert.deepEqual(types, [3, 1, 2, 1, 0x80000001])
    assert.equal((await client.readToEnd()).length, 0)
    await server.ended(1)
    assert.deepEqual([server.outcomes, target.closed], [['aborted'], target.opened])
  })
})
