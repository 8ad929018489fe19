/**
 * Plays seeded client streams against a live server, one after the other over TCP, a Unix socket or memory,
 * and holds what comes back against the model: every answer that is owed and no other, the right bytes, the
 * right end, and nothing left behind. A failure names the session; `COMMONPAGE_NBD_FUZZ=NUMBER` replays it alone.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'

import { Random } from '../random.ts'
import { evidence } from '../evidence.ts'
import { Growth } from '../growth.ts'
import type { ClientStream, StreamOptions } from './client-streams.ts'
import { clientStream } from './client-streams.ts'
import { type TestServer, turns } from './harness.ts'
import type { ModelRequest, ModelWorld, Prediction } from './model.ts'
import { predict } from './model.ts'
import { parseSimple, parseStructured } from './replies.ts'
import { GREETING, request } from './wire.ts'

export interface FuzzTarget {
  readonly server: TestServer
  /** What the export holds. */
  readonly bytes: Buffer
  readonly streams: StreamOptions
  readonly world: ModelWorld
  /** Asserts that nothing of ended connections is left. */
  settled(): Promise<void>
}

export interface FuzzOptions {
  readonly name: string
  readonly seed: number
  /** Sessions at reduced counts, and how long to go on at full ones. */
  readonly sessions: number
  readonly fullMs: number
}

/** Sessions between two looks at what is left, and at how a good client fares. */
const CHECK_EVERY = 50
/** A session takes milliseconds. */
const SESSION_DEADLINE_MS = 20_000
/** Sessions until every pool and cache has its size. */
const WARM_UP = 100
/**
 * The server keeps at most 32 buffers of 256 KiB to gather replies in (src/nbd/output.ts), and has made them when so
 * many were in use at once, which is rare: 6,000 sessions made four. A buffer of 64 KiB left behind by one session in
 * twenty is more at reduced counts, and by one in a hundred at full ones.
 */
const MAX_POOLED_BYTES = 32 * 256 * 1024
const POOLED_BYTES = 512 * 1024
const POOLED_BYTES_EACH = 512
/** 6,000 sessions took 1.9 MiB of the heap, half of it in the first 400. */
const MAX_CODE_BYTES = 3 * 2 ** 20

export async function fuzz(target: FuzzTarget, options: FuzzOptions): Promise<void> {
  const { name, seed } = options
  const folder = await mkdtemp(join(tmpdir(), 'nbd-fuzz-'))
  const path = join(folder, 's')
  await target.server.server.listen({ path })
  const run = new FuzzRun(target, seed, path)
  try {
    const only = process.env['COMMONPAGE_NBD_FUZZ']
    if (only !== undefined) await run.session(numberOfSession(only))
    else await run.many(options)
  } finally {
    await rm(folder, { recursive: true })
  }
  evidence(`nbd-fuzz-${name}`, { seed, ...run.counts })
}

function numberOfSession(text: string): number {
  const index = Number(text)
  const isIndex = Number.isSafeInteger(index) && index >= 0
  assert.ok(isIndex, `COMMONPAGE_NBD_FUZZ=${text} is no number of a session: 0 or more`)
  return index
}

class FuzzRun {
  readonly counts = {
    sessions: 0,
    complete: 0,
    answers: 0,
    grown_heap_bytes: 0,
    grown_buffer_bytes: 0,
    outcomes: '',
  }
  readonly #target: FuzzTarget
  readonly #seed: number
  readonly #path: string
  /** Connections that have ended. */
  #ended = 0

  constructor(target: FuzzTarget, seed: number, path: string) {
    this.#target = target
    this.#seed = seed
    this.#path = path
  }

