/**
 * A whole server as a process: refusals to start, several workers, tags that move under an open connection,
 * restarts, and every way to stop.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { access, mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { NbdReader } from '../../src/cli/demo/nbd-reader.ts'
import type { ServerProcess } from '../e2e/server-process.ts'
import { run, startServerProcess } from '../e2e/server-process.ts'
import { parseSimple } from '../nbd/replies.ts'
import { request, WireClient } from '../nbd/wire.ts'
import { Random } from '../random.ts'
import { missing } from '../requires.ts'

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
const IMAGE_BYTES = 24 * 1024 * 1024
const ARGS = ['--cache-size', '128MiB', '--workers', '2']
const FAST_DRAIN = ['--drain-timeout', '1s']
/** 64 KiB each: 64 MiB. */
const ASKED_AHEAD = 1024
/** Of four such clients together: a server that forgot one of them would be seen. */
const MIN_IN_FLIGHT = 64
const NEVER = new AbortController().signal

let folder = ''
let data = ''
/** Contents of demo/a:1 and of another image. */
let bytes: Buffer = Buffer.alloc(0)
let others: Buffer = Buffer.alloc(0)

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'commonpage-lifecycle-'))
  data = join(folder, 'data')
  bytes = new Random(7).bytes(IMAGE_BYTES)
  others = new Random(8).bytes(1024 * 1024)
  await writeFile(join(folder, 'a'), bytes)
  await writeFile(join(folder, 'b'), others)
  await using server = await startServerProcess({ data, args: ARGS })
  await importImage(server, 'a', 'demo/a:1')
})
after(() => rm(folder, { recursive: true, force: true }))

async function importImage(server: ServerProcess, file: string, ref: string): Promise<void> {
  const imported = await server.run('import', 'erofs', join(folder, file), ref)
  assert.equal(imported.code, 0, imported.stderr)
}

function start(...args: string[]): Promise<ServerProcess> {
  return startServerProcess({ data, args: [...ARGS, ...args] })
}

function serve(...args: string[]) {
  const free = ['--http', '127.0.0.1:0', '--nbd', '127.0.0.1:0', ...ARGS]
  return run(process.execPath, [MAIN, 'serve', ...free, ...args])
}

function nbdAddress(server: ServerProcess) {
  return { host: server.nbdHost, port: server.nbdPort }
}

