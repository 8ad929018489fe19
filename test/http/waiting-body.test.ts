/** Bodies reach their readers whole and in order, however they come in pieces and whenever they are read. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { describe, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import fc from 'fast-check'

import { WaitingBodyRequest } from '../../src/server/http/waiting-body.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 2_000 : 200

const step = fc.oneof(
  { weight: 6, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 40 }) },
  { weight: 1, arbitrary: fc.uint8Array({ minLength: 3_000, maxLength: 5_000 }) },
  { weight: 2, arbitrary: fc.constantFrom('pause', 'resume', 'turn') },
)

function newRequest(): WaitingBodyRequest {
  const socket = new Duplex({ read: () => undefined, write: (_chunk, _coding, done) => done() })
  return new WaitingBodyRequest(socket as Socket)
}

describe('a body', () => {
  test('is what was pushed, for a reader that pauses', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.nat(60), async (steps, start) => {
        const request = newRequest()
        const sent: Uint8Array[] = []
        const read: Buffer[] = []
        const listen = (): void => void request.on('data', (piece: Buffer) => read.push(piece))
        const end = once(request, 'end')
        for (const [i, what] of steps.entries()) {
          if (i === start) listen()
          if (what === 'pause') request.pause()
          else if (what === 'resume' && i > start) request.resume()
          else if (what === 'turn') await nextTurn()
          else if (typeof what !== 'string') {
            sent.push(what)
            request.push(Buffer.from(what))
          }
        }
        if (start >= steps.length) listen()
        request.push(null)
        request.resume()
        await end
        assert.ok(Buffer.concat(read).equals(Buffer.concat(sent)))
      }),
      { numRuns: RUNS, seed: 11 },
    )
  })

  test('is what was pushed, for a reader that iterates', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const request = newRequest()
        const sent = steps.filter((what) => typeof what !== 'string')
        const read: Buffer[] = []
        const reading = (async () => {
          for await (const piece of request) read.push(piece as Buffer)
        })()
        for (const what of steps) {
          if (typeof what === 'string') await nextTurn()
          else request.push(Buffer.from(what))
        }
        request.push(null)
        await reading
        assert.ok(Buffer.concat(read).equals(Buffer.concat(sent)))
      }),
      { numRuns: RUNS, seed: 12 },
    )
  })

  test('that nobody reads is two pieces, and asks to wait when it is long', async () => {
    const request = newRequest()
    const limit = request.readableHighWaterMark
    let more = true
    for (let i = 0; i < limit; i++) more = request.push(Buffer.from([i]))
    assert.equal(more, false)
    const pieces: number[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece.length))
    request.push(null)
    await once(request, 'end')
    assert.deepEqual(pieces, [1, limit - 1])
  })
})
