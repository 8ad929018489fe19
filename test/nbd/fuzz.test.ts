/**
 * Mutated client streams against a whole server: whatever comes, it ends every connection, throws nothing,
 * gives everything back and still serves the next client.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import * as fc from 'fast-check'

import { NBD_CMD, NBD_OPT } from '../../src/nbd/index.ts'
import { pattern, TestExport } from './exports.ts'
import { TestServer } from './harness.ts'
import { CLIENT_FLAGS, infoData, option, request, simpleReply } from './wire.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 500

const options = fc.oneof(
  fc.constantFrom(3, 5, 8, 9, 10, 11, 77).map((number) => option(number)),
  fc
    .tuple(fc.integer({ min: 0, max: 12 }), fc.uint8Array({ maxLength: 40 }))
    .map(([number, data]) => option(number, Buffer.from(data))),
  fc
    .constantFrom('x', '', 'nope', 'crash')
    .map((name) => option(NBD_OPT.INFO, infoData(name, [1, 3]))),
)
const opening = fc.constantFrom(
  option(NBD_OPT.GO, infoData('x', [3])),
  option(NBD_OPT.EXPORT_NAME, Buffer.from('x')),
)
const requests = fc
  .record({
    type: fc.constantFrom(0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    flags: fc.constantFrom(0, 0, 0, 4, 0x20),
    offset: fc.nat(70_000),
    length: fc.oneof(fc.nat(5000), fc.nat(70_000)),
  })
  .map((fields) => {
    const payload =
      fields.type === NBD_CMD.WRITE ? Buffer.alloc(fields.length, 0x25) : Buffer.alloc(0)
    return Buffer.concat([request(fields), payload])
  })
const streams = fc
  .tuple(fc.array(options, { maxLength: 5 }), opening, fc.array(requests, { maxLength: 12 }))
  .map(([before, open, after]) => Buffer.concat([CLIENT_FLAGS, ...before, open, ...after]))
const mutations = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 })
const cuts = fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 5 })

test('mutated streams', async () => {
  const target = new TestExport(pattern(66_000))
  const server = new TestServer(target, { limits: { lingerMs: 20 } })
  let connections = 0
  await fc.assert(
    fc.asyncProperty(
      streams,
      mutations,
      cuts,
      fc.boolean(),
      async (bytes, changes, steps, fast) => {
        target.fast = fast
        const changed = Buffer.from(bytes)
        for (const [at, value] of changes) changed[at % changed.length] = value
        const client = server.pair()
        connections++
        for (let at = 0, i = 0; at < changed.length; i++) {
          const step = steps[i % steps.length] ?? 1
          if (!client.stream.destroyed) client.stream.write(changed.subarray(at, at + step))
          at += step
        }
        client.stream.end()
        await client.gone()
        client.stream.destroy()
        await server.ended(connections)
        assert.deepEqual([target.released, target.doubleReleases], [target.sent, 0])
        assert.equal(target.closed, target.opened)
        assert.equal(server.counter('in_flight'), 0)
        assert.equal(server.counter('in_flight_bytes'), 0)
      },
    ),
    { seed: 23, numRuns: RUNS },
  )
  // What the provider was made to throw on purpose is all that was reported.
  for (const error of server.errors)
    assert.ok(error instanceof TypeError && error.message === 'a bug')
  assert.ok(server.counter('requests.READ') > RUNS / 4, 'most streams reach their requests')
  const client = server.pair()
  await client.go()
  client.send(request({ cookie: 1n, length: 3 }))
  await client.expect(simpleReply(1n, 0, target.bytes.subarray(0, 3)))
  await server[Symbol.asyncDispose]()
})
