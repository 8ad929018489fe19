/**
 * What the server counts: one row of 64-bit floats, given by the caller (in shared memory, if it likes) and
 * incremented in place. This file names the columns and finds buckets; it exports no metric.
 */
import type { NbdErrno } from './protocol.ts'
import { NBD_CMD, NBD_E } from './protocol.ts'

/** Commands as counted; OTHER is every number that the protocol does not define. */
export const NBD_COUNTED_COMMANDS = [...commandNames(), 'OTHER'] as const
export const NBD_COUNTED_ERRNOS = Object.keys(NBD_E) as readonly NbdErrno[]

/** How a connection ended. */
export const NBD_OUTCOMES = [
  'disconnected',
  'closed',
  'reset',
  'drained',
  'aborted',
  'refused',
  'terminated',
  'handshake_timeout',
  'slow_reader',
  'protocol_error',
  'failed',
] as const
export type NbdOutcome = (typeof NBD_OUTCOMES)[number]

/** Where a handshake failed: before the client flags, between options, or at opening an export. */
export const NBD_HANDSHAKE_STAGES = ['flags', 'option', 'export'] as const
export type NbdHandshakeStage = (typeof NBD_HANDSHAKE_STAGES)[number]

/** Upper bounds in seconds, about 2.5 apart; one more bucket holds the rest. */
export const NBD_LATENCY_BUCKETS = [
  50e-6, 125e-6, 300e-6, 750e-6, 2e-3, 5e-3, 12.5e-3, 30e-3, 75e-3, 0.2, 0.5, 1.25, 3, 7.5, 10,
] as const

/** Upper bounds in bytes; one more bucket holds the rest. */
export const NBD_SIZE_BUCKETS = [
  512, 2048, 8192, 32_768, 131_072, 524_288, 2_097_152, 8_388_608, 33_554_432,
] as const

const names: string[] = []

/** Lays out `count` columns and returns the first. */
function columns(...added: readonly string[]): number {
  names.push(...added)
  return names.length - added.length
}

const perCommand = (what: string): string[] => NBD_COUNTED_COMMANDS.map((c) => `${what}.${c}`)
const buckets = (what: string, bounds: readonly number[]): string[] => [
  ...bounds.map((bound) => `${what}.le.${bound}`),
  `${what}.le.inf`,
]

/** First column of each group; the layout of a group stands beside it. */
export const NBD_COUNTER = {
  /** + command index. */
  REQUESTS: columns(...perCommand('requests')),
  /** + command index × number of errnos + errno index. */
  ERRORS: columns(
    ...NBD_COUNTED_COMMANDS.flatMap((c) => NBD_COUNTED_ERRNOS.map((e) => `errors.${c}.${e}`)),
  ),
  /** Bytes of read data handed to sockets. */
  READ_BYTES: columns('read_bytes'),
  CONNECTIONS_OPENED: columns('connections_opened'),
  /** + outcome index. */
  CONNECTIONS_CLOSED: columns(...NBD_OUTCOMES.map((o) => `connections_closed.${o}`)),
  /** + stage index. */
  HANDSHAKE_FAILURES: columns(...NBD_HANDSHAKE_STAGES.map((s) => `handshake_failures.${s}`)),
  /** Gauge: connections now. */
  CONNECTIONS: columns('connections'),
  /** Gauge: requests parsed whose reply is not written yet. */
  IN_FLIGHT: columns('in_flight'),
  /** Gauge: bytes of those replies, as NbdLimits.maxTotalInFlightBytes counts them. */
  IN_FLIGHT_BYTES: columns('in_flight_bytes'),
  /** + bucket index; seconds from receiving a READ to its reply being ready to write. */
  READ_LATENCY: columns(...buckets('read_latency', NBD_LATENCY_BUCKETS)),
  READ_LATENCY_SUM: columns('read_latency_sum'),
  /** + bucket index; bytes asked for by READ. */
  READ_SIZE: columns(...buckets('read_size', NBD_SIZE_BUCKETS)),
  READ_SIZE_SUM: columns('read_size_sum'),
  /** Seconds of event loop spent polling for the next request. */
  POLL_SECONDS: columns('poll_seconds'),
} as const

/** Name of each column, for example `errors.READ.EIO`. */
export const NBD_COUNTER_NAMES: readonly string[] = names

/** A row of NBD_COUNTER_NAMES.length columns. */
export type NbdCounters = Float64Array

export function createNbdCounters(): NbdCounters {
  return new Float64Array(names.length)
}

const OTHER = NBD_COUNTED_COMMANDS.length - 1

export function commandIndex(type: number): number {
  return type < OTHER ? type : OTHER
}

export function errorColumn(type: number, errno: NbdErrno): number {
  const command = commandIndex(type) * NBD_COUNTED_ERRNOS.length
  return NBD_COUNTER.ERRORS + command + NBD_COUNTED_ERRNOS.indexOf(errno)
}

export function outcomeColumn(outcome: NbdOutcome): number {
  return NBD_COUNTER.CONNECTIONS_CLOSED + NBD_OUTCOMES.indexOf(outcome)
}

export function stageColumn(stage: NbdHandshakeStage): number {
  return NBD_COUNTER.HANDSHAKE_FAILURES + NBD_HANDSHAKE_STAGES.indexOf(stage)
}

export function latencyBucket(seconds: number): number {
  let bucket = 0
  while (seconds > (NBD_LATENCY_BUCKETS[bucket] ?? Infinity)) bucket++
  return bucket
}

/** Bounds are 512 × 4^n: the bucket follows from the number of bits of length - 1. */
export function sizeBucket(bytes: number): number {
  if (bytes <= 512) return 0
  return Math.min(NBD_SIZE_BUCKETS.length, (32 - Math.clz32(bytes - 1) - 8) >> 1)
}

function commandNames(): (keyof typeof NBD_CMD)[] {
  return Object.keys(NBD_CMD) as (keyof typeof NBD_CMD)[]
}
