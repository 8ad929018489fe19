/**
 * Images that come and go while others are read: imported, opened over both protocols, their tag moved, removed,
 * and read on. Each image is partly new and partly of bytes that another image holds.
 */
import { readFile } from 'node:fs/promises'

import { seededBytes } from '../../random.ts'
import type { Load } from './load.ts'
import { NbdClient } from './nbd-client.ts'

const MIB = 1024 * 1024
/** Reads of the whole image, so many under way: beside 500 clients, each takes its time. */
const READ_BYTES = 192 * 1024 + 512
const DEPTH = 16
/** Of an image, in 64 KiB chunks: so much is of bytes that the server has already. */
const SHARED_PART = 0.75

/** An image without a tag, and the clients that opened it before. */
interface Removed {
  readonly bytes: Buffer
  readonly clients: ReadonlyMap<string, NbdClient>
  readonly stack: AsyncDisposableStack
}

/**
 * One image after the other, until the load ends; several may do this under different names. The clients of an image
 * read on when the next has come and gone as well: its pages were evicted meanwhile, and come from the store again.
 */
export async function churn(load: Load, number: number): Promise<void> {
  const shared = await readFile(load.plan.sharedFile)
  let last: Removed | undefined
  for (let turn = 0; !load.stopping; turn++) {
    try {
      last = await load.pace.turn(async () => {
        const removed = await oneImage(load, shared, number, turn)
        await leave(load, last)
        return removed
      })
    } catch (error) {
      load.tally.failed(`churn ${number}, turn ${turn}`, error)
    }
    await load.think(load.random(turn), 0)
  }
  await leave(load, last)
}

/** Every image that comes goes again, while clients have it open in three ways over NBD and over HTTP. */
async function oneImage(
  load: Load,
  shared: Buffer,
  number: number,
  turn: number,
): Promise<Removed> {
  const { tally, plan } = load
  const bytes = image(load, shared, number, turn)
  const name = `soak/churn-${number}`
  const tags = [`${name}:new`, `${name}:moving`] as const
  const posted = api(load, 'POST', `/v1/images/${tags[0]}?wait=true`, bytes, 201)
  const { digest } = (await (await tally.importing(posted)).json()) as { digest: string }
  await using stack = new AsyncDisposableStack()
  const clients = new Map<string, NbdClient>()
  const open = async (ref: string): Promise<void> => {
    const client = stack.use(await NbdClient.open(plan.nbd, ref))
    if (client.size !== bytes.length) tally.differs(`${ref} has ${client.size} bytes`)
    clients.set(ref, client)
  }
  await open(tags[0])
  await api(load, 'PUT', `/v1/images/${tags[1]}`, JSON.stringify({ from: tags[0] }), 200)
  tally.tagMoves++
  await open(tags[1])
  await open(`${name}@${digest}`)
  const removed = { bytes, clients, stack }
  const before = readAll(load, removed, 'while it is removed')
  const whole = await fetch(`${plan.http}/v1/images/${tags[0]}/-/raw`)
  for (const tag of tags) await api(load, 'DELETE', `/v1/images/${tag}`, undefined, 204)
  tally.removals++
  await before
  for (const tag of tags) await assertGone(load, tag)
  await readAll(load, removed, 'removed')
  tally.comparedAfterRemoval += bytes.length * clients.size
  tally.compare(`http ${name}, removed`, Buffer.from(await whole.arrayBuffer()), bytes, 0)
  const path = `/v1/images/${name}@${digest}/-/raw`
  const byDigest = await api(load, 'GET', path, undefined, 200)
  tally.compare(`http ${path}`, Buffer.from(await byDigest.arrayBuffer()), bytes, 0)
  return { ...removed, stack: stack.move() }
}

/** Reads the image once more over every connection, and closes them. */
async function leave(load: Load, removed: Removed | undefined): Promise<void> {
  if (removed === undefined) return
  try {
    await readAll(load, removed, 'removed long ago')
    load.tally.comparedAfterRemoval += removed.bytes.length * removed.clients.size
    await removed.stack.disposeAsync()
  } catch (error) {
    load.tally.failed('an image that was removed', error)
  }
}

/** All of the image over every connection that has it open. */
async function readAll(load: Load, { bytes, clients }: Removed, when: string): Promise<void> {
  await Promise.all(
    clients.entries().map(([ref, client]) => readWhole(load, client, bytes, `${ref}, ${when}`)),
  )
}

/** Deterministic: new bytes first, then a window of the shared file. */
function image(load: Load, shared: Buffer, number: number, turn: number): Buffer {
  const size = load.plan.churnBytes + 65_536 * number
  const sharedBytes = Math.min(Math.floor((size * SHARED_PART) / MIB) * MIB, shared.length)
  const start = (turn % Math.max(1, Math.floor((shared.length - sharedBytes) / MIB))) * MIB
  const fresh = seededBytes(load.plan.seed + 1_000_003 * number + turn, size - sharedBytes)
  return Buffer.concat([fresh, shared.subarray(start, start + sharedBytes)])
}

async function readWhole(
  load: Load,
  client: NbdClient,
  bytes: Buffer,
  what: string,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const reads: Promise<void>[] = []
    for (let i = 0; i < DEPTH && at < bytes.length; i++) {
      const [offset, length] = [at, Math.min(READ_BYTES, bytes.length - at)]
      reads.push(load.check(client, bytes, offset, length, what))
      at += length
    }
    await Promise.all(reads)
  }
}

async function assertGone(load: Load, name: string): Promise<void> {
  const opened = await NbdClient.open(load.plan.nbd, name).catch(() => undefined)
  if (opened !== undefined) {
    load.tally.differs(`${name} opened over NBD after its removal`)
    await opened[Symbol.asyncDispose]()
  }
  await api(load, 'GET', `/v1/images/${name}/-/raw`, undefined, 404)
}

async function api(
  load: Load,
  method: string,
  path: string,
  body: Buffer | string | undefined,
  status: number,
): Promise<Response> {
  const headers = { 'Content-Type': typeof body === 'string' ? 'application/json' : OCTETS }
  const request = body === undefined ? { method } : { method, headers, body }
  const response = await fetch(load.plan.http + path, request)
  if (response.status === status) return response
  throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
}

const OCTETS = 'application/octet-stream'
