/**
 * From settings to the configuration that the server runs with: everything that is automatic becomes a
 * number, and settings that contradict each other or the machine are refused here, in one step. Pure: what
 * it needs to know of the machine is passed in (host-facts.ts).
 */
import { AppError, formatSize, GIB, KIB, MIB, parseRef } from '../../core/index.ts'
import type { HostFacts } from './host-facts.ts'

export interface ListenAddress {
  readonly host: string
  /** 0: any free port. */
  readonly port: number
}

/** What the server runs with. Sizes in bytes. */
export interface ServerConfig {
  readonly data: string
  readonly http: ListenAddress
  /** Names under which HTTP may be asked besides addresses and localhost; undefined: every name. */
  readonly httpAllowedHosts?: readonly string[]
  readonly nbd: ListenAddress
  readonly nbdSocket?: string
  readonly defaultExport?: string
  readonly cacheSize: number
  /** How the size of the cache was chosen, for people. */
  readonly cacheSizeReason: string
  readonly frameSize: number
  readonly workers: number
  readonly readahead: boolean
  /** Of each protocol, over all workers. */
  readonly maxConnections: number
  readonly maxConnectionsPerPeer: number
  readonly drainTimeoutMs: number
  readonly insecure: boolean
  readonly allowTinyCache: boolean
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'
  readonly logFormat: 'auto' | 'json' | 'pretty'
}

/** Settings after parsing: sizes are bytes, addresses are split, `auto` is undefined. */
export interface ParsedSettings {
  readonly data: string
  readonly 'http.listen': ListenAddress
  readonly 'http.allowedHosts': readonly string[] | undefined
  readonly 'nbd.listen': ListenAddress
  readonly 'nbd.socket': string | undefined
  readonly 'nbd.defaultExport': string | undefined
  readonly 'cache.size': number | undefined
  readonly 'cache.frameSize': number
  readonly 'cache.readahead': boolean
  readonly 'cache.allowTiny': boolean
  readonly workers: number | undefined
  readonly 'connections.max': number
  readonly 'connections.maxPerPeer': number
  /** Milliseconds. */
  readonly drainTimeout: number
  readonly insecure: boolean
  readonly 'log.level': ServerConfig['logLevel']
  readonly 'log.format': ServerConfig['logFormat']
}

/** Below this, pin budgets and readahead of a handful of clients would fight for the frames. */
export const MIN_CACHE_BYTES = 64 * MIB
/** The store keeps a digest per 16 KiB, and one fill of more than 64 KiB costs cold reads more than it saves. */
const FRAME_SIZES: readonly number[] = [16 * KIB, 32 * KIB, 64 * KIB]
/** More of a limit than this is not taken, however large it is: the machine's file cache lives in it too. */
const CGROUP_SHARE = 0.6
const MEMORY_SHARE = 0.25
const AUTO_CACHE_LIMIT = GIB
/** Each worker is a thread with its own heap; no machine that we know of gains from more. */
const MAX_WORKERS = 256
/** More than these have to be asked for: each takes memory, and eight fill the networks that we know of. */
const MAX_AUTO_WORKERS = 8
/** docs/guide/monitor.md, "How much memory": maps and buffers grow with the cache. */
const CACHE_OVERHEAD = 1.25
const BASE_BYTES = 250 * MIB
/** Idle, as measured: 195 MiB with 1 worker, 352 with 4, 960 with 15. */
const WORKER_BYTES = 64 * MIB
/** One import under way, in the same control group. */
const IMPORT_BYTES = 200 * MIB
/** sockaddr_un: sun_path is 108 bytes with the final NUL. */
const MAX_SOCKET_PATH_BYTES = 107

/** @throws ERR_CONFIG_INVALID, ERR_CONFIG_INSECURE */
export function deriveConfig(settings: ParsedSettings, host: HostFacts): ServerConfig {
  const http = settings['http.listen']
  const nbd = settings['nbd.listen']
  if (http.port !== 0 && http.port === nbd.port && overlap(http.host, nbd.host)) {
    throw invalid(
      `http.listen and nbd.listen both want port ${http.port}`,
      'give them different ports',
    )
  }
  if (!settings.insecure) {
    refuseExposed('http.listen', http)
    refuseExposed('nbd.listen', nbd)
  }
  const frameSize = settings['cache.frameSize']
  if (!FRAME_SIZES.includes(frameSize)) {
    throw invalid(
      `cache.frameSize is ${formatSize(frameSize)}, expected 16 KiB, 32 KiB or 64 KiB`,
      'leave it out to take the measured default',
    )
  }
  const socket = settings['nbd.socket']
  if (socket !== undefined && Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES) {
    throw invalid(
      `nbd.socket is ${Buffer.byteLength(socket)} bytes long, at most ${MAX_SOCKET_PATH_BYTES} fit a socket address`,
      'choose a shorter path, for example below /run',
    )
  }
  const workers = settings.workers ?? automaticWorkers(host)
  if (workers > MAX_WORKERS) {
    throw invalid(`workers is ${workers}, at most ${MAX_WORKERS} are possible`, 'leave it out')
  }
  const defaultExport = settings['nbd.defaultExport']
  if (defaultExport !== undefined && !defaultExport.includes('/-/')) parseRef(defaultExport)
  const cache = cacheSize(settings, host, workers)
  // Other machines ask for this one by names that it need not know; on loopback a strange name is an attack.
  const allowedHosts = settings['http.allowedHosts'] ?? (isLoopback(http.host) ? [] : undefined)
  return {
    data: settings.data,
    http,
    ...(allowedHosts === undefined ? {} : { httpAllowedHosts: allowedHosts }),
    nbd,
    ...(socket === undefined ? {} : { nbdSocket: socket }),
    ...(defaultExport === undefined ? {} : { defaultExport }),
    cacheSize: cache.bytes,
    cacheSizeReason: cache.reason,
    frameSize,
    workers,
    readahead: settings['cache.readahead'],
    maxConnections: settings['connections.max'],
    maxConnectionsPerPeer: settings['connections.maxPerPeer'],
    drainTimeoutMs: settings.drainTimeout,
    insecure: settings.insecure,
    allowTinyCache: settings['cache.allowTiny'],
    logLevel: settings['log.level'],
    logFormat: settings['log.format'],
  }
}