/** A GET whose answer nobody reads after its first bytes: a stalled client. */
async function stalled(server: ServerProcess): Promise<Socket> {
  const socket = connect(Number(new URL(server.http).port), '127.0.0.1')
  socket.on('error', () => undefined)
  socket.write('GET /v1/images/demo/a:1/-/raw HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(socket, 'readable')
  socket.read(100)
  socket.pause()
  return socket
}

async function logged(server: ServerProcess, event: string): Promise<void> {
  while (!server.logs.some((line) => line['event'] === event))
    await new Promise((resolve) => setTimeout(resolve, 5))
}

describe('starting', () => {
  test('taken ports, a locked store and a foreign socket are refused by code, whoever holds them', async () => {
    await using server = await start()
    const other = join(folder, 'other')
    for (const [flag, url] of [
      ['--http', server.http],
      ['--nbd', `http://${server.nbdHost}:${server.nbdPort}`],
    ] as const) {
      const { host, port } = new URL(url)
      for (const workers of ['1', '2']) {
        const refused = await serve('--data', other, '--workers', workers, flag, host)
        assert.equal(refused.code, 1)
        assert.match(refused.stderr, /error\[ERR_SERVER_LISTEN\]/)
        assert.ok(refused.stderr.includes(port) && refused.stderr.includes(flag), refused.stderr)
      }
    }
    const locked = await serve('--data', data)
    assert.match(locked.stderr, /error\[ERR_STORE_LOCKED\]/)
    assert.notEqual(locked.code, 0)
    const file = await serve('--data', other, '--nbd-socket', join(folder, 'a'))
    assert.match(file.stderr, /error\[ERR_SERVER_LISTEN\]/)
    assert.equal((await server.getJson<{ images: number }>('/v1/stats')).images, 1)
  })

  test(
    'a Unix socket beside TCP: replaced when stale, removed at the end',
    { skip: missing('nbdinfo') },
    async () => {
      const socket = join(folder, 'nbd.sock')
      {
        await using server = await start('--nbd-socket', socket)
        process.kill(server.pid, 'SIGKILL')
        await access(socket)
      }
      await using server = await start('--nbd-socket', socket)
      const size = await run('nbdinfo', ['--size', `nbd+unix:///demo%2Fa%3A1?socket=${socket}`])
      assert.equal(size.stdout.trim(), String(IMAGE_BYTES), size.stderr)
      assert.equal(await server.stop(), 0)
      await assert.rejects(access(socket), { code: 'ENOENT' })
    },
  )
})

describe('serving', () => {
  test('both workers take connections; the limit of a peer holds over both, and for each protocol', async () => {
    const limit = 40
    await using server = await start('--max-connections-per-peer', String(limit))
    const open = () => NbdReader.open(nbdAddress(server), 'demo/a:1', NEVER)
    const readers = await Promise.all(Array.from({ length: limit }, open))
    const { clients } = await server.getJson<{ clients: { id: string }[] }>('/v1/stats')
    assert.equal(clients.length, limit)
    assert.deepEqual(new Set(clients.map(({ id }) => id.split('-')[0])), new Set(['0', '1']))
    await assert.rejects(open())
    const pages = await Promise.all(readers.map((reader, i) => reader.read(i * 5000, 5000)))
    for (const [i, page] of pages.entries())
      assert.ok(page.equals(bytes.subarray(i * 5000, (i + 1) * 5000)))
    for (const reader of readers) await reader[Symbol.asyncDispose]()
    let again: NbdReader | undefined
    while (again === undefined) again = await open().catch(() => undefined) // places come back as ends arrive
    await again[Symbol.asyncDispose]()
    const refused = server.logs.filter((line) => line['event'] === 'nbd.refused')
    assert.ok(refused.length >= 1 && refused.length <= 10, `${refused.length} lines`)
  })

  test('a connection keeps its image when the tag moves and goes; a restart gives the same bytes', async () => {
    const own = join(folder, 'own')
    let digestName = ''
    {
      await using server = await startServerProcess({ data: own, args: ARGS })
      await importImage(server, 'b', 'demo/b:1')
      await importImage(server, 'a', 'demo/a:1')
      const { digest } = await server.getJson<{ digest: string }>('/v1/images/demo/b:1')
      digestName = `demo/b@${digest}`
      const old = await NbdReader.open(nbdAddress(server), 'demo/b:1', NEVER)
      const whole = () => old.read(0, others.length)
      const moved = await server.run('image', 'tag', 'demo/a:1', 'demo/b:1')
      assert.equal(moved.code, 0, moved.stderr)
      for (let i = 0; i < 8; i++) {
        await using now = await NbdReader.open(nbdAddress(server), 'demo/b:1', NEVER)
        assert.equal(now.size, IMAGE_BYTES, 'an open after the acknowledgement sees the new image')
      }
      assert.ok((await whole()).equals(others))
      const removed = await server.run('image', 'rm', 'demo/b:1', '--yes')
      assert.equal(removed.code, 0, removed.stderr)
      await assert.rejects(NbdReader.open(nbdAddress(server), 'demo/b:1', NEVER))
      assert.ok((await whole()).equals(others))
      await old[Symbol.asyncDispose]()
    }
    await using server = await startServerProcess({ data: own, args: ARGS })
    await using reader = await NbdReader.open(nbdAddress(server), digestName, NEVER)
    assert.ok((await reader.read(0, others.length)).equals(others))
    const raw = await fetch(`${server.http}/v1/images/demo/a:1/-/raw`)
    assert.ok(Buffer.from(await raw.arrayBuffer()).equals(bytes))
  })

  test(
    'names with a digest, and no others, may be opened by several connections',
    { skip: missing('nbdinfo') },
    async () => {
      await using server = await start('--default-export', 'demo/a:1')
      const info = async (name: string) => {
        const { stdout, stderr } = await run('nbdinfo', [server.nbdUri(name)])
        const found = (pattern: RegExp) => pattern.exec(stdout)?.[1] ?? assert.fail(stdout + stderr)
        return {
          size: Number(found(/export-size: (\d+)/)),
          multi: found(/can_multi_conn: (\w+)/) === 'true',
          canonical: found(/export="([^"]*)"/),
        }
      }
      const byTag = await info('demo/a:1')
      const { digest } = await server.getJson<{ digest: string }>('/v1/images/demo/a:1')
      const canonical = `demo/a@${digest}`
      assert.deepEqual(byTag, { size: IMAGE_BYTES, multi: false, canonical })
      assert.deepEqual(await info(''), byTag)
      assert.deepEqual(await info(canonical), { ...byTag, multi: true })
      assert.equal((await info(`${canonical}/-/dev/0`)).multi, true)
    },
  )
})