  async many({ sessions, fullMs }: FuzzOptions): Promise<void> {
    const full = process.env['COMMONPAGE_FULL'] === '1'
    const deadline = performance.now() + fullMs
    let growth: Growth | undefined
    for (let i = 0; full ? performance.now() < deadline : i < sessions; i++) {
      await this.session(i)
      if (i % CHECK_EVERY === 0) await inTime(this.#serves(i))
      if (i === WARM_UP) growth = await Growth.sinceNow()
    }
    await inTime(this.#serves(1))
    assert.ok(growth !== undefined, `no more than ${WARM_UP} sessions`)
    const pieces = this.counts.sessions - WARM_UP
    const grown = await growth.assertBounded({
      pieces,
      maxCodeBytes: MAX_CODE_BYTES,
      pooledBytes: Math.min(MAX_POOLED_BYTES, POOLED_BYTES + POOLED_BYTES_EACH * pieces),
    })
    this.counts.grown_heap_bytes = grown.grownHeapBytes
    this.counts.grown_buffer_bytes = grown.grownBufferBytes
    const outcomes = new Map<string, number>()
    for (const one of this.#target.server.outcomes) outcomes.set(one, (outcomes.get(one) ?? 0) + 1)
    this.counts.outcomes = [...outcomes].map(([outcome, n]) => `${outcome}:${n}`).join(',')
    // Most streams have to get somewhere, or the fuzzing is of the first check only.
    assert.ok(this.counts.answers > this.counts.sessions)
    assert.ok(this.counts.complete > this.counts.sessions / 4)
  }

  async session(index: number): Promise<void> {
    const random = new Random((Math.imul(index + 1, 0x9e3779b1) ^ this.#seed) >>> 0)
    const stream = clientStream(random, this.#target.streams)
    try {
      await inTime(this.#play(stream, random))
    } catch (error) {
      const replay = `session ${index} of seed ${this.#seed}: COMMONPAGE_NBD_FUZZ=${index} replays it`
      throw new Error(`${replay}; ${stream.bytes.subarray(0, 600).toString('hex')}`, {
        cause: error,
      })
    }
  }

  async #play(stream: ClientStream, random: Random): Promise<void> {
    const { server, world } = this.#target
    const expected = predict(stream.bytes, world)
    const reset = stream.end === 'vanish' && random.next(2) === 0
    const socket = this.#connect(reset ? 'tcp' : random.next(3) === 0 ? 'unix' : 'memory')
    const received: Buffer[] = []
    socket.on('data', (chunk: Buffer) => received.push(chunk))
    socket.on('error', () => {})
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    if (stream.deaf) socket.pause()
    await this.#send(socket, stream, random)
    if (stream.end === 'vanish') {
      if (reset && 'resetAndDestroy' in socket) (socket as ResettableStream).resetAndDestroy()
      else socket.destroy()
    } else {
      socket.resume()
      socket.end()
    }
    await closed
    await server.ended(++this.#ended)
    this.counts.sessions++
    const outcome = server.outcomes.at(-1)
    const whole = stream.end === 'half-close' && expected.outcome !== 'protocol_error'
    if (stream.end === 'half-close') assert.equal(outcome, expected.outcome)
    if (whole) this.counts.complete++
    this.#verify(Buffer.concat(received), expected, whole)
    assert.equal(server.counter('in_flight'), 0)
    assert.equal(server.counter('in_flight_bytes'), 0)
    assert.equal(server.counter('connections'), 0)
  }

  async #send(socket: Duplex, stream: ClientStream, random: Random): Promise<void> {
    const pieces = stream.end === 'vanish' ? stream.piecesBeforeVanishing : stream.cuts.length
    const pause = pieces < 100 ? random.next(3) : 0
    let from = 0
    for (const to of stream.cuts.slice(0, pieces)) {
      if (socket.destroyed) return
      socket.write(stream.bytes.subarray(from, to))
      from = to
      if (pause > 0) await turns(pause - 1)
    }
    await turns(random.next(6))
  }

  #connect(kind: 'tcp' | 'unix' | 'memory'): Duplex {
    const { server } = this.#target
    if (kind === 'memory') return server.memory()
    const allowHalfOpen = true
    if (kind === 'unix') return connect({ path: this.#path, allowHalfOpen })
    return connect({ host: '127.0.0.1', port: server.port, allowHalfOpen })
  }

  /** Everything that came is what the model owes; when `whole`, nothing of it is missing. */
  #verify(received: Buffer, expected: Prediction, whole: boolean): void {
    const { options, exportNameBytes, transmitting, structured, requests } = expected
    const length = Math.min(received.length, GREETING.length)
    assert.ok(received.subarray(0, length).equals(GREETING.subarray(0, length)))
    let at = length
    let told = 0
    for (; told < options.length && received.length - at >= 20; told++) {
      assert.equal(received.toString('hex', at, at + 8), '0003e889045565a9')
      const reply = [received.readUInt32BE(at + 8), received.readUInt32BE(at + 12)]
      assert.deepEqual(reply, options[told], `option reply ${told}`)
      at += 20 + received.readUInt32BE(at + 16)
    }
    if (whole) assert.equal(told, options.length, 'option replies are missing')
    if (told < options.length) return
    at = Math.min(received.length, at + exportNameBytes)
    const rest = received.subarray(at)
    if (!transmitting) {
      assert.equal(rest.length, 0, 'bytes behind the negotiation')
      return
    }
    const byCookie = uniqueByCookie(requests)
    if (byCookie === undefined) return
    const parse = structured ? parseStructured : parseSimple
    const replies = parse(rest, (cookie) => byCookie.get(cookie)?.request)
    for (const { cookie, error, data } of replies.answers) {
      const owed = byCookie.get(cookie)
      assert.ok(owed !== undefined)
      assert.ok(owed.count-- > 0, `one answer too many to cookie ${cookie}`)
      assert.equal(error, owed.request.error)
      const { offset } = owed.request
      assert.ok(
        data.equals(this.#target.bytes.subarray(offset, offset + data.length)),
        'wrong bytes',
      )
      this.counts.answers++
    }
    if (!whole) return
    assert.deepEqual([replies.rest, replies.unfinished], [0, []])
    assert.equal(replies.answers.length, requests.length, 'answers are missing')
  }

  /** A good client gets the right bytes, and nothing of all the others is left. */
  async #serves(i: number): Promise<void> {
    const { server, bytes, streams } = this.#target
    const client = server.pair()
    const structured = i % 2 === 0
    await client.go(streams.names[0], { structured })
    const sizes = [bytes.length, 1 + (i % 5000), 4096]
    const asked = sizes.map((length) => ({
      offset: (i * 37) % (bytes.length - length + 1),
      length,
    }))
    client.send(...asked.map((fields, n) => request({ ...fields, cookie: BigInt(n) })))
    client.stream.end()
    const parse = structured ? parseStructured : parseSimple
    const { answers } = parse(await client.readToEnd(), (cookie) => asked[Number(cookie)])
    assert.equal(answers.length, asked.length)
    for (const { cookie, data, error } of answers) {
      const { offset, length } = asked[Number(cookie)] ?? assert.fail()
      assert.equal(error, 0)
      assert.ok(data.equals(bytes.subarray(offset, offset + length)))
    }
    await server.ended(++this.#ended)
    await this.#target.settled()
  }
}

/** A session that hangs is a failure. */
async function inTime(session: Promise<void>): Promise<void> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error('the session hangs')), SESSION_DEADLINE_MS)
  try {
    await Promise.race([session, late.promise])
  } finally {
    clearTimeout(timer)
  }
}

type ResettableStream = Duplex & { resetAndDestroy(): void }

/** Undefined when a cookie stands for different requests: then an answer does not say to which it belongs. */
function uniqueByCookie(
  requests: readonly ModelRequest[],
): Map<bigint, { readonly request: ModelRequest; count: number }> | undefined {
  const found = new Map<bigint, { readonly request: ModelRequest; count: number }>()
  for (const one of requests) {
    const known = found.get(one.cookie)
    if (known === undefined) {
      found.set(one.cookie, { request: one, count: 1 })
      continue
    }
    const { offset, length, error } = known.request
    if (one.offset !== offset || one.length !== length || one.error !== error) return undefined
    known.count++
  }
  return found
}
