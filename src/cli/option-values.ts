/** Parsers of option values, in the form that commander calls. */
import { InvalidArgumentError } from 'commander'

import { isAppError, parseDuration } from '../core/index.ts'

/** A tree of more entries than this is for a program to walk, not for a terminal. */
const MAX_COUNT = 1_000_000
/** The server's counters change once a second at most where people look. */
const MIN_INTERVAL_MS = 200

export function repeatable(value: string, before: readonly string[] = []): string[] {
  return [...before, value]
}

export function parseCount(text: string): number {
  const count = /^\d{1,7}$/.test(text) ? Number(text) : 0
  if (count >= 1 && count <= MAX_COUNT) return count
  throw new InvalidArgumentError(`expected a number from 1 to ${MAX_COUNT}`)
}

/** Milliseconds. */
export function parseIntervalOption(text: string): number {
  try {
    return Math.max(MIN_INTERVAL_MS, parseDuration(text))
  } catch (error) {
    throw new InvalidArgumentError(isAppError(error) ? error.message : String(error))
  }
}