describe('stopping', () => {
  test('under load: every request that was read is answered whole, then FIN; exit code 0', async () => {
    await using server = await start()
    const length = 65_536
    const blocks = IMAGE_BYTES / length
    const offsetOf = (cookie: bigint): number => ((Number(cookie) * 7) % blocks) * length
    const asked = (cookie: bigint) => ({ offset: offsetOf(cookie), length })
    // More than sockets hold and more than the server reads ahead: each client leaves replies behind in the server,
    // and requests that it never reads.
    const requests = Buffer.concat(
      Array.from({ length: ASKED_AHEAD }, (_, i) =>
        request({ cookie: BigInt(i), ...asked(BigInt(i)) }),
      ),
    )
    const clients = await Promise.all(
      [0, 1, 2, 3].map(async () => {
        const socket = connect(nbdAddress(server))
        const client = await WireClient.over(socket)
        await client.go('demo/a:1')
        socket.pause()
        client.send(requests)
        return { socket, client, port: socket.localPort }
      }),
    )
    let inFlight = 0
    while (inFlight < MIN_IN_FLIGHT) {
      const metrics = await (await fetch(`${server.http}/metrics`)).text()
      inFlight = Number(
        /^commonpage_nbd_inflight (\d+)$/m.exec(metrics)?.[1] ?? assert.fail(metrics),
      )
    }
    const began = performance.now()
    const stopped = server.stop()
    await logged(server, 'server.draining')
    for (const { socket } of clients) socket.resume()
    const received = await Promise.all(clients.map(({ client }) => client.readToEnd()))
    assert.equal(await stopped, 0)
    assert.ok(performance.now() - began < 20_000)
    const closed = server.logs.filter((line) => line['event'] === 'nbd.closed')
    for (const [i, stream] of received.entries()) {
      const end = closed.find(({ peer }) => (peer as { port: number }).port === clients[i]?.port)
      assert.equal(end?.['outcome'], 'drained')
      const { answers, rest } = parseSimple(stream, asked)
      assert.equal(rest, 0, 'the last reply broke off')
      assert.equal(answers.length, end['requests'], 'requests that the server read')
      assert.ok(answers.length < ASKED_AHEAD, 'the server read on')
      for (const [n, answer] of answers.toSorted((a, b) => Number(a.cookie - b.cookie)).entries()) {
        assert.deepEqual([answer.cookie, answer.error], [BigInt(n), 0])
        const offset = offsetOf(answer.cookie)
        assert.ok(answer.data.equals(bytes.subarray(offset, offset + length)))
      }
    }
    assert.ok(server.logs.some((line) => line['event'] === 'server.stopped'))
    assert.ok(!server.logs.some((line) => Number(line['level']) >= 50))
  })

  test('HTTP: a reply under way is finished, and the kept-alive connection is closed behind it', async () => {
    await using server = await start()
    const socket = await stalled(server)
    const stopped = server.stop()
    await logged(server, 'server.draining')
    const began = performance.now()
    let got = 0
    socket.on('data', (chunk: Buffer) => (got += chunk.length))
    socket.resume()
    await once(socket, 'close')
    assert.equal(await stopped, 0)
    assert.ok(got > IMAGE_BYTES, `${got} bytes`)
    assert.ok(performance.now() - began < 10_000)
  })

  test('a client that stalls is cut when the time is over: exit code 1, and the log says what', async () => {
    await using server = await start(...FAST_DRAIN)
    const socket = await stalled(server)
    const began = performance.now()
    assert.equal(await server.stop(), 1)
    assert.ok(performance.now() - began < 15_000)
    socket.destroy()
    const cut = server.logs.find((line) => line['event'] === 'server.drain_cut')
    assert.match(String(cut?.['cut']), /1 HTTP/)
  })

  test('a second signal ends at once', async () => {
    await using server = await start()
    const socket = await stalled(server)
    const stopped = server.stop()
    await logged(server, 'server.draining')
    process.kill(server.pid, 'SIGTERM')
    assert.equal(await stopped, 143)
    socket.destroy()
  })

  test('an upload that stalls and an import that runs do not outlive the server', async () => {
    const own = join(folder, 'uploads')
    await using server = await startServerProcess({ data: own, args: [...ARGS, ...FAST_DRAIN] })
    const socket = connect(Number(new URL(server.http).port), '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write(
      'POST /v1/images/demo/x:1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n' +
        `Content-Length: ${IMAGE_BYTES}\r\n\r\n${'x'.repeat(1000)}`,
    )
    const importing = server.run('import', 'erofs', join(folder, 'a'), 'demo/a:1')
    let jobs: { state: string }[] = []
    while (!jobs.some(({ state }) => state === 'running')) {
      jobs = (await server.getJson<{ jobs: { state: string }[] }>('/v1/jobs')).jobs
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    assert.equal(await server.stop(), 1)
    assert.notEqual((await importing).code, 0)
    socket.destroy()
    await using again = await startServerProcess({ data: own, args: ARGS })
    assert.deepEqual((await again.getJson<{ images: unknown[] }>('/v1/images')).images, [])
    await importImage(again, 'a', 'demo/a:1')
  })
})
