/**
 * Handshakes that are begun and not ended: silent, stopped half way, or dripping a byte at a time. They are
 * dropped at the deadline, counted from their beginning, and a good client is served meanwhile.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { test } from 'node:test'

import { NBD_OPT } from '../../src/nbd/index.ts'
import { evidence } from '../evidence.ts'
import { start, turns } from './harness.ts'
import { CLIENT_FLAGS, infoData, option, request, simpleReply } from './wire.ts'

const HALF_OPEN = 1000
const HANDSHAKE_MS = 1500
/** A session that would be valid, if it came to an end. */
const SESSION = Buffer.concat([CLIENT_FLAGS, option(NBD_OPT.GO, infoData('x'.repeat(4000)))])

test(`${HALF_OPEN} half-open handshakes: a good client is served, all others are dropped at the deadline`, async () => {
  await using opened = await start(100_000, { handshakeMs: HANDSHAKE_MS })
  const { server, target } = opened
  const started = performance.now()
  const sockets = Array.from({ length: HALF_OPEN }, () =>
    connect({ host: '127.0.0.1', port: server.port }).on('error', () => {}),
  )
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  // A third says nothing, a third stops somewhere, a third sends a byte whenever there is time.
  sockets.forEach((socket, i) => {
    if (i % 3 === 1) socket.write(SESSION.subarray(0, 1 + (i % 60)))
  })
  const dripping = sockets.filter((_, i) => i % 3 === 2)
  const { client } = await server.connect()
  await client.go()
  let [served, slowestMs, dripped] = [0, 0, 0]
  while (server.outcomes.length < HALF_OPEN) {
    drip(dripping, dripped++)
    const asked = performance.now()
    const offset = served++ % 90_000
    client.send(request({ cookie: BigInt(served), offset, length: 4096 }))
    await client.expect(
      simpleReply(BigInt(served), 0, target.bytes.subarray(offset, offset + 4096)),
    )
    slowestMs = Math.max(slowestMs, performance.now() - asked)
    await turns(1)
  }
  const lastMs = performance.now() - started
  assert.deepEqual(new Set(server.outcomes), new Set(['handshake_timeout']))
  const failures = ['flags', 'option'].map((stage) => server.counter(`handshake_failures.${stage}`))
  assert.equal((failures[0] ?? 0) + (failures[1] ?? 0), HALF_OPEN)
  assert.ok(failures.every((count) => count > 0))
  assert.deepEqual([server.server.connections, target.opened], [1, 1])
  assert.ok(dripped > 4 && lastMs >= HANDSHAKE_MS)
  assert.ok(slowestMs < HANDSHAKE_MS, `a read took ${slowestMs} ms`)
  const figures = { handshakes: HALF_OPEN, served, slowest_read_ms: slowestMs.toFixed(1) }
  evidence('nbd-half-open', { ...figures, dropped_after_ms: lastMs.toFixed(0) })
})

/** The next byte of the session on each connection that is still there. */
function drip(sockets: readonly Socket[], at: number): void {
  const byte = SESSION.subarray(at, at + 1)
  for (const socket of sockets) if (!socket.destroyed && byte.length > 0) socket.write(byte)
}