/** As many as leave room for the smallest cache. */
function automaticWorkers(host: HostFacts): number {
  const beside = roomBeside(host, 1) - MIN_CACHE_BYTES * CACHE_OVERHEAD
  const fitting = 1 + Math.floor(beside / WORKER_BYTES)
  return Math.max(1, Math.min(host.cores - 1, MAX_AUTO_WORKERS, fitting))
}

/** What so many workers and an import leave for the cache and what grows with it. */
function roomBeside(host: HostFacts, workers: number): number {
  return memoryLimit(host).bytes - BASE_BYTES - IMPORT_BYTES - (workers - 1) * WORKER_BYTES
}

function cacheSize(
  settings: ParsedSettings,
  host: HostFacts,
  workers: number,
): { bytes: number; reason: string } {
  const chosen = settings['cache.size']
  if (chosen === undefined) return automaticCacheSize(host, workers)
  if (chosen < MIN_CACHE_BYTES && !settings['cache.allowTiny']) {
    throw invalid(
      `cache.size is ${formatSize(chosen)}, the minimum is ${formatSize(MIN_CACHE_BYTES)}`,
      'for tests, --allow-tiny-cache accepts less',
    )
  }
  const limit = memoryLimit(host)
  if (chosen > limit.bytes) {
    throw invalid(
      `cache.size is ${formatSize(chosen)}, more than ${limit.name} of ${formatSize(limit.bytes)}`,
      'choose at most 60 % of it, or auto',
    )
  }
  return { bytes: chosen, reason: 'as configured' }
}

function automaticCacheSize(host: HostFacts, workers: number): { bytes: number; reason: string } {
  const limit = memoryLimit(host)
  const fromGroup = limit.name === 'the cgroup limit'
  const wanted = fromGroup
    ? limit.bytes * CGROUP_SHARE
    : Math.min(AUTO_CACHE_LIMIT, limit.bytes * MEMORY_SHARE)
  const room = roomBeside(host, workers) / CACHE_OVERHEAD
  const bytes = Math.max(MIN_CACHE_BYTES, Math.floor(Math.min(wanted, room) / MIB) * MIB)
  if (room < wanted) {
    const beside = `${workers} ${workers === 1 ? 'worker' : 'workers'} and an import`
    return {
      bytes,
      reason: `auto: beside ${beside} in ${limit.name} of ${formatSize(limit.bytes)}`,
    }
  }
  const reason = fromGroup
    ? `auto: 60 % of the cgroup limit of ${formatSize(limit.bytes)}`
    : `auto: ${formatSize(limit.bytes)} of memory`
  return { bytes, reason }
}

function memoryLimit(host: HostFacts): { bytes: number; name: string } {
  if (host.cgroupLimitBytes !== undefined && host.cgroupLimitBytes < host.memoryBytes) {
    return { bytes: host.cgroupLimitBytes, name: 'the cgroup limit' }
  }
  return { bytes: host.memoryBytes, name: 'the memory' }
}

function refuseExposed(path: string, address: ListenAddress): void {
  if (isLoopback(address.host)) return
  throw new AppError(
    'ERR_CONFIG_INSECURE',
    `${path} ${formatAddress(address)} is reachable from other machines, and there is no authentication: ` +
      'whoever reaches it could read, replace and delete every image',
    {
      hint: `bind 127.0.0.1:${address.port}, or add --insecure if you trust everybody on that network`,
    },
  )
}

/** True for names and addresses that only this machine reaches. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host)
}

function overlap(a: string, b: string): boolean {
  const wide = (host: string) => host === '0.0.0.0' || host === '::'
  const sameLoopback = isLoopback(a) && isLoopback(b) && (a === 'localhost' || b === 'localhost')
  return a === b || wide(a) || wide(b) || sameLoopback
}

/** `HOST:PORT`, IPv6 in brackets. */
export function formatAddress(address: ListenAddress): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return `${host}:${address.port}`
}

function invalid(message: string, hint: string): AppError {
  return new AppError('ERR_CONFIG_INVALID', message, { hint })
}
