/** What a server needs of this machine: a Node, ports, file handles, memory, a data directory with space. */
import { mkdir, mkdtemp, readFile, rm, rmdir, stat, statfs, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { dirname, join, resolve } from 'node:path'

import { formatSize, GIB } from '../../core/index.ts'
import { readHostFacts } from '../../server/config.ts'
import type { ListenAddress, ServerConfig } from '../../server/config.ts'
import { listenRefusal } from '../ports.ts'
import type { Finding } from './finding.ts'
import { fail, ok, warn } from './finding.ts'

const NEEDED_NODE_MAJOR = 24
/** A connection costs one handle, an open blob one; below this a fleet of clients runs into the limit. */
const COMFORTABLE_FILES = 4096
/** An import stages the whole image before it publishes. */
const COMFORTABLE_SPACE_BYTES = 2 * GIB
/** Whoever holds the port of this machine answers in this time, or is something else. */
const PROBE_TIMEOUT_MS = 1000
/** Beyond the cache: heaps, connections, maps and the import process. */
const CACHE_SHARE_OF_MEMORY = 0.7

export async function checkServer(config: ServerConfig): Promise<Finding[]> {
  return [
    checkNode(process.versions.node),
    await checkPort('http port', config.http, answersAsCommonpage),
    await checkPort('nbd port', config.nbd, greetsAsNbd),
    checkOpenFiles(await readOpenFileLimit()),
    await checkMemory(config),
    ...(await checkData(config.data)),
  ]
}

function checkNode(version: string): Finding {
  const major = Number(version.split('.')[0])
  return major >= NEEDED_NODE_MAJOR
    ? ok('node', version)
    : fail(
        'node',
        `${version}, ${NEEDED_NODE_MAJOR} or later is needed`,
        'install a current Node.js',
      )
}

export async function checkPort(
  name: string,
  address: ListenAddress,
  isOurs: (address: ListenAddress) => Promise<boolean>,
): Promise<Finding> {
  const shown = `${address.host}:${address.port}`
  if (address.port === 0) return ok(name, `${address.host}, any free port`)
  const code = await listenRefusal(address)
  switch (code) {
    case undefined:
      return ok(name, `${shown} is free`)
    case 'EADDRINUSE':
      return (await isOurs(address))
        ? ok(name, `${shown} is served by a running server of this kind`)
        : fail(
            name,
            `${shown} is taken by another program`,
            `find it with \`ss -ltnp 'sport = :${address.port}'\`, or choose another port`,
          )
    case 'EACCES':
      return fail(name, `${shown} needs privileges`, 'choose a port from 1024 on')
    case 'EADDRNOTAVAIL':
      return fail(name, `${address.host} is no address of this machine`, 'see `ip address`')
    default:
      return fail(name, `${shown}: ${code}`, 'choose another address')
  }
}

/** NBD proto, "Newstyle negotiation": the server speaks first. */
function greetsAsNbd(address: ListenAddress): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ ...address, timeout: PROBE_TIMEOUT_MS })
    const settle = (greets: boolean): void => {
      socket.destroy()
      done(greets)
    }
    socket.once('data', (bytes) => settle(bytes.toString('latin1').startsWith('NBDMAGIC')))
    socket.once('timeout', () => settle(false))
    socket.once('error', () => settle(false))
    socket.once('close', () => settle(false))
  })
}

async function answersAsCommonpage(address: ListenAddress): Promise<boolean> {
  try {
    const host = address.host.includes(':') ? `[${address.host}]` : address.host
    const response = await fetch(`http://${host}:${address.port}/v1/stats`, {
      signal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
    })
    const body = (await response.json()) as { cache?: unknown }
    return response.ok && body.cache !== undefined
  } catch {
    return false
  }
}

function checkOpenFiles(limit: number | undefined): Finding {
  if (limit === undefined) {
    return warn('open files', 'the limit is not known here', 'check `ulimit -n`')
  }
  if (limit >= COMFORTABLE_FILES) return ok('open files', `up to ${limit}`)
  return warn(
    'open files',
    `at most ${limit}: each client and each open blob takes one`,
    `\`ulimit -n ${COMFORTABLE_FILES * 16}\`, or LimitNOFILE= in the systemd unit`,
  )
}

async function readOpenFileLimit(): Promise<number | undefined> {
  try {
    const limits = await readFile('/proc/self/limits', 'utf8')
    const soft = /^Max open files\s+(\d+|unlimited)/m.exec(limits)?.[1]
    return soft === 'unlimited'
      ? Number.MAX_SAFE_INTEGER
      : soft === undefined
        ? undefined
        : Number(soft)
  } catch {
    return undefined
  }
}

async function checkMemory(config: ServerConfig): Promise<Finding> {
  const facts = await readHostFacts()
  const limit = facts.cgroupLimitBytes ?? facts.memoryBytes
  const name = facts.cgroupLimitBytes === undefined ? 'memory' : 'the cgroup limit'
  const detail = `cache ${formatSize(config.cacheSize)} of ${formatSize(limit)} (${name})`
  if (config.cacheSize <= limit * CACHE_SHARE_OF_MEMORY) return ok('memory', detail)
  return warn(
    'memory',
    `${detail} leaves too little for the rest`,
    `--cache-size ${Math.floor((limit * 0.6) / 1024 ** 2)}MiB, or leave it out`,
  )
}

async function checkData(data: string): Promise<Finding[]> {
  const path = resolve(data)
  const existing = await nearestExisting(path)
  if (existing !== path) {
    const writable = await canWrite(existing)
    return [
      writable
        ? ok('data directory', `${path} will be made`)
        : fail('data directory', `${existing} is not writable`, 'choose another --data DIR'),
      await checkSpace(existing),
    ]
  }
  if (!(await stat(path)).isDirectory()) {
    return [fail('data directory', `${path} is no directory`, 'choose another --data DIR')]
  }
  const probe = join(path, `.doctor-${process.pid}`)
  try {
    await mkdir(probe)
    await writeFile(join(probe, 'probe'), 'x')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOSPC') {
      return [fail('data directory', `no space left to write to ${path}`, 'free some space')]
    }
    const why = error instanceof Error ? error.message : String(error)
    return [fail('data directory', why, `let this user write to ${path}`)]
  } finally {
    await rm(probe, { recursive: true, force: true }).catch(() => undefined)
  }
  return [ok('data directory', `${path} is writable`), await checkSpace(path)]
}

async function checkSpace(path: string): Promise<Finding> {
  const status = await statfs(path)
  const free = status.bavail * status.bsize
  const detail = `${formatSize(free)} free`
  if (free >= COMFORTABLE_SPACE_BYTES) return ok('disk space', detail)
  return warn('disk space', `${detail}: an import needs the size of the image`, 'free some space')
}

async function nearestExisting(path: string): Promise<string> {
  for (let candidate = path; ; candidate = dirname(candidate)) {
    try {
      await stat(candidate)
      return candidate
    } catch {
      if (candidate === dirname(candidate)) return candidate
    }
  }
}

/** Permission bits say too little: root may write to /proc, where no folder can be made. */
async function canWrite(folder: string): Promise<boolean> {
  try {
    await rmdir(await mkdtemp(join(folder, '.doctor-')))
    return true
  } catch {
    return false
  }
}
