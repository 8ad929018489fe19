/**
 * NBD proto, "Structured reply message" and "Structured reply types", line by line: every stream of replies is
 * read whole and held against the rules in replies.ts. Over a real socket, from a buffer and from the page
 * cache, whose larger replies come in pieces. Errors in the middle of a reply are in conformance-replies.test.ts.
 */
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { describe, test } from 'node:test'

import { NBD_CMD, NBD_CMD_FLAG, NBD_E } from '../../src/nbd/index.ts'
import { start } from './harness.ts'
import { PageCacheServer } from './page-cache-server.ts'
import type { Answer } from './replies.ts'
import { parseSimple, parseStructured } from './replies.ts'
import type { WireClient } from './wire.ts'
import { request } from './wire.ts'

const KIB = 1024
const MIB = 1024 * KIB
const SIZE = 300_001
const { DF } = NBD_CMD_FLAG

interface Sent {
  readonly type?: number
  readonly flags?: number
  readonly offset: number
  readonly length: number
}

/** Sends the requests with cookies 0, 1, …, half-closes, and reads every answer, by cookie. */
async function exchange(
  { client, socket }: { client: WireClient; socket: Socket },
  sent: readonly Sent[],
  structured = true,
): Promise<Answer[]> {
  client.send(...sent.map((fields, i) => request({ ...fields, cookie: BigInt(i) })))
  socket.end()
  const parse = structured ? parseStructured : parseSimple
  const replies = parse(await client.readToEnd(), (cookie) => {
    const { type, offset, length } = sent[Number(cookie)] ?? assert.fail()
    return { offset, length: (type ?? NBD_CMD.READ) === NBD_CMD.READ ? length : 0 }
  })
  assert.deepEqual([replies.rest, replies.unfinished, replies.answers.length], [0, [], sent.length])
  return replies.answers.toSorted((a, b) => Number(a.cookie - b.cookie))
}

async function connected(server: PageCacheServer['server'], structured = true) {
  const connection = await server.connect()
  await connection.client.go('', { structured })
  return connection
}

describe('what is structured', () => {
  test('nothing before it is negotiated: errors and data are simple replies', async () => {
    await using started = await start(SIZE)
    const sent = [
      { offset: 0, length: 100 },
      { offset: SIZE, length: 1 },
      { offset: 0, length: 1, flags: DF },
      { type: NBD_CMD.TRIM, offset: 0, length: 512 },
    ]
    const answers = await exchange(await connected(started.server, false), sent, false)
    assert.deepEqual(
      answers.map(({ error }) => error),
      [0, NBD_E.EINVAL, NBD_E.EINVAL, NBD_E.EPERM],
    )
  })

  test('everything once it is negotiated: READ and its early EINVAL, and every other command', async () => {
    await using started = await start(SIZE)
    const sent = [
      { offset: 9, length: 100 },
      { offset: SIZE, length: 1 },
      { offset: 0, length: 33 * MIB },
      { offset: 0, length: 1, flags: NBD_CMD_FLAG.FUA },
      ...[NBD_CMD.TRIM, NBD_CMD.FLUSH, NBD_CMD.CACHE, NBD_CMD.WRITE_ZEROES, 99].map((type) => ({
        type,
        offset: 0,
        length: 512,
      })),
    ]
    const answers = await exchange(await connected(started.server), sent)
    const { EINVAL, EPERM } = NBD_E
    assert.deepEqual(
      answers.map(({ error }) => error),
      [0, EINVAL, EINVAL, EINVAL, EPERM, 0, 0, EPERM, EINVAL],
    )
    assert.ok(answers[0]?.data.equals(started.target.bytes.subarray(9, 109)))
  })

  test('a READ of nothing is one NONE chunk', async () => {
    await using started = await start(SIZE)
    const [answer] = await exchange(await connected(started.server), [{ offset: SIZE, length: 0 }])
    assert.deepEqual([answer?.error, answer?.chunks], [0, []])
  })
})

