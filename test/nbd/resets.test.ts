/**
 * A connection that is reset at any point of its life: nothing of it stays, and the server goes on. Over TCP
 * and the real page cache, whose fills are held back where the point is that replies are not there yet.
 */
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'

import { NBD_CMD, NBD_OPT } from '../../src/nbd/index.ts'
import { turns } from './harness.ts'
import { PageCacheServer } from './page-cache-server.ts'
import type { WireClient } from './wire.ts'
import { CLIENT_FLAGS, infoData, option, request, simpleReply } from './wire.ts'

const ROUNDS = process.env['COMMONPAGE_FULL'] === '1' ? 40 : 3
const SIZE = 1_000_001
const LENGTHS = [1, 4096, 16_384, 20_000, 120_000]

interface Victim {
  readonly client: WireClient
  readonly socket: Socket
  readonly cached: PageCacheServer
  readonly round: number
}

function reads(count: number): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => {
      const length = LENGTHS[i % LENGTHS.length] ?? 1
      return request({ cookie: BigInt(i), offset: (i * 104_729) % (SIZE - length), length })
    }),
  )
}

/** Sends, and gives the server some turns: fewer or more in each round. */
async function send({ client, round }: Victim, bytes: Buffer): Promise<void> {
  client.send(bytes)
  await turns(round % 7)
}

const GO = option(NBD_OPT.GO, infoData(''))
const WRITE = Buffer.concat([request({ type: NBD_CMD.WRITE, length: 100_000 }), Buffer.alloc(5000)])

const HALF_CLOSED = 'behind a half-close'

/** Where the connection stands when it is reset. */
const POINTS: Record<string, (victim: Victim) => Promise<void> | void> = {
  'before the greeting is read': () => {},
  'in the client flags': (victim) => send(victim, CLIENT_FLAGS.subarray(0, 2)),
  'behind the client flags': (victim) => send(victim, CLIENT_FLAGS),
  'in an option header': (victim) => send(victim, Buffer.concat([CLIENT_FLAGS, GO.subarray(0, 9)])),
  'in option data': (victim) => send(victim, Buffer.concat([CLIENT_FLAGS, GO.subarray(0, 18)])),
  'in option data that are skipped': (victim) =>
    send(
      victim,
      Buffer.concat([CLIENT_FLAGS, option(7, Buffer.alloc(300_000)).subarray(0, 90_000)]),
    ),
  'between options': (victim) => send(victim, Buffer.concat([CLIENT_FLAGS, option(8), option(99)])),
  'behind INFO': (victim) =>
    send(victim, Buffer.concat([CLIENT_FLAGS, option(NBD_OPT.INFO, infoData(''))])),
  'while the export is opened': (victim) => victim.client.send(CLIENT_FLAGS, GO),
  'behind GO': ({ client }) => client.go(''),
  'in a request header': async (victim) => {
    await victim.client.go('')
    await send(victim, reads(1).subarray(0, 3 + (victim.round % 24)))
  },
  'in the payload of a WRITE': async (victim) => {
    await victim.client.go('')
    await send(victim, WRITE)
  },
  'with replies on their way': async (victim) => {
    await victim.client.go('', { structured: victim.round % 2 === 0 })
    await send(victim, reads(60))
  },
  'with replies on their way to a client that does not read': async (victim) => {
    await victim.client.go('', { structured: victim.round % 2 === 0 })
    victim.socket.pause()
    await send(victim, reads(400))
    await turns(20)
  },
  'with one huge reply on its way': async (victim) => {
    await victim.client.go('', { structured: victim.round % 2 === 0 })
    await send(victim, request({ length: SIZE }))
  },
  'behind DISC': async (victim) => {
    await victim.client.go('')
    await send(victim, Buffer.concat([reads(40), request({ type: NBD_CMD.DISC })]))
  },
  [HALF_CLOSED]: async (victim) => {
    await victim.client.go('')
    victim.socket.pause()
    victim.client.send(reads(40))
    victim.socket.end()
    await turns(victim.round % 7)
  },
}

for (const cache of ['hot', 'cold', 'held'] as const) {
  const state = { hot: 'hot cache', cold: 'cold cache', held: 'cold cache whose fills do not end' }
  test(`reset at every point, ${state[cache]}: no pin, handle or connection is left, others are served`, async () => {
    await using cached = await PageCacheServer.start({
      size: SIZE,
      cache: { frames: cache === 'hot' ? 128 : 40 },
    })
    if (cache === 'hot') await cached.warm()
    let release = (): void => {}
    let connections = 0
    for (let round = 0; round < ROUNDS; round++) {
      for (const [point, reach] of Object.entries(POINTS)) {
        if (cache !== 'hot') await cached.cache.client.evict('removed', SIZE * 2)
        if (cache === 'held') {
          const gate = new Promise<void>((resolve) => (release = resolve))
          cached.cache.source.gate = () => gate
        }
        const { client, socket } = await cached.server.connect()
        connections++
        await reach({ client, socket, cached, round })
        const quiet = round % 3 === 2
        // libuv refuses to reset behind a half-close; the kernel does it when unread bytes are thrown away.
        if (quiet || point === HALF_CLOSED) socket.destroy()
        else socket.resetAndDestroy()
        // A client that closes in order looks like one that half-closes: it is gone when the first reply
        // cannot be delivered.
        if (quiet || point === HALF_CLOSED) release()
        await cached.server.ended(connections)
        release()
        cached.cache.source.gate = undefined
        await cached.settled()
        assert.deepEqual(cached.server.errors, [], point)
      }
      const good = await cached.server.connect()
      await good.client.go('')
      good.client.send(request({ cookie: 1n, offset: 5, length: SIZE - 5 }))
      await good.client.expect(simpleReply(1n, 0, cached.bytes.subarray(5)))
      good.socket.resetAndDestroy()
      await cached.server.ended(++connections)
    }
    assert.deepEqual(cached.readErrors, [])
  })
}
