/** The demo's NBD client against the project's own NBD server library and against servers that misbehave. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { test } from 'node:test'

import { NbdReader } from '../../src/cli/demo/nbd-reader.ts'

const SIZE = 300_000
const CONTENT = Buffer.from(Array.from({ length: SIZE }, (_, index) => (index * 7) % 251))
const NEVER = new AbortController().signal

/** A server that plays a script; bytes go out in pieces of `piece`, to split every message. */
async function scripted(
  piece: number,
  play: (socket: Socket, send: (bytes: Buffer) => Promise<void>) => Promise<void>,
) {
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    sockets.push(socket)
    socket.setNoDelay(true)
    socket.on('error', () => undefined)
    const send = async (bytes: Buffer): Promise<void> => {
      for (let at = 0; at < bytes.length; at += piece) {
        await new Promise((resolve) => socket.write(bytes.subarray(at, at + piece), resolve))
      }
    }
    play(socket, send).catch(() => socket.destroy())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  return {
    address: { host: '127.0.0.1', port },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

const GREETING = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])])

function optionReply(type: number, data: Buffer): Buffer {
  const header = Buffer.from('0003e889045565a9000000070000000000000000', 'hex')
  header.writeUInt32BE(type, 12)
  header.writeUInt32BE(data.length, 16)
  return Buffer.concat([header, data])
}

function infoExport(size: number): Buffer {
  const info = Buffer.alloc(12)
  info.writeBigUInt64BE(BigInt(size), 2)
  info.writeUInt16BE(3, 10)
  return optionReply(3, info)
}

async function exactly(socket: Socket, length: number): Promise<Buffer> {
  for (;;) {
    const bytes = socket.read(length) as Buffer | null
    if (bytes !== null) return bytes
    await once(socket, 'readable')
  }
}

async function serveReads(socket: Socket, send: (bytes: Buffer) => Promise<void>): Promise<void> {
  await send(GREETING)
  const option = await exactly(socket, 4 + 16 + 4 + 'demo/x:1'.length + 2)
  assert.equal(option.toString('latin1', 24, 32), 'demo/x:1')
  await send(Buffer.concat([infoExport(SIZE), optionReply(1, Buffer.alloc(0))]))
  for (;;) {
    const request = await exactly(socket, 28)
    if (request.readUInt16BE(6) === 2) break
    const offset = Number(request.readBigUInt64BE(16))
    const length = request.readUInt32BE(24)
    const failed = offset === 99
    const header = Buffer.from(`67446698${failed ? '00000005' : '00000000'}0000000000000000`, 'hex')
    await send(failed ? header : Buffer.concat([header, CONTENT.subarray(offset, offset + length)]))
  }
  socket.end()
}

for (const piece of [1, 7, 1 << 20]) {
  test(`reads whole and in parts, when bytes come ${piece} at a time`, async () => {
    await using server = await scripted(piece, serveReads)
    await using reader = await NbdReader.open(server.address, 'demo/x:1', NEVER)
    assert.equal(reader.size, SIZE)
    const length = piece === 1 ? 500 : 131_072
    assert.ok((await reader.read(1000, length)).equals(CONTENT.subarray(1000, 1000 + length)))
    assert.ok((await reader.read(SIZE - 10, 10)).equals(CONTENT.subarray(SIZE - 10)))
    await assert.rejects(reader.read(99, 1), { code: 'ERR_CLI_NBD' })
    assert.ok((await reader.read(0, 1)).equals(CONTENT.subarray(0, 1)), 'an error reply is no end')
  })
}

test('refusals, foreign servers and broken connections are errors', async () => {
  const scripts: ((socket: Socket, send: (bytes: Buffer) => Promise<void>) => Promise<void>)[] = [
    async (_socket, send) => send(Buffer.from('SSH-2.0-OpenSSH_9.2p1\r\n')),
    async (socket, send) => {
      await send(GREETING.subarray(0, 9))
      socket.destroy()
    },
    async (_socket, send) => {
      await send(GREETING)
      await send(optionReply(0x80000006, Buffer.from('no such export')))
    },
    async (_socket, send) => {
      await send(GREETING)
      await send(optionReply(1, Buffer.alloc(0)))
    },
    async (_socket, send) => {
      await send(GREETING)
      const endless = optionReply(3, Buffer.alloc(0))
      endless.writeUInt32BE(0xffffffff, 16)
      await send(endless)
    },
  ]
  for (const [index, script] of scripts.entries()) {
    await using server = await scripted(4096, script)
    await assert.rejects(
      NbdReader.open(server.address, 'demo/x:1', NEVER),
      (error: Error & { code?: string }) =>
        error.code === 'ERR_CLI_NBD' || error.code === 'ECONNRESET',
      `script ${index}`,
    )
  }
})

test('an interrupted reader rejects with the reason', async () => {
  await using server = await scripted(4096, (_socket, send) => send(GREETING))
  const stop = new AbortController()
  const opening = NbdReader.open(server.address, 'demo/x:1', stop.signal)
  const reason = new Error('stopped')
  stop.abort(reason)
  await assert.rejects(opening, reason)
})