describe('content chunks', () => {
  const LENGTHS = [1, 2, 511, 512, 513, 4096, 16_384, 16_385, 65_536, 65_537, 200_000, SIZE]

  for (const flags of [0, DF]) {
    test(`lie inside the request, never overlap, cover it, DONE comes last${flags === DF ? '; DF: at most one, also above 64 KiB' : ''}`, async () => {
      const sent = LENGTHS.flatMap((length) =>
        [0, 1, SIZE - length].map((offset) => ({
          flags,
          length,
          offset: Math.min(offset, SIZE - length),
        })),
      )
      const check = (bytes: Buffer, answers: readonly Answer[]): void => {
        for (const [i, { data, error, chunks }] of answers.entries()) {
          const { offset, length } = sent[i] ?? assert.fail()
          assert.equal(error, 0)
          assert.ok(data.equals(bytes.subarray(offset, offset + length)))
          if (flags === DF) assert.equal(chunks.length, 1)
        }
      }
      await using started = await start(SIZE)
      check(started.target.bytes, await exchange(await connected(started.server), sent))
      // 20 frames: every read above 48 KiB is streamed, and evicts what the others read.
      await using cached = await PageCacheServer.start({ size: SIZE, cache: { frames: 20 } })
      check(cached.bytes, await exchange(await connected(cached.server), sent))
      if (flags !== DF) return
      const plain = await exchange(
        await connected(cached.server, false),
        [{ flags, offset: 0, length: 1 }],
        false,
      )
      assert.equal(plain[0]?.error, NBD_E.EINVAL, 'DF without structured replies')
    })
  }

  test('a read that is split is split at multiples of 512 bytes', async () => {
    const frames = 24
    for (const frameSize of [16_384, 65_536] as const) {
      await using cached = await PageCacheServer.start({
        size: 2 * MIB,
        cache: { frames, frameSize },
      })
      const sent = [
        { offset: 0, length: 2 * MIB },
        { offset: 777, length: MIB },
        { offset: 512, length: MIB + 1 },
      ]
      for (const { chunks } of await exchange(await connected(cached.server), sent)) {
        assert.ok(chunks.length > 1)
        for (const [offset] of chunks.slice(1)) assert.equal(offset % 512, 0)
      }
    }
  })

  test('none carries more than the advertised maximum payload: 32 MiB', async () => {
    await using started = await start(32 * MIB + 1)
    const sent = [{ offset: 1, length: 32 * MIB }]
    const [answer] = await exchange(await connected(started.server), sent)
    assert.ok(answer !== undefined && answer.data.equals(started.target.bytes.subarray(1)))
    for (const [, length] of answer.chunks) assert.ok(length <= 32 * MIB)
  })

  test('replies interleave: many streams and small reads at once, each complete', async () => {
    await using cached = await PageCacheServer.start({ size: MIB, cache: { frames: 32 } })
    const sent = Array.from({ length: 60 }, (_, i) => ({
      flags: i % 7 === 0 ? DF : 0,
      offset: i * 1000,
      length: [100, 5000, 40_000, 300_000][i % 4] ?? 0,
    }))
    for (const [i, { error, data }] of (
      await exchange(await connected(cached.server), sent)
    ).entries()) {
      const { offset, length } = sent[i] ?? assert.fail()
      assert.equal(error, 0)
      assert.ok(data.equals(cached.bytes.subarray(offset, offset + length)))
    }
  })
})

describe('errors', () => {
  test('a read whose page is damaged is EIO with a text, and every other read is right', async () => {
    await using cached = await PageCacheServer.start({ size: MIB, cache: { frames: 32 } })
    cached.cache.source.damage = (target, offset) => {
      if (offset === 5 * 16_384) target[7] = (target[7] ?? 0) ^ 1
    }
    const sent = Array.from({ length: 16 }, (_, i) => ({ offset: i * 65_536, length: 65_536 }))
    sent.push({ offset: 0, length: MIB }, { offset: 6 * 16_384, length: 16_384 })
    const answers = await exchange(await connected(cached.server), sent)
    for (const [i, { error, data }] of answers.entries()) {
      const { offset, length } = sent[i] ?? assert.fail()
      const damaged = offset <= 5 * 16_384 && offset + length > 5 * 16_384
      assert.equal(error, damaged ? NBD_E.EIO : 0, `read ${i}`)
      if (!damaged) assert.ok(data.equals(cached.bytes.subarray(offset, offset + length)))
    }
    assert.equal(cached.readErrors.length, 2)
  })
})
