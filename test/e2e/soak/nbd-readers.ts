/** NBD clients of every temper: hot, cold, sequential, with large requests, slow, and short-lived ones. */
import { setTimeout as delay } from 'node:timers/promises'

import type { Random } from '../../random.ts'
import { NbdClient } from './nbd-client.ts'
import type { LoadedSource, Load } from './load.ts'

const KIB = 1024
const MIB = 1024 * KIB
/** What hot readers share: small enough to stay in memory. */
const HOT_BYTES = 4 * MIB

interface Temper {
  readonly name: string
  readonly depth: number
  /** Rounds of `depth` reads on one connection. */
  readonly rounds: number
  readonly length: (random: Random) => number
  readonly span?: 'hot' | 'sequential'
  /** Takes nothing for so long in every round. */
  readonly stallMs?: number
  readonly from?: 'files'
}

const TEMPERS: readonly Temper[] = [
  { name: 'hot', depth: 8, rounds: 200, length: () => 4 * KIB, span: 'hot' },
  { name: 'cold', depth: 4, rounds: 100, length: (random) => 1 + random.next(256 * KIB) },
  { name: 'sequential', depth: 8, rounds: 100, length: () => 128 * KIB, span: 'sequential' },
  { name: 'large', depth: 2, rounds: 10, length: (random) => MIB + random.next(4 * MIB) },
  { name: 'slow', depth: 32, rounds: 5, length: () => 256 * KIB, stallMs: 2000 },
  { name: 'brief', depth: 2, rounds: 2, length: (random) => 512 * (1 + random.next(64)) },
  {
    name: 'file',
    depth: 2,
    rounds: 10,
    length: (random) => 1 + random.next(64 * KIB),
    from: 'files',
  },
]

/** One client at a time, until the load ends. */
export async function nbdReader(load: Load, number: number): Promise<void> {
  const temper = TEMPERS[number % TEMPERS.length]
  if (temper === undefined) return
  const random = load.random(number)
  while (!load.stopping) {
    const source = load.pick(temper.from ?? 'images', random)
    const what = `nbd ${temper.name} ${source.nbdName}`
    try {
      await using client = await NbdClient.open(load.plan.nbd, source.nbdName)
      if (client.size !== source.bytes.length) {
        load.tally.differs(`${what} has ${client.size} bytes, not ${source.bytes.length}`)
      }
      let at = random.next(client.size)
      for (let round = 0; round < temper.rounds && !load.stopping; round++) {
        const before = client.received
        at = await oneRound(load, client, source, temper, random, at, what)
        await load.think(random, client.received - before)
      }
    } catch (error) {
      load.tally.failed(what, error)
    }
  }
}

async function oneRound(
  load: Load,
  client: NbdClient,
  source: LoadedSource,
  temper: Temper,
  random: Random,
  start: number,
  what: string,
): Promise<number> {
  let at = start
  const reads: Promise<void>[] = []
  if (temper.stallMs !== undefined) client.pause()
  for (let i = 0; i < temper.depth; i++) {
    const wanted = temper.length(random)
    if (temper.span === 'sequential') at = at >= source.bytes.length ? 0 : at
    else at = random.next(temper.span === 'hot' ? Math.min(HOT_BYTES, client.size) : client.size)
    const length = Math.min(wanted, source.bytes.length - at)
    reads.push(load.check(client, source.bytes, at, length, what))
    at += length
  }
  if (temper.stallMs !== undefined) {
    await delay(temper.stallMs)
    client.resume()
  }
  await Promise.all(reads)
  return at
}
