/**
 * Seeded fuzzing of a whole server with streams of bytes over HTTP and over the live feed, from many
 * connections at once that end in every way. Afterwards, and in between, a good client gets the right bytes,
 * the server holds nothing, has logged no fault of its own, and has answered nothing with one.
 * A failing connection's seed is printed; `COMMONPAGE_SEED=N` starts with it.
 */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'

import { evidence } from '../evidence.ts'
import { feedStream, requestStream } from './http-support/byte-streams.ts'
import { Random, spreadSeed } from '../random.ts'
import { residentBytes } from '../resident-memory.ts'
import type { HttpTarget } from './http-support/target.ts'
import { post, startHttpTarget } from './http-support/target.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const FIRST_SEED = Number(process.env['COMMONPAGE_SEED'] ?? 1)
const WORKERS = 2
/** At once. */
const CONNECTIONS = 32
/** The server is looked at after this many. */
const ROUND = FULL ? 1_000 : 160
const ROUNDS = FULL ? 16 : 2
/** A connection that the server neither ends nor answers any more is left after this long. */
const PATIENCE_MS = 150
/** Growth between the first round and the last: heaps breathe, leaks add up. */
const MAX_GROWTH_BYTES = 100 << 20

/** What a client may be answered with when the server is well. */
const STATUSES = new Set([
  100, 101, 200, 201, 202, 204, 206, 304, 400, 403, 404, 405, 408, 409, 411, 412, 413, 414, 415,
  416, 417, 421, 422, 426, 501, 503, 505, 507,
])

test(`${ROUND * ROUNDS} fuzzed connections leave the server as it was`, async () => {
  await using target = await startHttpTarget(WORKERS)
  const counts = new Map<string, number>()
  let first = 0
  let seed = FIRST_SEED
  for (let round = 0; round < ROUNDS; round++) {
    const end = seed + ROUND
    // The round before may have removed it.
    await post(`${target.server.http}${target.image}?wait=true`, target.imageBytes)
    await Promise.all(
      Array.from({ length: CONNECTIONS }, async () => {
        while (seed < end) await fuzz(target, seed++, counts)
      }),
    )
    await target.serves()
    await target.settled()
    if (round === 0) first = residentBytes(target.server.pid)
  }
  const last = residentBytes(target.server.pid)
  assert.ok(last - first < MAX_GROWTH_BYTES, `from ${first} to ${last} bytes resident`)
  const answered = [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1))
  evidence('http-fuzz', {
    seeds: `${FIRST_SEED}-${seed - 1}`,
    growthMiB: Math.round((last - first) / 2 ** 20),
    ...Object.fromEntries(answered),
  })
})

/** One connection: some bytes in pieces, then one of the ways to end. */
async function fuzz(target: HttpTarget, seed: number, counts: Map<string, number>): Promise<void> {
  const chance = new Random(spreadSeed(seed))
  const bytes = chance.once(6) ? feedStream(chance) : requestStream(chance, target)
  const socket = connect(target.port, '127.0.0.1')
  socket.on('error', () => undefined) // 'close' follows
  const closed = new Promise((resolve) => socket.once('close', resolve))
  let received = ''
  socket.on(
    'data',
    (chunk: Buffer) => (received = (received + chunk.toString('latin1')).slice(-200_000)),
  )
  const reads = !chance.once(6)
  if (!reads) socket.pause()
  for (let at = 0; at < bytes.length && !socket.destroyed;) {
    const to = chance.once(3) ? at + 1 + chance.next(200) : bytes.length
    socket.write(bytes.subarray(at, to))
    at = to
    if (chance.once(4)) await new Promise((resolve) => setImmediate(resolve))
  }
  const timer = setTimeout(() => socket.destroy(), PATIENCE_MS)
  switch (chance.next(8)) {
    case 0:
      socket.resetAndDestroy()
      break
    case 1:
      socket.end()
      break
    case 2:
      socket.once('data', () => socket.destroy())
      break
    default:
  }
  await closed
  clearTimeout(timer)
  for (const [, status = ''] of received.matchAll(/HTTP\/1\.1 (\d{3}) [A-Z]/g)) {
    assert.ok(STATUSES.has(Number(status)), `status ${status} to seed ${seed}`)
    counts.set(status, (counts.get(status) ?? 0) + 1)
  }
  assert.ok(!received.includes('ERR_INTERNAL'), `ERR_INTERNAL to seed ${seed}`)
}
