/** How much one connection gets done in a turn of the event loop, and that nothing is lost between two turns. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { NBD_CMD } from '../../src/nbd/index.ts'
import { EagerSession } from './eager-session.ts'
import { pattern, TestExport } from './exports.ts'
import { TestServer, turns } from './harness.ts'
import { numbered, request, simpleReply } from './wire.ts'

const KIB = 1024
const MIB = 1024 * KIB
const TURN_REQUESTS = 128
const TURN_BYTES = 4 * MIB

describe('one receive', () => {
  for (const [what, depth, length] of [
    ['32 reads of 4 KiB', 32, 4 * KIB],
    ['8 reads of 128 KiB', 8, 128 * KIB],
    ['4 reads of 1 MiB', 4, MIB],
    ['a full queue of the Linux client', 128, 16 * KIB],
  ] as const) {
    for (const fast of [false, true]) {
      test(`${what}: one turn (readInto ${fast})`, () => {
        const target = new TestExport(pattern(2 * MIB))
        target.fast = fast
        const eager = new EagerSession(target)
        for (let receive = 1; receive <= 3; receive++) {
          const fastReads = eager.session.receive(numbered(depth, length), 0)
          assert.equal(fastReads, fast && length <= 16 * KIB ? depth : 0)
          assert.equal(eager.answered, receive * depth)
        }
        assert.equal(eager.spent, 0)
      })
    }
  }

  test('more requests: 128 in a turn, each answered once', () => {
    const target = new TestExport(pattern(8 * KIB))
    target.fast = true
    const eager = new EagerSession(target)
    assert.equal(eager.session.receive(numbered(2340, 4 * KIB), 0), 0, 'not answered whole')
    for (let turn = 1; turn * TURN_REQUESTS < 2340; turn++) {
      assert.equal(eager.answered, turn * TURN_REQUESTS)
      assert.ok(eager.session.blocked && eager.spent >= turn)
      eager.session.pump()
      assert.equal(eager.answered, turn * TURN_REQUESTS, 'a pump is no new turn')
      eager.session.nextTurn()
    }
    assert.equal(eager.answered, 2340)
    assert.ok(!eager.session.blocked)
  })

  test('larger reads: 4 MiB in a turn', () => {
    const target = new TestExport(pattern(2 * MIB))
    const eager = new EagerSession(target)
    eager.session.receive(numbered(64, MIB), 0)
    for (let turn = 1; turn <= 16; turn++) {
      assert.equal(eager.answered, turn * 4)
      eager.session.nextTurn()
    }
    assert.equal(eager.answered, 64)
  })
})

for (const length of [1, 16 * KIB, 512 * KIB]) {
  test(`a deep client does not keep the loop: reads of ${length} bytes`, async () => {
    const target = new TestExport(pattern(MIB))
    await using server = await new TestServer(target).listen()
    const { client } = await server.connect()
    await client.go()
    const count = Math.min(2000, (256 * MIB) / length)
    client.send(numbered(count, length))
    let [before, most] = [0, 0]
    while (target.sent < count) {
      await turns(1)
      most = Math.max(most, target.sent - before)
      before = target.sent
    }
    // Between two of our turns lie at most two of the connection's: one of a receive, one that goes on.
    const bound = 2 * Math.min(TURN_REQUESTS, TURN_BYTES / length)
    assert.ok(most <= bound, `${most} reads in a turn, expected ${bound} at most`)
    for (let i = 0; i < count; i++) {
      const reply = await client.simple(length)
      assert.deepEqual([reply.cookie, reply.error], [BigInt(i), 0])
    }
  })
}

for (const ending of ['its FIN', 'DISC']) {
  test(`requests left for the next turn are answered when the client ends with ${ending}`, async () => {
    const target = new TestExport(pattern(4 * KIB))
    await using server = await new TestServer(target).listen()
    const { client } = await server.connect()
    await client.go()
    client.send(numbered(1000))
    if (ending === 'DISC') client.send(request({ type: NBD_CMD.DISC }), numbered(5))
    client.stream.end()
    for (let i = 0; i < 1000; i++) {
      await client.expect(simpleReply(BigInt(i), 0, target.bytes.subarray(i, i + 1)))
    }
    assert.equal((await client.readToEnd()).length, 0)
    await server.ended(1)
    assert.deepEqual(server.outcomes, [ending === 'DISC' ? 'disconnected' : 'closed'])
  })
}
