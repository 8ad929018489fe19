/**
 * Seeded fuzzing of a whole server with streams of bytes over HTTP and over the live feed, from many
 * connections at once that end in every way. Streams that begin with a range of data get it; afterwards, and in
 * between, a good client gets the right bytes, the server holds nothing, has logged no fault of its own, and has
 * answered nothing with one. A failing connection's seed is printed; `COMMONPAGE_SEED=N` starts with it.
 */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { test } from 'node:test'

import { evidence } from '../evidence.ts'
import { AnswerScan } from './http-support/answer-scan.ts'
import { fuzzStream } from './http-support/byte-streams.ts'
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
/** A range of data is answered in milliseconds; later, the server hangs. */
const ANSWER_DEADLINE_MS = 20_000
/** Growth between the first round and the last: heaps breathe, leaks add up. */
const MAX_GROWTH_BYTES = 100 << 20

/** What a client may be answered with when the server is well. */
const STATUSES = new Set([
  100, 101, 200, 201, 202, 204, 206, 304, 400, 403, 404, 405, 408, 409, 411, 412, 413, 414, 415,
  416, 417, 421, 422, 426, 501, 503, 505, 507,
])

/** Of a hundred connections: enough of them have to be served, or only the first check of requests is fuzzed. */
const MIN_206_IN_100 = 15
const MIN_OTHER_2XX_IN_100 = 3

class Tally {
  readonly statuses = new Map<string, number>()
  /** Ranges of data that were asked for with nothing wrong, and were answered. */
  openings = 0

  add(scan: AnswerScan, seed: number): void {
    for (const status of scan.statuses) {
      assert.ok(STATUSES.has(Number(status)), `status ${status} to seed ${seed}`)
      this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1)
    }
    assert.ok(!scan.hasFault, `ERR_INTERNAL to seed ${seed}`)
  }

  count(isMeant: (status: string) => boolean): number {
    return [...this.statuses].reduce((sum, [status, n]) => sum + (isMeant(status) ? n : 0), 0)
  }
}

test(`${ROUND * ROUNDS} fuzzed connections leave the server as it was`, async () => {
  assert.ok(Number.isSafeInteger(FIRST_SEED), 'COMMONPAGE_SEED is a whole number')
  await using target = await startHttpTarget(WORKERS)
  const tally = new Tally()
  let first = 0
  let seed = FIRST_SEED
  for (let round = 0; round < ROUNDS; round++) {
    const end = seed + ROUND
    // The round before may have removed it.
    await post(`${target.server.http}${target.image}?wait=true`, target.imageBytes)
    await Promise.all(
      Array.from({ length: CONNECTIONS }, async () => {
        while (seed < end) await fuzz(target, seed++, tally)
      }),
    )
    await target.serves()
    await target.settled()
    if (round === 0) first = residentBytes(target.server.pid)
  }
  const last = residentBytes(target.server.pid)
  const answered = [...tally.statuses].toSorted(([a], [b]) => (a < b ? -1 : 1))
  evidence('http-fuzz', {
    seeds: `${FIRST_SEED}-${seed - 1}`,
    openings: tally.openings,
    growthMiB: Math.round((last - first) / 2 ** 20),
    ...Object.fromEntries(answered),
  })
  assert.ok(last - first < MAX_GROWTH_BYTES, `from ${first} to ${last} bytes resident`)
  const hundreds = (ROUND * ROUNDS) / 100
  const ranges = tally.count((status) => status === '206')
  assert.ok(ranges >= MIN_206_IN_100 * hundreds, `${ranges} answers with 206`)
  const others = tally.count((status) => status.startsWith('2') && status !== '206')
  assert.ok(others >= MIN_OTHER_2XX_IN_100 * hundreds, `${others} other answers with 2xx`)
})

/** One connection: some bytes in pieces, then one of the ways to end. */
async function fuzz(target: HttpTarget, seed: number, tally: Tally): Promise<void> {
  const chance = new Random(spreadSeed(seed))
  const { opening, rest } = fuzzStream(chance, target)
  const socket = connect(target.port, '127.0.0.1')
  socket.on('error', () => undefined) // 'close' follows
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  const scan = new AnswerScan()
  const answered = Promise.withResolvers<void>()
  socket.on('data', (chunk: Buffer) => {
    scan.push(chunk)
    if (scan.statuses.length > 0) answered.resolve()
  })
  if (opening.length > 0) {
    const late = setTimeout(() => socket.destroy(), ANSWER_DEADLINE_MS)
    socket.write(opening)
    await Promise.race([answered.promise, closed])
    clearTimeout(late)
    if (scan.statuses[0] !== '206') socket.destroy()
    assert.equal(scan.statuses[0], '206', `a range of data, seed ${seed}`)
    tally.openings++
  }
  if (chance.once(6)) socket.pause()
  await send(socket, rest, chance)
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
  tally.add(scan, seed)
}

async function send(socket: Socket, bytes: Buffer, chance: Random): Promise<void> {
  for (let at = 0; at < bytes.length && !socket.destroyed;) {
    const to = chance.once(3) ? at + 1 + chance.next(200) : bytes.length
    socket.write(bytes.subarray(at, to))
    at = to
    if (chance.once(4)) await new Promise((resolve) => setImmediate(resolve))
  }
}
