/**
 * Clients that reconnect see nothing of a restart of the server, in order (SIGTERM) or not (SIGKILL): QEMU's NBD
 * client with `reconnect-delay`, and nbdkit's nbd plugin with `retry`. They read in a loop all the while; no
 * read fails, and every byte is right.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'

import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import type { ServerProcess } from './server-process.ts'
import { run, startServerProcess } from './server-process.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const RESTARTS = FULL ? 5 : 1
const IMAGE_BYTES = 8 * 1024 * 1024
/** Each 64 KiB of the image is filled with its own byte, so that qemu-io can tell what must come. */
const PATTERN_BYTES = 65_536
/** Reads that have to succeed before a restart and behind it. */
const READS = 50
/** Seconds that clients wait for the server: far longer than a restart takes. */
const PATIENCE_S = 60

let folder = ''
let digestName = ''

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'commonpage-reconnect-'))
  const image = Buffer.alloc(IMAGE_BYTES)
  for (let at = 0; at < IMAGE_BYTES; at += PATTERN_BYTES) {
    image.fill(patternAt(at), at, at + PATTERN_BYTES)
  }
  await writeFile(join(folder, 'image'), image)
  await using server = await startServerProcess({ data: join(folder, 'data') })
  const imported = await server.run('import', 'erofs', join(folder, 'image'), 're/image:1')
  assert.equal(imported.code, 0, imported.stderr)
  const { digest } = await server.getJson<{ digest: string }>('/v1/images/re/image:1')
  digestName = `re/image@${digest}`
})
after(() => rm(folder, { recursive: true, force: true }))

function patternAt(offset: number): number {
  return 1 + ((offset / PATTERN_BYTES) % 250)
}

/** The first start takes free ports, the others the same again. */
function start(previous?: ServerProcess): Promise<ServerProcess> {
  const data = join(folder, 'data')
  if (previous === undefined) return startServerProcess({ data })
  const ports = ['--http', new URL(previous.http).host]
  ports.push('--nbd', `${previous.nbdHost}:${previous.nbdPort}`)
  return startServerProcess({ data, args: ports })
}

async function end(server: ServerProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (signal === 'SIGTERM') {
    assert.equal(await server.stop(), 0)
  } else {
    process.kill(server.pid, 'SIGKILL')
    await server.stop()
  }
}

