/** What keeps clients and logs inside their bounds: connection gate, log limiter, addresses. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { clearSocketPath, requireFree } from '../../src/server/addresses.ts'
import { ConnectionGate, createConnectionGate, peerOf } from '../../src/server/connection-gate.ts'
import { LogLimiter } from '../../src/server/log-limiter.ts'

describe('connection gate', () => {
  test('counts in total and per peer over all threads, and gives every place back', () => {
    const memory = createConnectionGate(5, 3)
    const threads = [new ConnectionGate(memory), new ConnectionGate(memory)] as const
    const connections = Array.from({ length: 8 }, () => ({}))
    const enter = (i: number, address: string | undefined) =>
      threads[i % 2 === 0 ? 0 : 1].enter(connections[i] ?? {}, address)
    assert.deepEqual(
      [0, 1, 2, 3].map((i) => enter(i, '10.0.0.1')),
      [true, true, true, false],
    )
    assert.deepEqual([enter(4, '10.0.0.2'), enter(5, undefined)], [true, true])
    assert.deepEqual([enter(6, undefined), enter(7, '10.0.0.3')], [false, false])
    threads[0].leave(connections[0] ?? {})
    threads[0].leave(connections[0] ?? {})
    threads[1].leave(connections[3] ?? {}) // was refused: holds nothing
    assert.equal(enter(6, '10.0.0.1'), true)
    for (const connection of connections) for (const thread of threads) thread.leave(connection)
    assert.ok(new Int32Array(memory.buffer).every((count) => count === 0))
    assert.equal(threads[0].size + threads[1].size, 0)
  })

  test('one peer is an IPv4 address or the /64 of an IPv6 address', () => {
    assert.equal(peerOf('::ffff:10.1.2.3'), '10.1.2.3')
    assert.equal(peerOf('10.1.2.3'), '10.1.2.3')
    assert.equal(peerOf('2001:db8:1:2:3:4:5:6'), peerOf('2001:0DB8:1:2::9'))
    assert.notEqual(peerOf('2001:db8:1:2::1'), peerOf('2001:db8:1:3::1'))
    assert.equal(peerOf('fe80::1%eth0'), peerOf('fe80::2'))
    assert.equal(peerOf('::1'), '0:0:0:0')
  })
})

test('log limiter: the first few of a kind, then one an interval with the number left out', () => {
  let now = 0
  const limiter = new LogLimiter({ burst: 2, intervalMs: 100, now: () => now })
  const admit = (kind: string) => limiter.admit(kind)
  assert.deepEqual([admit('a'), admit('a'), admit('a'), admit('a')], [{}, {}, undefined, undefined])
  assert.deepEqual(admit('b'), {})
  now = 99
  assert.equal(admit('a'), undefined)
  now = 100
  assert.deepEqual([admit('a'), admit('a'), admit('a')], [{ suppressed: 3 }, {}, undefined])
})

describe('addresses', () => {
  test('a port that others share is not free, whatever they allow', async () => {
    const server = createServer().listen({ host: '127.0.0.1', port: 0, reusePort: true })
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    await assert.rejects(requireFree({ host: '127.0.0.1', port }, '--nbd'), {
      code: 'ERR_SERVER_LISTEN',
      message: new RegExp(`127.0.0.1:${port} \\(--nbd\\)`),
    })
    server.close()
    await once(server, 'close')
    await requireFree({ host: '127.0.0.1', port }, '--nbd')
    await assert.rejects(requireFree({ host: '192.0.2.1', port: 1 }, '--http'), {
      code: 'ERR_SERVER_LISTEN',
    })
  })

  test('a socket that a killed server left is removed; files and answering sockets stay', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-sockets-'))
    try {
      const stale = join(folder, 'stale.sock')
      const child = spawn(process.execPath, [
        '-e',
        `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`,
      ])
      await once(child, 'exit')
      assert.ok((await stat(stale)).isSocket())
      await clearSocketPath(stale)
      await assert.rejects(stat(stale), { code: 'ENOENT' })
      await clearSocketPath(stale)

      const file = join(folder, 'file')
      await writeFile(file, 'precious')
      await assert.rejects(clearSocketPath(file), { code: 'ERR_SERVER_LISTEN' })
      assert.ok((await stat(file)).isFile())

      const live = join(folder, 'live.sock')
      const server = createServer().listen(live)
      await once(server, 'listening')
      await assert.rejects(clearSocketPath(live), { code: 'ERR_SERVER_LISTEN' })
      assert.ok((await stat(live)).isSocket())
      server.close()
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})
