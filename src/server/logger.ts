/**
 * One pino root per thread, one child per subsystem. JSON lines on standard output; a readable form on a
 * terminal. Levels are set for all, and for subsystems by prefix: `info,nbd=debug`.
 */
import { writeSync } from 'node:fs'
import { styleText } from 'node:util'

import type { Logger } from 'pino'
import { pino } from 'pino'

export type { Logger } from 'pino'

export interface LogOptions {
  /** `info`, or `info,nbd=debug,cache=trace`. */
  readonly level: string
  readonly format: 'json' | 'pretty'
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
const STDOUT = 1

export interface LoggerFamily {
  /** `server:http`, `nbd:conn`, `cache:fill`, `images:import`, … */
  child(subsystem: string): Logger
}

export function createLoggers(
  options: LogOptions,
  base: Readonly<Record<string, unknown>> = {},
): LoggerFamily {
  const { root, overrides } = parseLevels(options.level)
  const stream = options.format === 'pretty' ? { write: writePretty } : { write: writeLine }
  const logger = pino({ level: root, base, redact: ['req.headers.authorization'] }, stream)
  return {
    child(subsystem) {
      const level = overrides.find(
        ([prefix]) => subsystem === prefix || subsystem.startsWith(`${prefix}:`),
      )?.[1]
      return logger.child({ subsystem }, level === undefined ? {} : { level })
    },
  }
}

/** The last word for all counts. Unknown levels are passed over: a typo in a log level must not stop a server. */
function parseLevels(text: string): { root: string; overrides: [string, string][] } {
  let root = 'info'
  const overrides: [string, string][] = []
  for (const part of text.split(',')) {
    const [name = '', level] = part.trim().split('=')
    if (level === undefined) root = LEVELS.includes(name) ? name : root
    else if (LEVELS.includes(level)) overrides.push([name, level])
  }
  return { root, overrides }
}

/** Standard output may be a pipe that is full or gone; a log line is not worth a crash. */
function writeLine(line: string): void {
  try {
    writeSync(STDOUT, line)
  } catch {
    return
  }
}

const COLOURS: Readonly<Record<number, 'gray' | 'cyan' | 'green' | 'yellow' | 'red'>> = {
  10: 'gray',
  20: 'cyan',
  30: 'green',
  40: 'yellow',
  50: 'red',
  60: 'red',
}
const HIDDEN = new Set(['level', 'time', 'msg', 'subsystem', 'event', 'thread'])

function writePretty(line: string): void {
  const record = JSON.parse(line) as Record<string, unknown>
  const level = Number(record['level'])
  const label = (LEVELS[level / 10 - 1] ?? 'info').padEnd(5)
  const time = new Date(Number(record['time'])).toISOString().slice(11, 23)
  const fields = Object.entries(record)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
  const words = [time, styleText(COLOURS[level] ?? 'green', label), textOf(record['subsystem'])]
  writeLine(`${[...words, textOf(record['msg']), ...fields].join(' ')}\n`)
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}
