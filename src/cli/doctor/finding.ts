/** What a check of `doctor` found. */

export type Level = 'ok' | 'warn' | 'fail'

export interface Finding {
  readonly level: Level
  readonly name: string
  readonly detail: string
  /** What to do; present unless the level is ok. */
  readonly fix?: string
}

export function ok(name: string, detail: string): Finding {
  return { level: 'ok', name, detail }
}

export function warn(name: string, detail: string, fix: string): Finding {
  return { level: 'warn', name, detail, fix }
}

export function fail(name: string, detail: string, fix: string): Finding {
  return { level: 'fail', name, detail, fix }
}
