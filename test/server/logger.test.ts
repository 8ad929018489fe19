/** Levels of the log: one for all, others for subsystems. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { createLoggers } from '../../src/server/logger.ts'

const SUBSYSTEMS = ['server', 'server:http', 'nbd:conn', 'cache:fill']

function levels(level: string): string[] {
  const loggers = createLoggers({ level, format: 'json' })
  return SUBSYSTEMS.map((subsystem) => loggers.child(subsystem).level)
}

for (const [text, ...expected] of [
  ['warn', 'warn', 'warn', 'warn', 'warn'],
  ['info,nbd=debug', 'info', 'info', 'debug', 'info'],
  ['info,server=error,cache:fill=trace', 'error', 'error', 'info', 'trace'],
  ['info,server:http=debug', 'info', 'debug', 'info', 'info'],
  // log.level, then COMMONPAGE_LOG
  ['warn,nbd=debug', 'warn', 'warn', 'debug', 'warn'],
  ['warn,debug', 'debug', 'debug', 'debug', 'debug'],
  ['warn,', 'warn', 'warn', 'warn', 'warn'],
  ['warn,loud,nbd=loud', 'warn', 'warn', 'warn', 'warn'],
  ['info, nbd=debug ', 'info', 'info', 'debug', 'info'],
] as const) {
  test(`'${text}'`, () => assert.deepEqual(levels(text), expected))
}
