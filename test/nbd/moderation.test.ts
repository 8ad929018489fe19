/** The decision to rest, against a simulated client that sends its reads one by one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Moderator } from '../../src/nbd/moderation.ts'

/** What the kernel adds to a sleep. */
const SLACK_MS = 0.05
/** A client needs this long for a reply and its next read. */
const CLIENT_MS = 0.0085
/** The server needs this long for a receive, and for each read in it. */
const RECEIVE_MS = 0.01
const READ_MS = 0.002

/** A client that keeps `depth` reads in flight, and the server's thread, on one clock. */
class Bench {
  now = 0
  rests: number[] = []
  receives = 0
  reads = 0
  readonly moderator = new Moderator({
    sleep: (ms) => {
      this.rests.push(ms)
      this.now += ms + SLACK_MS
    },
  })
  readonly #depth: number
  /** When each read that is on its way will have arrived. */
  #arrivals: number[] = []
  #clientFree = 0

  constructor(depth: number) {
    this.#depth = depth
    this.#send(depth)
  }

  run(ms: number, connection = 1): void {
    for (const end = this.now + ms; this.now < end;) {
      this.now = Math.max(this.now, this.#arrivals[0] ?? Infinity)
      const arrived = this.#arrivals.filter((at) => at <= this.now).length
      this.#arrivals = this.#arrivals.slice(arrived)
      this.now += RECEIVE_MS + arrived * READ_MS
      this.receives++
      this.reads += arrived
      this.#send(arrived)
      this.moderator.served(connection, arrived, this.now)
    }
  }

  #send(count: number): void {
    assert.ok(this.#arrivals.length + count <= this.#depth)
    for (let i = 0; i < count; i++) {
      this.#clientFree = Math.max(this.#clientFree, this.now) + CLIENT_MS
      this.#arrivals.push(this.#clientFree)
    }
  }
}

test('a deep client is served in batches, and loses nothing by it', () => {
  const bench = new Bench(32)
  bench.run(1000)
  assert.ok(bench.reads / bench.receives > 4, `${bench.reads / bench.receives} reads a receive`)
  // The client is the bottleneck here: resting may cost it hardly anything.
  assert.ok(bench.reads > (0.97 * 1000) / CLIENT_MS, `${bench.reads} reads`)
})

test('a client with few reads in flight is probed, and never made to wait otherwise', () => {
  for (const depth of [2, 8, 16]) {
    const bench = new Bench(depth)
    bench.run(1000)
    const [probe = 0] = bench.rests
    assert.ok(bench.rests.length <= 10, `${bench.rests.length} rests at depth ${depth}`)
    assert.ok(bench.rests.every((ms) => ms === probe))
  }
})

test('dependent reads are never made to wait', () => {
  const bench = new Bench(1)
  bench.run(1000)
  assert.deepEqual(bench.rests, [])
})

test('several connections that take turns are not moderated', () => {
  const bench = new Bench(32)
  for (let i = 0; i < 5000; i++) bench.run(0.1, 1 + (i % 2))
  assert.deepEqual(bench.rests, [])
})

test('requests of another kind end it', () => {
  const bench = new Bench(32)
  bench.run(250)
  assert.ok(bench.rests.length > 100)
  for (let i = 0; i < 40; i++) bench.moderator.interrupted()
  bench.rests = []
  bench.run(5)
  assert.deepEqual(bench.rests, [])
})

test('a client that runs dry while the server rests is left alone until the next probe', () => {
  const rests: number[] = []
  let now = 0
  const moderator = new Moderator({ sleep: (ms) => void rests.push(ms) })
  const serve = (reads: number): void => moderator.served(1, reads, (now += 0.05))
  // A probe finds depth 32 …
  for (let i = 0; i < 10_000 && rests.length === 0; i++) serve(2)
  serve(13)
  serve(19)
  for (let i = 0; i < 10; i++) serve(2)
  const resting = rests.length
  assert.ok(resting > 5)
  // … but then every rest finds all of it, which means that the client had nothing left to do.
  for (let i = 0; i < 100; i++) {
    serve(2)
    serve(32)
  }
  assert.ok(rests.length - resting <= 25, `${rests.length - resting} rests`)
})
