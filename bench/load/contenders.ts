/**
 * Starts the servers that are compared, ours and the rivals, on free loopback ports, and tells what each
 * of them costs: CPU seconds and peak memory of its process (and children). All serve the same bytes.
 */
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { freePort } from '../../test/free-port.ts'
import { runOk, startServerProcess } from '../../test/e2e/server-process.ts'

const START_DEADLINE_MS = 20_000
/** USER_HZ: the unit of /proc/PID/stat on Linux. */
const TICKS_PER_SECOND = 100

export interface Contender extends AsyncDisposable {
  readonly name: string
  /** `nbd://…`, or `http://…` of the same bytes. */
  readonly url: string
  readonly pids: () => number[]
}

export async function commonpage(options: {
  readonly image: string
  readonly front: 'nbd' | 'http'
  readonly args?: readonly string[]
  readonly data?: string
  readonly nodeArgs?: readonly string[]
}): Promise<Contender> {
  const server = await startServerProcess({
    args: ['--cache-size', '1GiB', ...(options.args ?? [])],
    ...(options.data === undefined ? {} : { data: options.data }),
    ...(options.nodeArgs === undefined ? {} : { nodeArgs: options.nodeArgs }),
  })
  const imported = await server.run('import', 'erofs', options.image, 'bench/image:1', '--quiet')
  if (imported.code !== 0) throw new Error(`import failed: ${imported.stderr}`)
  return {
    name: 'commonpage',
    url:
      options.front === 'nbd'
        ? server.nbdUri('bench/image:1')
        : `${server.http}/v1/images/bench/image:1/-/raw`,
    pids: () => [server.pid],
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

export async function nbdkitFile(image: string): Promise<Contender> {
  const port = await freePort()
  return rival('nbdkit', port, `nbd://127.0.0.1:${port}/`, [
    'nbdkit',
    '-f',
    '-r',
    '-i',
    '127.0.0.1',
    '-p',
    String(port),
    'file',
    image,
  ])
}

/**
 * Ours and nbdkit's file plugin in turn, `rounds` times: each new, with nothing of its files in the kernel's page
 * cache, and ended before the next begins. Needs root.
 */
export async function* coldContenders(
  image: string,
  data: string,
  rounds: number,
): AsyncGenerator<Contender, void, void> {
  const starts = [() => commonpage({ image, front: 'nbd', data }), () => nbdkitFile(image)]
  for (let round = 0; round < rounds; round++) {
    for (const start of starts) {
      await using contender = await start()
      await runOk('sync', [])
      writeFileSync('/proc/sys/vm/drop_caches', '3\n')
      yield contender
    }
  }
}

/** The ceiling: no file behind it. */
export async function nbdkitMemory(sizeBytes: number): Promise<Contender> {
  const port = await freePort()
  const command = [
    'nbdkit',
    '-f',
    '-r',
    '-i',
    '127.0.0.1',
    '-p',
    String(port),
    'memory',
    String(sizeBytes),
  ]
  return rival('nbdkit-memory', port, `nbd://127.0.0.1:${port}/`, command)
}

export async function qemuNbd(image: string): Promise<Contender> {
  const port = await freePort()
  const command = [
    'qemu-nbd',
    '-r',
    '-t',
    '-f',
    'raw',
    '-e',
    '16',
    '-b',
    '127.0.0.1',
    '-p',
    String(port),
    image,
  ]
  return rival('qemu-nbd', port, `nbd://127.0.0.1:${port}/`, command)
}

export async function nginx(folder: string, file: string): Promise<Contender> {
  const port = await freePort()
  const config = join(folder, 'nginx.conf')
  // As root its workers would change to another user, who may not enter the folder.
  const user = process.getuid?.() === 0 ? 'user root; ' : ''
  writeFileSync(
    config,
    `${user}daemon off; worker_processes 2; pid ${folder}/nginx.pid; error_log ${folder}/nginx.err;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path ${folder}/b; proxy_temp_path ${folder}/p; fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
  open_file_cache max=100; server { listen 127.0.0.1:${port} reuseport; root ${folder}; } }`,
  )
  return rival('nginx', port, `http://127.0.0.1:${port}/${file}`, [
    'nginx',
    '-c',
    config,
    '-p',
    folder,
  ])
}

async function rival(
  name: string,
  port: number,
  url: string,
  command: readonly string[],
): Promise<Contender> {
  const [program = '', ...args] = command
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr
    .setEncoding('utf8')
    .on('data', (text: string) => (stderr = (stderr + text).slice(-4000)))
  try {
    await listening(port, child)
  } catch (error) {
    child.kill('SIGKILL')
    throw new Error(`${name} did not start: ${stderr}`, { cause: error })
  }
  return {
    name,
    url,
    pids: () => withChildren(child.pid ?? 0),
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null) return
      const exited = once(child, 'exit')
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 3000)
      await exited
      clearTimeout(timer)
    },
  }
}

async function listening(port: number, child: ChildProcess): Promise<void> {
  for (const deadline = Date.now() + START_DEADLINE_MS; Date.now() < deadline; await delay(20)) {
    if (child.exitCode !== null) throw new Error(`ended with ${child.exitCode}`)
    const socket = connect(port, '127.0.0.1')
    const up = await once(socket, 'connect').then(
      () => true,
      () => false,
    )
    socket.destroy()
    if (up) return
  }
  throw new Error('not listening in time')
}

function withChildren(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
    return [
      pid,
      ...children
        .split(' ')
        .filter((text) => text !== '')
        .map(Number),
    ]
  } catch {
    return [pid]
  }
}

/** User and system seconds of the processes so far. */
export function cpuSeconds(contender: Contender): number {
  return sum(contender.pids(), (pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
  })
}

/** Peak resident bytes (VmHWM) of the processes. */
export function peakBytes(contender: Contender): number {
  return sum(contender.pids(), (pid) => {
    const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return Number(match?.[1] ?? 0) * 1024
  })
}

function sum(pids: readonly number[], measure: (pid: number) => number): number {
  let total = 0
  for (const pid of pids) {
    try {
      total += measure(pid)
    } catch {
      continue // ended meanwhile
    }
  }
  return total
}
