/** How the limits of the NBD library follow from the cache: what waits in its sockets is pinned there. */
import { MIB } from '../core/index.ts'
import { NBD_DEFAULT_LIMITS } from 'nbd-server-ts'
import type { NbdLimits } from 'nbd-server-ts'
import type { ServerConfig } from './config.ts'

/** Of the cache, over all workers: the rest is left to those who take what they asked for. */
const TOTAL_PART = 1 / 4
/** Of the cache, for one connection: 16 of them may stall before the others get small pieces only. */
const CONNECTION_PART = 1 / 64
/** Eight reads of 128 KiB under way, on the smallest cache. */
const MIN_CONNECTION_BYTES = MIB

/** Limits of one data worker. */
export function nbdLimits(config: ServerConfig): Partial<NbdLimits> {
  const { cacheSize, workers, maxConnections } = config
  const { maxInFlightBytes, maxTotalInFlightBytes } = NBD_DEFAULT_LIMITS
  const connection = Math.max(Math.floor(cacheSize * CONNECTION_PART), MIN_CONNECTION_BYTES)
  return {
    maxConnections,
    maxInFlightBytes: Math.min(connection, maxInFlightBytes),
    maxTotalInFlightBytes: Math.min(
      Math.floor((cacheSize * TOTAL_PART) / workers),
      maxTotalInFlightBytes,
    ),
  }
}
