/**
 * Handshakes that are begun and not ended: silent, stopped half way, or dripping a byte at a time. While all of
 * them are open a good client is served, and new ones get in; at the deadline, which is counted from the beginning
 * of each, they are dropped, and nothing else is.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { test } from 'node:test'

import { NBD_OPT } from '../../src/nbd/index.ts'
import { evidence } from '../evidence.ts'
import type { TestServer } from './harness.ts'
import { start, turns } from './harness.ts'
import type { WireClient } from './wire.ts'
import { CLIENT_FLAGS, infoData, option, request, simpleReply } from './wire.ts'

const HALF_OPEN = 1000
/** Later than any test ends: of these handshakes none is dropped. */
const NEVER_MS = 3_600_000
const HANDSHAKE_MS = 1500
const SERVED_MEANWHILE = 100
/** A session that would be valid, if it came to an end. */
const SESSION = Buffer.concat([CLIENT_FLAGS, option(NBD_OPT.GO, infoData('x'.repeat(4000)))])

/** A third says nothing, a third stops somewhere, a third is left to drip. @returns the last third */
async function openHalf({ port }: TestServer): Promise<Socket[]> {
  const sockets = Array.from({ length: HALF_OPEN }, () =>
    connect({ host: '127.0.0.1', port }).on('error', () => {}),
  )
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  sockets.forEach((socket, i) => {
    if (i % 3 === 1) socket.write(SESSION.subarray(0, 1 + (i % 60)))
  })
  return sockets.filter((_, i) => i % 3 === 2)
}

/** The next byte of the session on each connection that is still there. */
function drip(sockets: readonly Socket[], at: number): void {
  const byte = SESSION.subarray(at, at + 1)
  for (const socket of sockets) if (!socket.destroyed && byte.length > 0) socket.write(byte)
}

async function readOnce(client: WireClient, bytes: Buffer, n: number): Promise<void> {
  const offset = n % 90_000
  client.send(request({ cookie: BigInt(n), offset, length: 4096 }))
  await client.expect(simpleReply(BigInt(n), 0, bytes.subarray(offset, offset + 4096)))
}

test(`${HALF_OPEN} half-open handshakes, none of which ends: old and new clients are served to their end`, async () => {
  await using opened = await start(100_000, { handshakeMs: NEVER_MS })
  const { server, target } = opened
  const { client: old } = await server.connect()
  await old.go()
  const dripping = await openHalf(server)
  const { client } = await server.connect()
  await client.go()
  for (let n = 0; n < SERVED_MEANWHILE; n++) {
    drip(dripping, n)
    await readOnce(old, target.bytes, n)
    await readOnce(client, target.bytes, n)
  }
  for (const one of [old, client]) {
    one.send(request({ type: 2 }))
    one.stream.end()
  }
  await server.ended(2)
  assert.deepEqual(server.outcomes, ['disconnected', 'disconnected'])
  assert.equal(server.server.connections, HALF_OPEN, 'all others are open still')
})

test(`${HALF_OPEN} half-open handshakes are dropped at the deadline, and no client with them`, async () => {
  await using opened = await start(100_000, { handshakeMs: HANDSHAKE_MS })
  const { server, target } = opened
  const { client } = await server.connect()
  await client.go()
  const started = performance.now()
  const dripping = await openHalf(server)
  let dripped = 0
  while (server.outcomes.length < HALF_OPEN) {
    drip(dripping, dripped++)
    await readOnce(client, target.bytes, dripped)
    await turns(1)
  }
  const droppedAfterMs = performance.now() - started
  assert.deepEqual(new Set(server.outcomes), new Set(['handshake_timeout']))
  const failures = ['flags', 'option'].map((stage) => server.counter(`handshake_failures.${stage}`))
  assert.equal((failures[0] ?? 0) + (failures[1] ?? 0), HALF_OPEN)
  assert.ok(failures.every((count) => count > 0))
  assert.deepEqual([server.server.connections, target.opened], [1, 1])
  const figures = { handshakes: HALF_OPEN, served: dripped }
  evidence('nbd-half-open', { ...figures, dropped_after_ms: droppedAfterMs.toFixed(0) })
})
