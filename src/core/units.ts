/** Sizes and durations as people write them. Sizes are IEC (`64KiB`), durations `250ms`, `30s`, `5m`, `2h`. */
import { AppError } from './errors.ts'

export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB

/**
 * Bytes of one read or write call of an import. A kernel that is built without preemption keeps the processor until
 * the call returns, whatever the process's priority: with 1 MiB calls a client waited up to 2.4 ms for it, with
 * 128 KiB 0.25 ms, with 32 KiB 45 us. The import itself takes as long with each of them.
 */
export const IMPORT_CALL_BYTES = 16 * KIB

const SIZE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: KIB,
  kib: KIB,
  m: MIB,
  mib: MIB,
  g: GIB,
  gib: GIB,
  t: 1024 * GIB,
  tib: 1024 * GIB,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
}
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1e3,
  m: 6e4,
  h: 36e5,
  d: 864e5,
}

/** `1.5GiB` → 1610612736. A bare number is bytes. @throws ERR_INVALID_ARGUMENT */
export function parseSize(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text)
  const unit = match ? SIZE_UNITS[(match[2] ?? '').toLowerCase()] : undefined
  const bytes = match && unit !== undefined ? Math.round(Number(match[1]) * unit) : NaN
  if (Number.isSafeInteger(bytes)) return bytes
  throw new AppError(
    'ERR_INVALID_ARGUMENT',
    `'${text}' is not a size, expected for example 64KiB, 1.5GiB or a number of bytes`,
  )
}

/** `30s` → 30000 ms. A bare number is milliseconds. @throws ERR_INVALID_ARGUMENT */
export function parseDuration(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text)
  const unit = match ? DURATION_UNITS[(match[2] ?? '').toLowerCase() || 'ms'] : undefined
  if (match && unit !== undefined) return Math.round(Number(match[1]) * unit)
  throw new AppError(
    'ERR_INVALID_ARGUMENT',
    `'${text}' is not a duration, expected for example 250ms, 30s, 5m or 2h`,
  )
}

/** 1610612736 → `1.5 GiB`; exact below 1 KiB. */
export function formatSize(bytes: number): string {
  if (Math.abs(bytes) < KIB) return `${bytes} B`
  let value = bytes
  let unit = ''
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
    value /= KIB
    unit = next
    if (Math.abs(value) < 999.95) break
  }
  return `${value.toFixed(1)} ${unit}`
}

/** 61500 ms → `1m 2s`, 250 → `250ms`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return ms < 10_000 ? `${(ms / 1000).toFixed(1)}s` : `${seconds}s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes}m ${seconds % 60}s`
  return `${Math.floor(minutes / 60)}h ${minutes % 60}m`
}
