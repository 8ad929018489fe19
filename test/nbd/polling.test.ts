/** The decision to poll, on a clock of its own. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Poller } from '../../src/nbd/polling.ts'

/** A clock in milliseconds; each turn of the loop costs `turnMs`. */
class Clock {
  time = 0
  turnMs = 0.005
  spent = 0
  #next: (() => void) | undefined

  readonly poller: Poller

  constructor(options = {}) {
    this.poller = new Poller(options, (seconds) => (this.spent += seconds), {
      now: () => this.time,
      nextTurn: (callback) => (this.#next = callback),
    })
  }

  /** Runs the loop for `ms`, then serves a request that takes `serveMs`. */
  request(ms: number, serveMs = 0.005): void {
    this.run(ms)
    const received = this.time
    this.time += serveMs
    this.poller.served(received)
  }

  /** A request whose page comes from the disk `fillMs` later; `behind` ms after the last reply. */
  miss(behind: number, fillMs: number): void {
    this.run(behind)
    const received = this.time
    this.time += 0.005
    this.poller.waiting(received)
    this.run(fillMs)
    this.poller.answered(false)
  }

  run(ms: number): void {
    const end = this.time + ms
    while (this.#next !== undefined && this.time + this.turnMs <= end) {
      const next = this.#next
      this.#next = undefined
      this.time += this.turnMs
      next()
    }
    this.time = Math.max(this.time, end)
  }
}

test('requests that follow each other quickly start it, silence ends it within the window', () => {
  const clock = new Clock({ maxShare: 1 })
  for (let i = 0; i < 40; i++) clock.request(0.03)
  assert.ok(clock.poller.polling)
  const before = clock.spent
  clock.run(10)
  assert.equal(clock.poller.polling, false)
  assert.ok((clock.spent - before) * 1000 <= 0.11, `${clock.spent - before} s`)
})

test('requests that come too late never start it', () => {
  const clock = new Clock()
  for (let i = 0; i < 500; i++) clock.request(0.5)
  assert.equal(clock.spent, 0)
})

test('it gives up when requests become rare', () => {
  const clock = new Clock()
  for (let i = 0; i < 40; i++) clock.request(0.03)
  for (let i = 0; i < 40; i++) clock.request(2)
  assert.equal(clock.poller.polling, false)
  const before = clock.spent
  for (let i = 0; i < 100; i++) clock.request(2)
  assert.equal(clock.spent, before)
})

test('its share of the time is bounded', () => {
  for (const maxShare of [0.1, 0.5]) {
    const clock = new Clock({ maxShare })
    while (clock.time < 5000) clock.request(0.05, 0.001)
    const share = (clock.spent * 1000) / clock.time
    assert.ok(share <= maxShare * 1.05 && share > maxShare * 0.5, `${share} of ${maxShare}`)
  }
})

test('time spent serving is not counted as polling', () => {
  const clock = new Clock({ maxShare: 1 })
  for (let i = 0; i < 1000; i++) clock.request(0.02, 0.4)
  assert.ok(clock.spent * 1000 <= 1000 * 0.021, `${clock.spent} s`)
})

test('requests that take long to serve do not start it', () => {
  const clock = new Clock()
  for (let i = 0; i < 1000; i++) clock.request(0.02, 2)
  assert.ok(clock.spent * 1000 < 1, `${clock.spent} s`)
})

test('it stays away while the thread keeps losing its processor, and comes back', () => {
  const clock = new Clock()
  for (let i = 0; i < 40; i++) clock.request(0.03)
  assert.ok(clock.poller.polling)
  clock.turnMs = 4
  let turns = 0
  const start = clock.time
  while (clock.time < start + 3000) {
    const before = clock.spent
    clock.request(clock.poller.polling ? 4 : 0.06)
    if (clock.spent > before) turns++
  }
  assert.ok(turns < 15, `${turns} stalled turns in 3 s`)
  clock.turnMs = 0.005
  while (clock.time < start + 5000) clock.request(0.03)
  assert.ok(clock.poller.polling)
})

test('it stays awake while a page comes from the disk, and behind the reply', () => {
  const clock = new Clock({ maxShare: 1 })
  for (let i = 0; i < 40; i++) clock.miss(0.03, 0.15)
  clock.run(0.03)
  const received = clock.time
  clock.poller.waiting(received)
  clock.run(0.2)
  assert.ok(clock.poller.polling)
  clock.run(5)
  assert.equal(clock.poller.polling, false)
})

test('pages that take long are not waited for awake', () => {
  const clock = new Clock()
  for (let i = 0; i < 40; i++) clock.miss(0.03, 8)
  const before = clock.spent
  for (let i = 0; i < 100; i++) clock.miss(0.03, 8)
  // What is left is the window behind each reply.
  assert.ok((clock.spent - before) * 1000 < 100 * 0.11, `${clock.spent - before} s`)
})

test('a lost processor now and then costs a pause of 20 ms, not all polling', () => {
  const clock = new Clock()
  for (let i = 0; i < 40; i++) clock.request(0.03)
  let polled = 0
  for (let i = 0; i < 30_000; i++) {
    clock.turnMs = i % 3000 === 0 ? 2 : 0.005
    clock.request(clock.turnMs + 0.03)
    if (clock.poller.polling) polled++
  }
  assert.ok(polled > 20_000, `${polled} of 30,000 requests`)
})

test('requests that take long to serve do not keep it away for long', () => {
  const clock = new Clock()
  for (let i = 0; i < 1000; i++) clock.request(0.02, 2)
  const start = clock.time
  while (clock.time < start + 50) clock.request(0.03)
  assert.ok(clock.poller.polling)
})
