/** The two clocks of a negotiation, by hand and behind a server whose provider is slow, or hangs. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { HandshakeClock } from '../../src/nbd/clock.ts'
import type { ExportProvider, NbdLimits } from '../../src/nbd/index.ts'
import { NBD_OPT, NBD_REP } from '../../src/nbd/index.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { TestServer } from './harness.ts'
import { infoData, numbered, option, simpleReply } from './wire.ts'

const TIMEOUT = { code: 'ERR_NBD_PROVIDER_TIMEOUT' }

describe('clock', () => {
  function clockAt(limits: { handshakeMs: number; providerMs: number }) {
    const time = { now: 1000 }
    return { time, clock: new HandshakeClock(limits, () => time.now) }
  }

  test("the client's time stands still while the provider works, and goes on behind it", async () => {
    const { time, clock } = clockAt({ handshakeMs: 100, providerMs: 500 })
    time.now += 60
    for (let turn = 0; turn < 3; turn++) {
      const work = Promise.withResolvers<number>()
      const waited = clock.provider(work.promise)
      time.now += 400
      assert.equal(clock.check(time.now), false)
      work.resolve(turn)
      assert.equal(await waited, turn)
    }
    assert.equal(clock.check(time.now + 40), false)
    assert.equal(clock.check(time.now + 41), true)
  })

  test('a failure of the provider is passed on, and its time does not count either', async () => {
    const { time, clock } = clockAt({ handshakeMs: 100, providerMs: 500 })
    const work = Promise.withResolvers<never>()
    const waited = assert.rejects(clock.provider(work.promise), RangeError)
    time.now += 300
    work.reject(new RangeError('no'))
    await waited
    assert.equal(clock.check(time.now + 100), false)
  })

  test('a provider that hangs is given up; what it brings later is discarded, its failure ignored', async () => {
    const { time, clock } = clockAt({ handshakeMs: 100, providerMs: 500 })
    const discarded: string[] = []
    const hanging = [0, 1].map(() => Promise.withResolvers<string>())
    for (const { promise } of hanging) {
      const waited = assert.rejects(
        clock.provider(promise, (late) => discarded.push(late)),
        TIMEOUT,
      )
      assert.equal(clock.check(time.now + 500), false)
      time.now += 501
      assert.equal(clock.check(time.now), false, 'the client has its time still')
      await waited
    }
    hanging[0]?.resolve('late')
    hanging[1]?.reject(new Error('too late'))
    await Promise.allSettled(hanging.map(({ promise }) => promise))
    assert.deepEqual(discarded, ['late'])
  })

  test('a list has the time for each of its names, and is ended', async () => {
    const { time, clock } = clockAt({ handshakeMs: 100, providerMs: 500 })
    let ended = false
    async function* names() {
      try {
        for (let i = 0; ; i++) {
          await Promise.resolve()
          time.now += 499
          yield i
        }
      } finally {
        ended = true
      }
    }
    const got: number[] = []
    for await (const name of clock.each(names())) {
      assert.equal(clock.check(time.now), false)
      if (got.push(name) === 5) break
    }
    assert.deepEqual([got, ended], [[0, 1, 2, 3, 4], true])
  })
})

describe('a slow provider', () => {
  const HANDSHAKE_MS = 60

  /** Everything but its limits is as usual; what it is asked to open or list waits for `work`. */
  async function serving(limits: Partial<NbdLimits>, work: () => Promise<unknown>) {
    const target = new TestExport(pattern(100))
    const plain = providerOf(target, ['x', 'y'])
    const exports: ExportProvider = {
      async open(name, context) {
        await work()
        return plain.open(name, context)
      },
      async *list(context) {
        for await (const entry of plain.list(context)) {
          if (entry.name === 'y') await work()
          yield entry
        }
      },
    }
    const server = new TestServer(exports, { limits: { handshakeMs: HANDSHAKE_MS, ...limits } })
    return { server, target, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
  }

  for (const via of ['EXPORT_NAME', 'GO'] as const) {
    test(`${via}: an open that takes longer than the handshake deadline costs the client nothing`, async () => {
      await using opened = await serving({}, () => delay(4 * HANDSHAKE_MS))
      const client = opened.server.pair()
      await client.greet()
      if (via === 'GO') {
        for (const number of [NBD_OPT.LIST, NBD_OPT.INFO, NBD_OPT.GO]) {
          client.send(option(number, number === NBD_OPT.LIST ? undefined : infoData('x')))
          while ((await client.optionReply()).type !== NBD_REP.ACK);
        }
      } else {
        client.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')))
        await client.read(10)
      }
      client.send(numbered(1, 3))
      await client.expect(simpleReply(0n, 0, opened.target.bytes.subarray(0, 3)))
      assert.deepEqual(opened.server.outcomes, [])
    })
  }

  test('the client that falls silent behind it is dropped all the same', async () => {
    await using opened = await serving({}, () => delay(2 * HANDSHAKE_MS))
    const client = opened.server.pair()
    await client.greet()
    client.send(option(NBD_OPT.INFO, infoData('x')))
    while ((await client.optionReply()).type !== NBD_REP.ACK);
    await client.gone()
    await opened.server.ended(1)
    assert.deepEqual(opened.server.codes, ['ERR_NBD_HANDSHAKE_TIMEOUT'])
  })

  test('one that hangs: ERR_PLATFORM for GO, INFO and LIST, and the connection goes on; EXPORT_NAME closes', async () => {
    const gates: (() => void)[] = []
    let hangs = true
    const hang = (): Promise<unknown> =>
      hangs ? new Promise<void>((resolve) => gates.push(resolve)) : Promise.resolve()
    await using opened = await serving({ providerMs: 40, handshakeMs: 10_000 }, hang)
    const { server, target } = opened
    const client = server.pair()
    await client.greet()
    for (const [number, types] of [
      [NBD_OPT.GO, [NBD_REP.ERR_PLATFORM]],
      [NBD_OPT.INFO, [NBD_REP.ERR_PLATFORM]],
      [NBD_OPT.LIST, [NBD_REP.SERVER, NBD_REP.ERR_PLATFORM]],
    ] as const) {
      client.send(option(number, number === NBD_OPT.LIST ? undefined : infoData('x')))
      for (const type of types) assert.equal((await client.optionReply()).type, type)
    }
    const byName = server.pair()
    await byName.greet()
    byName.send(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')))
    assert.equal((await byName.readToEnd()).length, 0)
    byName.stream.end()
    await server.ended(1)
    assert.deepEqual(server.outcomes, ['refused'])
    assert.deepEqual(
      server.errors.map((error) => (error as { code?: string }).code),
      Array.from({ length: 4 }, () => TIMEOUT.code),
    )
    assert.equal(server.counter('handshake_failures.export'), 4)

    hangs = false
    for (const finish of gates) finish()
    client.send(option(NBD_OPT.GO, infoData('x')), numbered(1, 3))
    while ((await client.optionReply()).type !== NBD_REP.ACK);
    await client.expect(simpleReply(0n, 0, target.bytes.subarray(0, 3)))
    assert.deepEqual([target.opened, target.closed], [4, 3], 'three opens came too late')
  })

  test('one that hangs does not hold up a drain, and what it opens later is closed', async () => {
    const [asked, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    await using opened = await serving({ handshakeMs: 10_000 }, () => {
      asked.resolve()
      return gate.promise
    })
    const { server, target } = opened
    const client = server.pair()
    await client.greet()
    client.send(option(NBD_OPT.GO, infoData('x')))
    await asked.promise
    await server.server.drain({ deadlineMs: 50 })
    assert.deepEqual(server.outcomes, ['drained'])
    gate.resolve()
    while (target.closed < 1) await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual([target.opened, target.closed], [1, 1])
  })
})
