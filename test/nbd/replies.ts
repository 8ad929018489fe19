/**
 * Reads a whole stream of replies and holds it against the rules of NBD proto, "Simple reply message" and
 * "Structured reply message". Bytes in, answers out; whoever asked knows what the answers should be.
 */
import assert from 'node:assert/strict'

import { NBD_E, NBD_REPLY_TYPE } from '../../src/nbd/index.ts'

/** What was asked with a cookie. `length` is that of a READ, 0 for every other command. */
export interface Asked {
  readonly offset: number
  readonly length: number
}

export interface Answer {
  readonly cookie: bigint
  /** NBD error value; 0: success. */
  readonly error: number
  /** The data of a successful read, in place. */
  readonly data: Buffer
  /** Offset and length of each content chunk, in the order of arrival; simple replies have none. */
  readonly chunks: readonly (readonly [offset: number, length: number])[]
}

export interface Replies {
  readonly answers: readonly Answer[]
  /** Bytes at the end that are no whole reply or chunk. */
  readonly rest: number
  /** Cookies of structured replies whose last chunk has not come. */
  readonly unfinished: readonly bigint[]
}

const SIMPLE_MAGIC = 0x67446698
const CHUNK_MAGIC = 0x668e33ef
const ERRORS: ReadonlySet<number> = new Set(Object.values(NBD_E))
/** NBD proto: "String values". */
const MAX_TEXT = 4096

/** The successes come in the order in which they were asked, or each has another cookie. */
export function parseSimple(bytes: Buffer, asked: (cookie: bigint) => Asked | undefined): Replies {
  const answers: Answer[] = []
  let at = 0
  while (bytes.length - at >= 16) {
    assert.equal(bytes.readUInt32BE(at), SIMPLE_MAGIC)
    const error = bytes.readUInt32BE(at + 4)
    const cookie = bytes.readBigUInt64BE(at + 8)
    const request = asked(cookie)
    assert.ok(request !== undefined, `a reply to cookie ${cookie}, which nobody sent`)
    assert.ok(error === 0 || ERRORS.has(error), `error value ${error}`)
    const length = error === 0 ? request.length : 0
    if (bytes.length - at < 16 + length) break
    const data = bytes.subarray(at + 16, at + 16 + length)
    answers.push({ cookie, error, data, chunks: [] })
    at += 16 + length
  }
  return { answers, rest: bytes.length - at, unfinished: [] }
}

interface Open {
  readonly asked: Asked
  readonly data: Buffer
  readonly chunks: [number, number][]
  error: number
}

/** Replies may interleave, but cookies must be in use once at a time. */
export function parseStructured(
  bytes: Buffer,
  asked: (cookie: bigint) => Asked | undefined,
): Replies {
  const open = new Map<bigint, Open>()
  const answers: Answer[] = []
  let at = 0
  while (bytes.length - at >= 20) {
    assert.equal(bytes.readUInt32BE(at), CHUNK_MAGIC)
    const flags = bytes.readUInt16BE(at + 4)
    const type = bytes.readUInt16BE(at + 6)
    const cookie = bytes.readBigUInt64BE(at + 8)
    const length = bytes.readUInt32BE(at + 16)
    if (bytes.length - at < 20 + length) break
    const payload = bytes.subarray(at + 20, at + 20 + length)
    at += 20 + length
    let reply = open.get(cookie)
    if (reply === undefined) {
      const request = asked(cookie)
      assert.ok(request !== undefined, `a chunk for cookie ${cookie}, which nobody sent`)
      reply = { asked: request, data: Buffer.alloc(request.length), chunks: [], error: 0 }
      open.set(cookie, reply)
    }
    assert.equal(flags & ~1, 0, 'a reply flag other than DONE')
    takeChunk(reply, type, flags, payload)
    if ((flags & 1) === 0) continue
    open.delete(cookie)
    if (reply.error === 0) assertCovered(reply)
    const { error, data, chunks } = reply
    answers.push({ cookie, error, data, chunks })
  }
  return { answers, rest: bytes.length - at, unfinished: [...open.keys()] }
}

function takeChunk(reply: Open, type: number, flags: number, payload: Buffer): void {
  switch (type) {
    case NBD_REPLY_TYPE.NONE:
      assert.deepEqual([flags, payload.length], [1, 0], 'NONE is DONE and empty')
      break
    case NBD_REPLY_TYPE.OFFSET_DATA: {
      assert.ok(payload.length >= 9, 'OFFSET_DATA without data')
      const data = payload.subarray(8)
      take(reply, Number(payload.readBigUInt64BE(0)), data.length).set(data)
      break
    }
    case NBD_REPLY_TYPE.OFFSET_HOLE: {
      assert.equal(payload.length, 12)
      const size = payload.readUInt32BE(8)
      assert.ok(size >= 1, 'an empty hole')
      take(reply, Number(payload.readBigUInt64BE(0)), size).fill(0)
      break
    }
    case NBD_REPLY_TYPE.ERROR:
    case NBD_REPLY_TYPE.ERROR_OFFSET: {
      const tail = type === NBD_REPLY_TYPE.ERROR ? 0 : 8
      assert.ok(payload.length >= 6 + tail)
      reply.error = payload.readUInt32BE(0)
      assert.ok(ERRORS.has(reply.error), `error value ${reply.error}`)
      const text = payload.readUInt16BE(4)
      assert.ok(text <= MAX_TEXT)
      assert.equal(payload.length, 6 + text + tail)
      if (tail > 0) assertInside(reply, Number(payload.readBigUInt64BE(6 + text)), 0)
      break
    }
    default:
      assert.fail(`a chunk of type 0x${type.toString(16)}`)
  }
}

/** Where a content chunk goes: inside of the request, over nothing that was there before. */
function take(reply: Open, offset: number, length: number): Buffer {
  assertInside(reply, offset, length)
  for (const [from, size] of reply.chunks) {
    assert.ok(offset >= from + size || offset + length <= from, 'chunks overlap')
  }
  reply.chunks.push([offset, length])
  const at = offset - reply.asked.offset
  return reply.data.subarray(at, at + length)
}

function assertInside({ asked }: Open, offset: number, length: number): void {
  assert.ok(
    offset >= asked.offset && offset + length <= asked.offset + asked.length,
    `a chunk of ${length} bytes at ${offset} for a read of ${asked.length} at ${asked.offset}`,
  )
}

function assertCovered({ asked, chunks }: Open): void {
  const sum = chunks.reduce((total, [, length]) => total + length, 0)
  assert.equal(sum, asked.length, 'chunks do not cover the read')
}
