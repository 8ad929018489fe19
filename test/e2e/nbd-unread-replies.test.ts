/**
 * A client that sends 10,000 reads and reads nothing, against a whole server: what it costs in memory and pins,
 * judged by the kernel and the server's metrics, how others fare meanwhile, and (at full counts, because the
 * deadline is a minute) that it is dropped as a slow reader.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { evidence } from '../evidence.ts'
import { NBD_DEFAULT_LIMITS } from '../../src/nbd/index.ts'
import { numbered, request, simpleReply, WireClient } from '../nbd/wire.ts'
import type { ServerProcess } from './server-process.ts'
import { startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'
import { residentBytes } from '../resident-memory.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const MIB = 1024 * 1024
const IMAGE_BYTES = 48 * MIB
const CACHE_BYTES = 64 * MIB
const READS = 10_000
const READ_BYTES = 128 * 1024
const SLOW_READER_SECONDS = NBD_DEFAULT_LIMITS.slowReaderMs / 1000
/** Reads of a good client while the other one is stuck. */
const GOOD_READS = 400
/** Replies under way of one connection on the smallest cache, and frames that they reach into. */
const MAX_PINNED = 2 * MIB
/** Beyond those replies: garbage of the good client's reads, which the collector has not come to. */
const MAX_GROWTH = 64 * MIB

test(`${READS} reads that nobody reads: bounded, dropped, and no harm to others`, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-unread-'))
  try {
    const image = join(folder, 'image')
    const bytes = new Random(7).bytes(IMAGE_BYTES)
    await writeFile(image, bytes)
    await using server = await startServerProcess({ args: ['--cache-size', `${CACHE_BYTES}`] })
    const imported = await server.run('import', 'erofs', image, 'unread/image:1')
    assert.equal(imported.code, 0, imported.stderr)

    // Every page is in memory before the measurement: what grows then is not the cache.
    const good = await open(server)
    await readAll(good, bytes)
    const before = residentBytes(server.pid)

    const stuck = await open(server)
    stuck.stream.pause()
    stuck.stream.on('error', () => {})
    const length = READ_BYTES
    const offset = (i: number): number => (i * length) % IMAGE_BYTES
    stuck.stream.write(
      Buffer.concat(
        Array.from({ length: READS }, (_, i) =>
          request({ cookie: BigInt(i), offset: offset(i), length }),
        ),
      ),
    )
    let [growth, pinned, slowestMs] = [0, 0, 0]
    for (let i = 0; i < GOOD_READS; i++) {
      const at = (i * 7919 * 512) % (IMAGE_BYTES - length)
      const asked = performance.now()
      good.send(request({ cookie: 1n, offset: at, length }))
      const { error, data } = await good.simple(length)
      slowestMs = Math.max(slowestMs, performance.now() - asked)
      assert.equal(error, 0)
      assert.ok(data.equals(bytes.subarray(at, at + length)), `bytes at ${at}`)
      if (i % 20 !== 0) continue
      growth = Math.max(growth, residentBytes(server.pid) - before)
      pinned = Math.max(pinned, await metric(server, 'commonpage_cache_pinned_bytes'))
    }
    assert.ok(pinned > 0, 'the replies that wait are pinned')
    assert.ok(pinned <= MAX_PINNED, `${pinned} bytes are pinned for a client that reads nothing`)
    assert.ok(growth <= MAX_GROWTH, `the server grew by ${growth} bytes`)
    assert.equal(await slowReaders(server), 0)

    // The client itself does not notice: it reads nothing.
    if (FULL) await until(async () => (await slowReaders(server)) === 1, SLOW_READER_SECONDS + 30)
    else stuck.stream.destroy()
    await until(async () => (await metric(server, 'commonpage_cache_pinned_bytes')) === 0)
    await until(async () => (await metric(server, 'commonpage_nbd_connections{')) === 1)
    assert.equal(await slowReaders(server), FULL ? 1 : 0)
    stuck.stream.destroy()
    good.send(numbered(1, 4096))
    await good.expect(simpleReply(0n, 0, bytes.subarray(0, 4096)))
    good.stream.destroy()
    const figures = { reads: READS, read_bytes: length, slowest_other_ms: slowestMs.toFixed(1) }
    evidence('nbd-unread-replies', { ...figures, grown_bytes: growth, pinned_bytes: pinned })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

async function open(server: ServerProcess): Promise<WireClient> {
  const { nbdPort: port, nbdHost: host } = server
  const client = await WireClient.over(connect({ host, port, allowHalfOpen: true }))
  await client.go('unread/image:1')
  return client
}

async function readAll(client: WireClient, bytes: Buffer): Promise<void> {
  for (let offset = 0; offset < bytes.length; offset += MIB) {
    client.send(request({ cookie: 1n, offset, length: MIB }))
    await client.expect(simpleReply(1n, 0, bytes.subarray(offset, offset + MIB)))
  }
}

/** Sum of the series that start with these characters. */
async function metric(server: ServerProcess, series: string): Promise<number> {
  const text = await (await fetch(`${server.http}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line.startsWith(series))
  assert.ok(lines.length > 0, series)
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

function slowReaders(server: ServerProcess): Promise<number> {
  return metric(server, 'commonpage_nbd_connections_total{outcome="slow_reader"}')
}

async function until(holds: () => Promise<boolean>, seconds = 10): Promise<void> {
  for (let i = 0; i < seconds * 10; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`it did not come to pass in ${seconds} s`)
}
