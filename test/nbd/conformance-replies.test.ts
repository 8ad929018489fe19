/**
 * NBD proto, "Ordering of messages and writes", "Terminating the transmission phase", and errors that are found when
 * a part of the reply has gone out ("Simple reply message", "Structured reply flags"), line by line, on a real socket.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ReplyPiece } from '../../src/nbd/index.ts'
import { NBD_CMD, NBD_CMD_FLAG, NBD_E, NBD_REPLY_TYPE } from '../../src/nbd/index.ts'
import { start } from './harness.ts'
import { parseStructured } from './replies.ts'
import { chunk, numbered, request, simpleReply, u64 } from './wire.ts'

const PIECE = 64 * 1024
const SIZE = 8 * PIECE
const COOKIE = 0xfedcba9876543210n
const DONE = 1

/** A server whose reads come in pieces, of which the third is not to be had. */
async function failing(structured: boolean) {
  const started = await start(SIZE)
  const { server, target } = started
  async function* pieces(offset: number): AsyncGenerator<ReplyPiece> {
    for (let at = offset; at < offset + 2 * PIECE; at += PIECE) {
      yield { parts: [target.bytes.subarray(at, at + PIECE)], release: target.lend() }
    }
    throw Object.assign(new Error('ü'.repeat(5000)), { code: 'EIO' })
  }
  target.onRead = (offset, length, reply) => {
    if (length > PIECE) reply.stream(pieces(offset))
    else target.answer({ offset, length, reply })
  }
  const { client, socket } = await server.connect()
  await client.go('x', { structured })
  return { ...started, client, socket }
}

describe('order', () => {
  test('requests are handled at the same time, and answered in the order in which they are ready', async () => {
    await using opened = await start(SIZE)
    const { server, target } = opened
    const { client } = await server.connect()
    await client.go()
    target.hold = true
    client.send(numbered(20, 5000))
    while (target.held.length < 20) await new Promise<void>((resolve) => (target.onHeld = resolve))
    const order = [7, 19, 0, 3]
    for (const i of order) target.answer(target.held[i] ?? assert.fail())
    for (const i of order) {
      await client.expect(simpleReply(BigInt(i), 0, target.bytes.subarray(i, i + 5000)))
    }
  })
})

describe('an error behind a part of the reply', () => {
  test('simple: its header said success, so only the disconnect is left, and nothing follows the bytes', async () => {
    await using opened = await failing(false)
    const { client, server, target } = opened
    client.send(request({ length: 4 * PIECE }), request({ cookie: 2n, length: 1 }))
    await client.gone()
    await server.ended(1)
    assert.ok(client.buffered <= 16 + 2 * PIECE)
    assert.deepEqual(server.codes, ['ERR_NBD_READ'])
    assert.equal(target.released, target.sent)
  })

  test('structured: no chunk is DONE while an error may be found; ERROR_OFFSET says where, and the connection lives', async () => {
    await using opened = await failing(true)
    const { client, target } = opened
    client.send(request({ offset: 512, length: 4 * PIECE }))
    for (const at of [512, 512 + PIECE]) {
      const payload = Buffer.concat([u64(at), target.bytes.subarray(at, at + PIECE)])
      await client.expect(chunk(0, NBD_REPLY_TYPE.OFFSET_DATA, COOKIE, payload))
    }
    const { flags, type, payload } = await client.chunk()
    assert.deepEqual([flags, type], [DONE, NBD_REPLY_TYPE.ERROR_OFFSET])
    assert.equal(payload.readUInt32BE(0), NBD_E.EIO)
    assert.equal(payload.readBigUInt64BE(payload.length - 8), BigInt(512 + 2 * PIECE))
    client.send(request({ cookie: 2n, length: 1 }))
    assert.equal((await client.chunk()).cookie, 2n)
  })

  test('structured with DF: the chunk under way is filled up with zeroes, then an error chunk', async () => {
    await using opened = await failing(true)
    const { client, target } = opened
    client.send(request({ flags: NBD_CMD_FLAG.DF, length: 4 * PIECE }))
    const data = [u64(0), target.bytes.subarray(0, 2 * PIECE), Buffer.alloc(2 * PIECE)]
    await client.expect(chunk(0, NBD_REPLY_TYPE.OFFSET_DATA, COOKIE, Buffer.concat(data)))
    const { flags, type } = await client.chunk()
    assert.deepEqual([flags, type], [DONE, NBD_REPLY_TYPE.ERROR_OFFSET])
  })

  test('the text of an error chunk is UTF-8 of at most 4096 bytes, however long the reason', async () => {
    await using opened = await failing(true)
    const { client, socket, target } = opened
    const whole = { offset: 0, length: 4 * PIECE }
    client.send(request({ cookie: 0n, ...whole }))
    const texts: Buffer[] = []
    for (let i = 0; i < 2; i++) {
      let { type, payload } = await client.chunk()
      while (type === NBD_REPLY_TYPE.OFFSET_DATA) ({ type, payload } = await client.chunk())
      texts.push(payload.subarray(6, 6 + payload.readUInt16BE(4)))
      target.onRead = (_offset, _length, reply) => reply.fail('EIO', 'ü'.repeat(5000))
      if (i === 0) client.send(request({ cookie: 1n, ...whole }))
    }
    for (const text of texts) {
      assert.ok(text.length > 0 && text.length <= 4096)
      new TextDecoder('utf-8', { fatal: true }).decode(text)
    }
    client.send(request({ cookie: 2n, ...whole }))
    socket.end()
    const { answers } = parseStructured(await client.readToEnd(), () => whole)
    assert.deepEqual(
      answers.map(({ error }) => error),
      [NBD_E.EIO],
    )
  })
})

describe('DISC', () => {
  for (const structured of [false, true]) {
    test(`no reply of its own: outstanding replies, then FIN; what follows is ignored (${structured ? 'structured' : 'simple'})`, async () => {
      await using opened = await start(SIZE)
      const { server, target } = opened
      const { client, socket } = await server.connect()
      await client.go('x', { structured })
      target.hold = true
      client.send(numbered(5, 1), request({ type: NBD_CMD.DISC }), numbered(3, 1), Buffer.alloc(99))
      while (target.held.length < 5) await new Promise<void>((resolve) => (target.onHeld = resolve))
      for (const held of target.held.splice(0)) target.answer(held)
      const expected = Array.from({ length: 5 }, (_, i) => {
        const data = target.bytes.subarray(i, i + 1)
        const reply = Buffer.concat([u64(i), data])
        return structured ? chunk(DONE, 1, BigInt(i), reply) : simpleReply(BigInt(i), 0, data)
      })
      assert.deepEqual(await client.readToEnd(), Buffer.concat(expected))
      assert.equal(target.held.length, 0, 'a request behind DISC was taken')
      socket.end()
      await server.ended(1)
      assert.deepEqual(server.outcomes, ['disconnected'])
    })
  }
})
