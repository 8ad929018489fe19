/**
 * Fuzzing of the byte stream against an export in memory that answers at once, later, or in pieces. The page
 * cache has a file of its own, so that both run at the same time.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { ReplyPiece } from '../../src/nbd/index.ts'
import { pattern, TestExport } from './exports.ts'
import { fuzz } from './fuzzing.ts'
import { TestServer, turns } from './harness.ts'

const SIZE = 130_000
const PIECE = 20_000

test('whatever a client sends: the answers that it is owed, and nothing left behind', async () => {
  const target = new TestExport(pattern(SIZE))
  /** How a read is answered follows from where it is, so that a session can be replayed. */
  target.onRead = (offset, length, reply) => {
    const answer = (): void => target.answer({ offset, length, reply })
    if (length > 2 * PIECE) reply.stream(pieces(offset, length))
    else if (offset % 4 === 0) answer()
    else if (offset % 4 === 1) process.nextTick(answer)
    else if (offset % 4 === 2) setImmediate(answer)
    else void turns(3).then(answer)
  }
  async function* pieces(offset: number, length: number): AsyncGenerator<ReplyPiece> {
    for (let at = 0; at < length; at += PIECE) {
      if (at % 3 === 0) await turns(1)
      const end = offset + Math.min(at + PIECE, length)
      yield { parts: [target.bytes.subarray(offset + at, end)], release: target.lend() }
    }
  }
  // What the provider is made to throw on purpose is all that may be reported. Nothing is kept of it.
  const unexpected = new Set<string>()
  const onError = (error: unknown): void => {
    if (!(error instanceof TypeError && error.message === 'a bug')) unexpected.add(String(error))
  }
  // The budget of the whole server is the largest read: a byte that is not given back stops the next one.
  const limits = {
    maxInFlight: 16,
    maxInFlightBytes: SIZE,
    maxTotalInFlightBytes: SIZE,
  }
  await using server = await new TestServer(target, { limits, onError }).listen()
  await fuzz(
    {
      server,
      bytes: target.bytes,
      streams: { size: SIZE, names: ['x', 'nope', '', 'crash'] },
      world: {
        exports: new Map([
          ['x', SIZE],
          ['', SIZE],
        ]),
        listed: 1,
        broken: new Set(['crash']),
      },
      settled: async () => {
        for (let i = 0; i < 10 && target.released < target.sent; i++) await turns(1)
        assert.deepEqual([target.released, target.doubleReleases], [target.sent, 0])
        assert.deepEqual([target.closed, target.unreleasedAtClose], [target.opened, 0])
      },
    },
    { name: 'memory', seed: 20_261_123, sessions: 400, fullMs: 300_000 },
  )
  assert.deepEqual([...unexpected], [])
})