/** A qemu-io that reads on and on: each read is checked against the pattern, and answered with a line. */
class Reader implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #wrong: string[] = []
  readonly #exited: Promise<unknown>
  #reads = 0
  #asked = 0
  #wake: (() => void) | undefined

  constructor(image: readonly string[]) {
    const child = spawn('qemu-io', ['-r', ...image], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child = child
    this.#exited = once(child, 'exit')
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => this.#line(line))
    }
    child.stdin.on('error', () => undefined)
    this.#ask()
  }

  get reads(): number {
    return this.#reads
  }

  /** Reads that failed, came short or brought other bytes. */
  get errors(): number {
    return this.#wrong.length
  }

  /** Waits for so many further reads. */
  async more(count: number): Promise<void> {
    const target = this.#reads + count
    while (this.#reads < target) {
      const moved = new Promise<void>((resolve) => (this.#wake = resolve))
      await Promise.race([moved, this.#exited])
      if (this.#wrong.length > 0 || this.#child.exitCode !== null) break
    }
    assert.deepEqual(this.#wrong, [])
    assert.ok(this.#reads >= target, `qemu-io ended after ${this.#reads} reads`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin?.end('quit\n')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    await this.#exited
    clearTimeout(timer)
  }

  #line(line: string): void {
    const [, got, wanted] = /read (\d+)\/(\d+) bytes/.exec(line) ?? []
    if (got !== undefined && got === wanted) {
      this.#reads++
      this.#ask()
    } else if (got !== undefined || /Pattern verification failed|error|failed/i.test(line)) {
      this.#wrong.push(line)
    }
    this.#wake?.()
  }

  #ask(): void {
    const at = (this.#asked++ % (IMAGE_BYTES / PATTERN_BYTES)) * PATTERN_BYTES
    this.#child.stdin?.write(`read -P ${patternAt(at)} ${at} ${PATTERN_BYTES}\n`)
  }
}

/** Reads before, through and behind each restart. */
async function readThroughRestarts(
  first: ServerProcess,
  reader: Reader,
  signal: 'SIGTERM' | 'SIGKILL',
  client: string,
): Promise<ServerProcess> {
  let server = first
  for (let i = 0; i < RESTARTS; i++) {
    await reader.more(READS)
    await end(server, signal)
    server = await start(server)
    await reader.more(READS)
  }
  evidence('reconnect', {
    client,
    signal,
    restarts: RESTARTS,
    reads: reader.reads,
    errors: reader.errors,
  })
  return server
}

describe('a restart of the server under clients that reconnect', () => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`QEMU with reconnect-delay, ${signal}`, { skip: missing('qemu-io') }, async () => {
      let server = await start()
      try {
        const options = [
          'driver=nbd',
          'server.type=inet',
          `server.host=${server.nbdHost}`,
          `server.port=${server.nbdPort}`,
          `export=${digestName}`,
          `reconnect-delay=${PATIENCE_S}`,
        ]
        await using reader = new Reader(['--image-opts', options.join(',')])
        server = await readThroughRestarts(server, reader, signal, 'qemu')
      } finally {
        await server.stop()
      }
    })

    test(
      `nbdkit's nbd plugin with retry, ${signal}`,
      { skip: missing('qemu-io', 'nbdkit', 'nbdcopy', 'nbdinfo') },
      async () => {
        let server = await start()
        try {
          await using nbdkit = await startNbdkit(server, join(folder, `nbdkit-${signal}.sock`))
          {
            await using reader = new Reader(['-f', 'raw', nbdkit.uri])
            server = await readThroughRestarts(server, reader, signal, 'nbdkit')
          }
          const copy = join(folder, `copy-${signal}`)
          const copied = await run('nbdcopy', [nbdkit.uri, copy])
          assert.equal(copied.code, 0, copied.stderr)
          const same = await run('cmp', [copy, join(folder, 'image')])
          assert.equal(same.code, 0, same.stdout + same.stderr)
        } finally {
          await server.stop()
        }
      },
    )
  }
})

/** The plugin's own retry is for opening; the filter opens it anew when a read has failed. */
async function startNbdkit(server: ServerProcess, socket: string) {
  const args = ['-f', '-r', '-U', socket, '--filter=retry', 'nbd']
  args.push(`hostname=${server.nbdHost}`, `port=${server.nbdPort}`, `export=${digestName}`)
  args.push(`retry=${PATIENCE_S}`, `retries=${PATIENCE_S}`, 'retry-delay=1', 'retry-exponential=no')
  const child = spawn('nbdkit', args, { stdio: 'ignore' })
  const ended = once(child, 'exit')
  const uri = `nbd+unix:///?socket=${socket}`
  while ((await run('nbdinfo', ['--size', uri])).code !== 0) {
    assert.equal(child.exitCode, null, 'nbdkit did not start')
  }
  return {
    uri,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  }
}

test(
  'SIGTERM under fio: the server finishes what is in flight and exits in time',
  {
    skip: missing('fio'),
  },
  async () => {
    await using server = await start()
    const load = ['--name=load', '--ioengine=nbd', `--uri=${server.nbdUri(digestName)}`]
    load.push('--rw=randread', '--bs=64k', '--iodepth=16', '--numjobs=4', '--thread')
    load.push('--time_based', '--runtime=60', `--size=${IMAGE_BYTES}`)
    const fio = spawn('fio', load, { stdio: 'ignore' })
    const ended = once(fio, 'exit')
    try {
      for (;;) {
        const metrics = await (await fetch(`${server.http}/metrics`)).text()
        const served = Number(/^commonpage_nbd_read_bytes_total (\d+)/m.exec(metrics)?.[1] ?? 0)
        if (served > 4 * IMAGE_BYTES) break
        assert.equal(fio.exitCode, null, 'fio ended before the server')
      }
      const began = performance.now()
      assert.equal(await server.stop(), 0)
      const seconds = (performance.now() - began) / 1000
      evidence('sigterm-under-fio', { jobs: 4, depth: 16, seconds: seconds.toFixed(2), code: 0 })
      assert.ok(seconds < 30, `${seconds} s`)
      const drained = server.logs.filter((line) => line['outcome'] === 'drained')
      assert.ok(drained.length >= 4, `${drained.length} connections were drained`)
      assert.ok(!server.logs.some((line) => Number(line['level']) >= 50))
    } finally {
      fio.kill('SIGKILL')
      await ended
    }
  },
)
