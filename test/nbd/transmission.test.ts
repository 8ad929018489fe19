import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as fc from 'fast-check'

import type { RequestHeader } from '../../src/nbd/codec.ts'
import { NBD_CMD } from '../../src/nbd/index.ts'
import { Transmission } from '../../src/nbd/transmission.ts'
import { hex, request } from './wire.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 5000 : 200
const MAX_SWALLOW = 4096

class Harness {
  readonly seen: RequestHeader[] = []
  readonly events: string[] = []
  room = Infinity
  readonly machine = new Transmission(
    {
      hasRoom: () => this.room > 0,
      onRequest: (header) => {
        this.room--
        this.seen.push({ ...header })
      },
      onDisconnect: () => this.events.push('disconnect'),
      onViolation: (error) => this.events.push(error.code),
    },
    MAX_SWALLOW,
  )

  feed(bytes: Buffer, step = Math.max(1, bytes.length)): this {
    for (let at = 0; at < bytes.length; at += step) {
      const piece = Buffer.from(bytes.subarray(at, at + step))
      this.machine.push(piece)
      piece.fill(0xee)
    }
    return this
  }
}

describe('framing', () => {
  test('all fields, the cookie bit for bit', () => {
    const bytes = hex(`
      25609513          # request magic
      0004 0000         # DF, READ
      fedcba9876543210  # cookie
      0012345678abcdef  # offset, above 2^52
      00010000          # length`)
    const [seen] = new Harness().feed(bytes).seen
    assert.deepEqual(seen, {
      magic: 0x25609513,
      flags: 4,
      type: 0,
      cookieHigh: 0xfedcba98,
      cookieLow: 0x76543210,
      offset: 0x0012345678abcdef,
      length: 65536,
    })
  })

  test('wrong magic breaks the machine for good', () => {
    const harness = new Harness().feed(Buffer.concat([Buffer.alloc(28), request({ length: 1 })]))
    assert.deepEqual(harness.events, ['ERR_NBD_PROTOCOL'])
    harness.feed(request({ length: 1 }))
    assert.deepEqual(harness.seen, [])
  })

  test('DISC ends: what follows is ignored, also garbage', () => {
    const disc = request({ type: NBD_CMD.DISC })
    const harness = new Harness().feed(
      Buffer.concat([request({ length: 1 }), disc, request({ length: 2 }), Buffer.alloc(50, 9)]),
    )
    assert.equal(harness.seen.length, 1)
    assert.deepEqual(harness.events, ['disconnect'])
  })

  test('the payload of a WRITE is thrown away, to the byte', () => {
    for (const length of [0, 1, 27, 28, 29, MAX_SWALLOW]) {
      const write = [request({ type: NBD_CMD.WRITE, length }), Buffer.alloc(length, 0x25)]
      const bytes = Buffer.concat([...write, request({ length: 7 })])
      for (const step of [1, 13, 28, bytes.length]) {
        const harness = new Harness().feed(bytes, step)
        assert.deepEqual(
          harness.seen.map((r) => r.length),
          [length, 7],
          `${length} by ${step}`,
        )
      }
    }
  })

  test('a WRITE is not seen before its payload has come', () => {
    const harness = new Harness().feed(request({ type: NBD_CMD.WRITE, length: 2 })).feed(hex('00'))
    assert.equal(harness.seen.length, 0)
    assert.equal(harness.feed(hex('00')).seen.length, 1)
  })

  test('a WRITE larger than what is swallowed breaks the machine', () => {
    const harness = new Harness().feed(request({ type: NBD_CMD.WRITE, length: MAX_SWALLOW + 1 }))
    assert.deepEqual(harness.events, ['ERR_NBD_LIMIT'])
  })
})

describe('no room', () => {
  test('keeps the rest, whole, and goes on where it stopped', () => {
    const lengths = Array.from({ length: 10 }, (_, i) => i + 1)
    const bytes = Buffer.concat(lengths.map((length) => request({ length })))
    for (let cut = 0; cut <= bytes.length; cut++) {
      const harness = new Harness()
      harness.room = 3
      harness.feed(bytes.subarray(0, cut)).feed(bytes.subarray(cut))
      assert.equal(harness.machine.state, 'blocked')
      while (harness.machine.state === 'blocked') {
        harness.room = 2
        harness.machine.resume()
      }
      assert.deepEqual(
        harness.seen.map((r) => r.length),
        lengths,
        `cut at ${cut}`,
      )
    }
  })

  test('DISC needs no room', () => {
    const harness = new Harness()
    harness.room = 0
    assert.deepEqual(harness.feed(request({ type: NBD_CMD.DISC })).events, ['disconnect'])
  })
})

test('any cut of any stream gives what the whole stream gives', () => {
  const one = fc.oneof(
    fc.record({
      type: fc.constantFrom(0, 3, 4, 5, 6, 7, 99),
      length: fc.nat(1 << 20),
      payload: fc.constant(0),
    }),
    fc.nat(200).map((length) => ({ type: NBD_CMD.WRITE as number, length, payload: length })),
  )
  const streams = fc.tuple(
    fc.array(one, { maxLength: 30 }),
    fc.infiniteStream(fc.integer({ min: 1, max: 90 })),
  )
  fc.assert(
    fc.property(
      streams,
      fc.infiniteStream(fc.integer({ min: 1, max: 4 })),
      ([messages, cuts], rooms) => {
        const bytes = Buffer.concat(
          messages.map(({ type, length, payload }, i) =>
            Buffer.concat([
              request({ type, length, cookie: BigInt(i) }),
              Buffer.alloc(payload, 0x25),
            ]),
          ),
        )
        const harness = new Harness()
        for (let at = 0; at < bytes.length;) {
          const step = cuts.next().value
          harness.room = rooms.next().value
          harness.feed(bytes.subarray(at, at + step))
          at += step
          while (harness.machine.state === 'blocked') {
            harness.room = rooms.next().value
            harness.machine.resume()
          }
        }
        assert.deepEqual(
          harness.seen.map((r) => [r.type, r.length, r.cookieLow]),
          messages.map(({ type, length }, i) => [type, length, i]),
        )
      },
    ),
    { seed: 7, numRuns: RUNS },
  )
})
