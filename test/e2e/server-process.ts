/**
 * Starts `commonpage serve` as a process of its own on free ports of the loopback interface, as the launcher
 * would, and ends it with SIGTERM. Tests that look at /proc need the server apart from themselves.
 */
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
/** What the launcher sets: see there. */
const ENVIRONMENT = {
  NODE_COMPILE_CACHE: fileURLToPath(
    new URL('../../node_modules/.cache/commonpage', import.meta.url),
  ),
  UV_THREADPOOL_SIZE: '8',
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '16384',
  MALLOC_TRIM_THRESHOLD_: '131072',
}
const START_DEADLINE_MS = 30_000
const STOP_DEADLINE_MS = 40_000

export interface ServerProcess extends AsyncDisposable {
  readonly pid: number
  /** `http://127.0.0.1:PORT` */
  readonly http: string
  readonly nbdHost: string
  readonly nbdPort: number
  readonly data: string
  /** Every log line so far, parsed. */
  readonly logs: readonly Record<string, unknown>[]
  /** An `nbd://` URI of an export. */
  nbdUri(exportName: string): string
  /** Runs the command line against this server. */
  run(...args: string[]): Promise<CommandResult>
  /** GET of a JSON document. */
  getJson<T>(path: string): Promise<T>
  /** Sends SIGTERM and waits. @returns exit code */
  stop(): Promise<number | null>
}

export interface CommandResult {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface ServerProcessOptions {
  readonly args?: readonly string[]
  /** Keep this data directory (a restart); default: a new temporary one, removed at the end. */
  readonly data?: string
  readonly env?: Readonly<Record<string, string>>
  /** Options of Node itself. */
  readonly nodeArgs?: readonly string[]
  /** In a process group of its own, which a test can kill as a whole: the server and its imports. */
  readonly ownGroup?: boolean
}

export async function startServerProcess(
  options: ServerProcessOptions = {},
): Promise<ServerProcess> {
  const data = options.data ?? (await mkdtemp(join(tmpdir(), 'commonpage-e2e-')))
  const args = [
    'serve',
    '--data',
    data,
    '--http',
    '127.0.0.1:0',
    '--nbd',
    '127.0.0.1:0',
    '--log-format',
    'json',
  ]
  const child = spawn(
    process.execPath,
    [...(options.nodeArgs ?? []), MAIN, ...args, ...(options.args ?? [])],
    {
      env: { ...process.env, ...ENVIRONMENT, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: options.ownGroup === true,
    },
  )
  const logs: Record<string, unknown>[] = []
  let stderr = ''
  child.stderr
    .setEncoding('utf8')
    .on('data', (text: string) => (stderr = (stderr + text).slice(-20_000)))
  const ready = Promise.withResolvers<{ http: string; nbd: string }>()
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (!line.startsWith('{')) return
    const record = JSON.parse(line) as Record<string, unknown>
    logs.push(record)
    if (record['event'] === 'server.ready')
      ready.resolve({ http: String(record['http']), nbd: String(record['nbd']) })
  })
  child.once('exit', (code, signal) => {
    ready.reject(
      new Error(
        `serve ended with ${signal ?? code} before it was ready:\n${stderr}\n${JSON.stringify(logs.slice(-5))}`,
      ),
    )
  })
  const deadline = setTimeout(
    () => ready.reject(new Error(`serve was not ready in time:\n${stderr}`)),
    START_DEADLINE_MS,
  )
  const urls = await ready.promise
    .finally(() => clearTimeout(deadline))
    .catch(async (error: unknown) => {
      child.kill('SIGKILL')
      if (options.data === undefined) await rm(data, { recursive: true, force: true })
      throw error
    })
  const nbd = new URL(urls.nbd)
  const http = urls.http.replace(/\/$/, '')
  return {
    pid: child.pid ?? 0,
    http,
    nbdHost: nbd.hostname,
    nbdPort: Number(nbd.port),
    data,
    logs,
    nbdUri: (name) => `nbd://${nbd.host}/${name.split('/').map(encodeURIComponent).join('/')}`,
    run: (...command) => run(process.execPath, [MAIN, ...command, '--server', http]),
    getJson: async (path) => (await fetch(http + path)).json() as never,
    stop: () => stop(child),
    async [Symbol.asyncDispose]() {
      await stop(child)
      if (options.data === undefined) await rm(data, { recursive: true, force: true })
    },
  }
}

async function stop(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS)
  await exited
  clearTimeout(timer)
  return child.exitCode
}

/** Runs a program to its end, with nothing to read. */
export async function run(program: string, args: readonly string[]): Promise<CommandResult> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk))
  const [code] = (await once(child, 'close')) as [number | null]
  return {
    code,
    stdout: Buffer.concat(out).toString('utf8'),
    stderr: Buffer.concat(err).toString('utf8'),
  }
}

/** As `run`, and fails the test with the program's words unless it ends with 0. */
export async function runOk(program: string, args: readonly string[]): Promise<string> {
  const result = await run(program, args)
  if (result.code !== 0) {
    throw new Error(
      `${program} ${args.join(' ')} ended with ${result.code}:\n${result.stderr}${result.stdout}`.slice(
        0,
        4000,
      ),
    )
  }
  return result.stdout
}
