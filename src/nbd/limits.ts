/**
 * Every bound of the server with its default and the reason for it. Nothing here enforces one.
 */
import { NbdError } from './errors.ts'

const KIB = 1024
const MIB = 1024 * KIB

export interface NbdLimits {
  /** Milliseconds that a client may take from its connection to an open export, the provider's time not counted. */
  readonly handshakeMs: number
  /** Milliseconds that the provider may take to open or describe an export, or to name the next; then ERR_PLATFORM. */
  readonly providerMs: number
  /** Connections at once; one more is closed at once. */
  readonly maxConnections: number
  /** Connections in their handshake at once; one more drops the oldest of them. */
  readonly maxHandshakes: number
  /** Options of one connection. */
  readonly maxOptions: number
  /** NBD_OPT_LIST of one connection; the next is refused with ERR_POLICY. */
  readonly maxLists: number
  /** Exports that one LIST names. */
  readonly maxListEntries: number
  /** Bytes of option data that are read; more are skipped and answered with ERR_TOO_BIG. */
  readonly maxOptionBytes: number
  /** Bytes of option data that are skipped; more end the connection. */
  readonly maxOptionSkipBytes: number
  /** Bytes of one read: the maximum payload that INFO BLOCK_SIZE announces. Of a longer CACHE the rest is ignored. */
  readonly maxRequestBytes: number
  /** Bytes of a refused write that are read and thrown away; more end the connection. */
  readonly maxSwallowBytes: number
  /** Requests of one connection from their parsing until the last byte of their reply is written. */
  readonly maxInFlight: number
  /** Bytes of those requests' replies, 32 KiB at least for each read. A single larger read is still served, alone. */
  readonly maxInFlightBytes: number
  /** The same over all connections, beyond 128 KiB of each; one read counts 32 KiB at least, a quarter of it at most. */
  readonly maxTotalInFlightBytes: number
  /** Milliseconds that the peer may leave a write (at most 768 KiB) untaken. */
  readonly slowReaderMs: number
  /** Milliseconds to wait for the peer's FIN after ours. */
  readonly lingerMs: number
}

export const NBD_DEFAULT_LIMITS: NbdLimits = {
  // As qemu-nbd since CVE-2024-7409; a local handshake takes well under 10 ms, TLS over a WAN under 2 s.
  handshakeMs: 10_000,
  // No client gives up by itself: long enough for a storage engine's retries, short for one who waits at a prompt.
  providerMs: 30_000,
  // An idle connection costs about 10 KiB; a fleet of 1,000 machines with 4 connections each fits.
  maxConnections: 4096,
  maxHandshakes: 1024,
  // `nbdinfo --list` asks two options for each export listed.
  maxOptions: 2 * 8192 + 64,
  maxLists: 8,
  maxListEntries: 8192,
  // The largest sensible option: a 4096-byte name and some tens of queries of the same size.
  maxOptionBytes: 64 * KIB,
  maxOptionSkipBytes: MIB,
  // NBD proto: "Block size constraints": what every client may ask without having been told a limit.
  maxRequestBytes: 32 * MIB,
  // Twice what a client may send: enough to stay in step with one that ignores the limit a little.
  maxSwallowBytes: 64 * MIB,
  // The queue depth of the Linux client.
  maxInFlight: 128,
  maxInFlightBytes: 32 * MIB,
  maxTotalInFlightBytes: 1024 * MIB,
  slowReaderMs: 60_000,
  lingerMs: 2_000,
}

/** The defaults with some replaced. @throws ERR_NBD_STATE when a value is no positive integer. */
export function resolveLimits(limits: Partial<NbdLimits> = {}): NbdLimits {
  const resolved = { ...NBD_DEFAULT_LIMITS, ...limits }
  for (const [name, value] of Object.entries(resolved)) {
    if (Number.isSafeInteger(value) && value > 0) continue
    throw new NbdError('ERR_NBD_STATE', `limit ${name} is ${value}, expected a positive integer`)
  }
  return resolved
}
