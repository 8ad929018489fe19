/** HTTP clients of every temper, each on its one kept-alive connection: ranges small and large, whole files, slow readers. */
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Agent, get } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'

import type { Random } from '../../random.ts'
import type { LoadedSource, Load } from './load.ts'

const KIB = 1024
const MIB = 1024 * KIB

interface Temper {
  readonly name: string
  readonly from: 'images' | 'files'
  /** Bytes of a range; absent: the whole. */
  readonly range?: (random: Random) => number
  /** Between one piece of the body and the next. */
  readonly pieceMs?: number
  /** Requests on one connection. */
  readonly requests: number
}

const TEMPERS: readonly Temper[] = [
  { name: 'small', from: 'images', range: () => 4 * KIB, requests: 200 },
  { name: 'file', from: 'files', requests: 50 },
  { name: 'cold', from: 'images', range: (random) => 1 + random.next(MIB), requests: 50 },
  { name: 'slow', from: 'images', range: () => 8 * MIB, pieceMs: 100, requests: 5 },
  { name: 'large', from: 'images', range: () => 16 * MIB, requests: 5 },
  { name: 'part', from: 'files', range: (random) => 1 + random.next(4 * KIB), requests: 50 },
]

/** One connection at a time, until the load ends. */
export async function httpReader(load: Load, number: number): Promise<void> {
  const temper = TEMPERS[number % TEMPERS.length]
  if (temper === undefined) return
  const random = load.random(1000 + number)
  while (!load.stopping) {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    try {
      for (let i = 0; i < temper.requests && !load.stopping; i++) {
        const source = load.pick(temper.from, random)
        const bytes = await oneRequest(load, agent, source, temper, random)
        await load.think(random, bytes)
      }
    } catch (error) {
      load.tally.failed(`http ${temper.name}`, error)
    } finally {
      agent.destroy()
    }
  }
}

/** @returns how many bytes were read */
async function oneRequest(
  load: Load,
  agent: Agent,
  source: LoadedSource,
  temper: Temper,
  random: Random,
): Promise<number> {
  const size = source.bytes.length
  const start = temper.range === undefined ? 0 : random.next(size)
  const end = temper.range === undefined ? size : Math.min(size, start + temper.range(random))
  const whole = temper.range === undefined || size === 0
  const headers = whole ? {} : { Range: `bytes=${start}-${end - 1}` }
  const what = `http ${temper.name} ${source.httpPath}`
  const response = await ask(agent, load.plan.http + source.httpPath, headers)
  const expected = whole ? 200 : 206
  if (response.statusCode !== expected) {
    load.tally.differs(`${what} ${start}-${end}: status ${response.statusCode}`)
  }
  let at = start
  for await (const chunk of response as AsyncIterable<Buffer>) {
    load.tally.compare(what, chunk, source.bytes, at)
    at += chunk.length
    if (temper.pieceMs !== undefined && !load.stopping) await delay(temper.pieceMs)
  }
  load.tally.answered()
  if (at !== end) load.tally.differs(`${what} ${start}-${end} ended at ${at}`)
  return end - start
}

async function ask(
  agent: Agent,
  url: string,
  headers: Readonly<Record<string, string>>,
): Promise<IncomingMessage> {
  const request = get(url, { agent, headers })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return response
}
