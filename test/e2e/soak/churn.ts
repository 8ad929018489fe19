/**
 * Images that come and go while others are read: imported, opened over both protocols, their tag moved, removed,
 * and read on. Each image is partly new and partly of bytes that another image holds.
 */
import { createCipheriv } from 'node:crypto'
import { readFile } from 'node:fs/promises'

import type { Load } from './load.ts'
import { NbdClient } from './nbd-client.ts'

const MIB = 1024 * 1024
/** Reads of the whole image, one after the other; four under way. */
const READ_BYTES = 192 * 1024 + 512
const DEPTH = 4
/** Of an image, in 64 KiB chunks: so much is of bytes that the server has already. */
const SHARED_PART = 0.75

/** One image after the other, until the load ends; several may do this under different names. */
export async function churn(load: Load, number: number): Promise<void> {
  const shared = await readFile(load.plan.sharedFile)
  for (let turn = 0; !load.stopping; turn++) {
    try {
      await oneImage(load, shared, number, turn)
    } catch (error) {
      load.tally.failed(`churn ${number}, turn ${turn}`, error)
    }
    await load.think(load.random(turn))
  }
}

async function oneImage(load: Load, shared: Buffer, number: number, turn: number): Promise<void> {
  const { tally } = load
  const bytes = image(load, shared, number, turn)
  const name = `soak/churn-${number}`
  const created = await api(load, 'POST', `/v1/images/${name}:new?wait=true`, bytes, 201)
  tally.imports++
  const { digest } = (await created.json()) as { digest: string }
  await using byTag = await NbdClient.open(load.plan.nbd, `${name}:new`)
  const before = half(load, byTag, bytes, 0, `${name}:new`)
  await api(load, 'PUT', `/v1/images/${name}:moving`, JSON.stringify({ from: `${name}:new` }), 200)
  await using moved = await NbdClient.open(load.plan.nbd, `${name}:moving`)
  if (moved.size !== bytes.length) tally.differs(`${name}:moving has ${moved.size} bytes`)
  tally.tagMoves++
  const whole = await fetch(`${load.plan.http}/v1/images/${name}:new/-/raw`)
  await api(load, 'DELETE', `/v1/images/${name}:new`, undefined, 204)
  tally.removals++
  await before
  await half(load, byTag, bytes, 1, `${name}, removed`)
  tally.comparedAfterRemoval += bytes.length / 2
  tally.compare(`http ${name}, removed`, Buffer.from(await whole.arrayBuffer()), bytes, 0)
  await assertGone(load, `${name}:new`)
  const path = `/v1/images/${name}@${digest}/-/raw`
  const byDigest = await api(load, 'GET', path, undefined, 200)
  tally.compare(`http ${path}`, Buffer.from(await byDigest.arrayBuffer()), bytes, 0)
}

/** Deterministic: new bytes first, then a window of the shared file. */
function image(load: Load, shared: Buffer, number: number, turn: number): Buffer {
  const size = load.plan.churnBytes + 65_536 * number
  const sharedBytes = Math.min(Math.floor((size * SHARED_PART) / MIB) * MIB, shared.length)
  const start = (turn % Math.max(1, Math.floor((shared.length - sharedBytes) / MIB))) * MIB
  const fresh = seededBytes(load.plan.seed + 1_000_003 * number + turn, size - sharedBytes)
  return Buffer.concat([fresh, shared.subarray(start, start + sharedBytes)])
}

/** Bytes that no chunk holds yet, the same for the same seed. */
export function seededBytes(seed: number, length: number): Buffer {
  const key = Buffer.alloc(16)
  key.writeUInt32LE(seed >>> 0)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))
}

async function half(
  load: Load,
  client: NbdClient,
  bytes: Buffer,
  which: 0 | 1,
  what: string,
): Promise<void> {
  const middle = bytes.length >> 1
  const end = which === 0 ? middle : bytes.length
  for (let at = which * middle; at < end;) {
    const reads: Promise<void>[] = []
    for (let i = 0; i < DEPTH && at < end; i++) {
      const [offset, length] = [at, Math.min(READ_BYTES, end - at)]
      reads.push(
        client.read(offset, length).then((got) => load.tally.compare(what, got, bytes, offset)),
      )
      at += length
    }
    await Promise.all(reads)
    load.tally.requests += reads.length
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
