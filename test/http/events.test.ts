/** The live feed: what is sent, to whom, and that a slow client queues nothing. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, describe, test } from 'node:test'

import fc from 'fast-check'
import { pino } from 'pino'

import { HttpCounters } from '../../src/server/http/counters.ts'
import { EventHub } from '../../src/server/http/event-hub.ts'
import type { EventSocket } from '../../src/server/http/event-hub.ts'
import { HTTP_COUNTER_COLUMNS, readHttpCounters } from '../../src/server/http/index.ts'
import { MAX_EVENT_CLIENTS } from '../../src/server/http/limits.ts'
import type { LiveState } from '../../src/server/http/live-state.ts'
import { mergePatch } from '../../src/server/http/live-state.ts'
import { RawClient } from './raw-client.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())

/** RFC 7396 §2, as the page applies it. */
function applyPatch(target: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch
  const result: Record<string, unknown> =
    typeof target === 'object' && target !== null ? { ...target } : {}
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else result[key] = applyPatch(result[key], value)
  }
  return result
}

/** With keys in order, so that equal states have equal text. */
function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  return Object.entries(value)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, item]) => [key, sorted(item)])
}

describe('merge patches', () => {
  test('turn any state into any other', () => {
    const leaf = fc.oneof(fc.integer(), fc.string(), fc.boolean())
    const key = fc.constantFrom('a', 'b', 'c', 'd')
    const table = fc.dictionary(
      key,
      fc.oneof(leaf, fc.dictionary(key, fc.oneof(leaf, fc.dictionary(key, leaf)))),
    )
    fc.assert(
      fc.property(table, table, (before, next) => {
        const patch = mergePatch(before, next)
        assert.equal(
          JSON.stringify(sorted(applyPatch(before, patch ?? {}))),
          JSON.stringify(sorted(next)),
        )
        assert.equal(mergePatch(next, next), undefined)
      }),
      { numRuns: 1000, seed: 5 },
    )
  })
})

class FakeSocket implements EventSocket {
  bufferedAmount = 0
  readonly messages: { type: string; seq?: number }[] = []
  readonly #heard: (() => void)[] = []
  ended = false

  send(text: string): void {
    this.messages.push(JSON.parse(text))
    for (const wake of this.#heard.splice(0)) wake()
  }

  ping(): void {
    this.ended = false
  }

  close(): void {
    this.ended = true
  }

  terminate(): void {
    this.ended = true
  }

  async count(messages: number): Promise<void> {
    while (this.messages.length < messages)
      await new Promise<void>((wake) => this.#heard.push(wake))
  }
}

test('a slow client gets a snapshot after the gap instead of a queue', async () => {
  const row = new Float64Array(HTTP_COUNTER_COLUMNS)
  let served = 0
  const snapshot = () => Promise.resolve({ servedBytes: served++ } as unknown as LiveState)
  const hub = new EventHub({
    feed: { snapshot },
    counters: new HttpCounters(row),
    version: '0',
    logger: pino({ level: 'silent' }),
    intervalMs: 2,
  })
  const [fast, slow] = [new FakeSocket(), new FakeSocket()]
  hub.add(fast)
  hub.add(slow)
  await slow.count(3)
  slow.bufferedAmount = 1 << 30
  const stalledAt = slow.messages.length
  await fast.count(fast.messages.length + 20)
  assert.equal(slow.messages.length, stalledAt)
  slow.bufferedAmount = 0
  await slow.count(stalledAt + 2)
  assert.deepEqual(
    slow.messages.slice(stalledAt, stalledAt + 2).map((message) => message.type),
    ['snapshot', 'delta'],
  )
  assert.deepEqual(
    fast.messages.slice(0, 3).map((message) => message.type),
    ['hello', 'snapshot', 'delta'],
  )
  const numbers = fast.messages.slice(1).map((message) => message.seq ?? 0)
  assert.ok(numbers.every((seq, i) => i === 0 || seq === (numbers[i - 1] ?? 0) + 1))
  assert.ok(readHttpCounters(row).eventDropped >= 19)
  hub.resync(fast)
  const asked = fast.messages.length
  await fast.count(asked + 1)
  assert.equal(fast.messages[asked]?.type, 'snapshot')
  hub.close()
  assert.ok(fast.ended && slow.ended)
  assert.equal(readHttpCounters(row).eventClients, 0)
})

describe('/v1/events', () => {
  const feed = `${server.url.replace('http', 'ws')}/v1/events`

  test('says hello, sends a snapshot, then changes', async () => {
    const socket = new WebSocket(feed)
    const messages: Record<string, unknown>[] = []
    socket.addEventListener('message', (event) => {
      messages.push(JSON.parse(String(event.data)))
      server.planes.control.served += 10
    })
    while (messages.length < 3) await once(socket, 'message')
    assert.deepEqual(
      messages.map((message) => message['type']),
      ['hello', 'snapshot', 'delta'],
    )
    const state = messages[1]?.['state'] as LiveState
    assert.ok(Object.keys(state.images).includes('demo/team/app:1'))
    const patch = messages[2]?.['patch'] as Partial<LiveState>
    assert.deepEqual(Object.keys(patch), ['servedBytes'])
    socket.close()
    await once(socket, 'close')
  })

  test('is bounded, and closed to other sites', async () => {
    const status = async (headers: Record<string, string> = {}) => {
      const client = await RawClient.open(server.port)
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
      client.send(
        `GET /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n${lines.join('')}\r\n`,
      )
      return { client, status: (await client.next())?.status }
    }
    const foreign = await status({ origin: 'https://evil.example' })
    assert.equal(foreign.status, 403)
    const open = [foreign]
    await until(() => readHttpCounters(server.counters).eventClients === 0)
    for (let i = 0; i < MAX_EVENT_CLIENTS; i++)
      open.push(await status({ origin: 'http://127.0.0.1' }))
    assert.ok(open.slice(1).every((row) => row.status === 101))
    const extra = await status()
    assert.equal(extra.status, 503)
    for (const { client } of [...open, extra]) await client[Symbol.asyncDispose]()
  })
})
