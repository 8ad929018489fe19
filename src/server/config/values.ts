/**
 * One value of a setting: from what was typed or written to what the server uses, and back to something to
 * read. Where values come from is not known here.
 */
import { Value } from 'typebox/value'

import { AppError, formatSize, isAppError, parseDuration, parseSize } from '../../core/index.ts'
import type { Setting, SettingPath } from '../settings.ts'
import { SETTINGS } from '../settings.ts'
import { formatAddress } from './derive.ts'
import type { ListenAddress } from './derive.ts'
import { settingSchema } from './schema.ts'

export interface Problem {
  readonly message: string
  readonly hint?: string
}

/**
 * The value of a setting as the server uses it; undefined for words such as `auto`, and after a problem, which
 * is added to `problems`.
 */
export function parseValue(
  path: SettingPath,
  raw: unknown,
  origin: string,
  problems: Problem[],
): unknown {
  const definition: Setting = SETTINGS[path]
  const fromText = typeof raw === 'string' && !origin.startsWith('file')
  const typed = fromText ? typedFromText(definition, raw) : raw
  const where = `${path} (${origin})`
  if (!Value.Check(settingSchema(definition), typed)) {
    problems.push({ message: `${where} is ${show(raw)}, expected ${expectation(definition)}` })
    return undefined
  }
  if (typeof typed === 'string' && definition.words?.includes(typed)) return undefined
  try {
    if (definition.kind === 'size')
      return typeof typed === 'number' ? typed : parseSize(String(typed))
    if (definition.kind === 'duration')
      return typeof typed === 'number' ? typed : parseDuration(String(typed))
    if (definition.kind === 'address') return parseAddress(String(typed))
    if (definition.kind === 'hosts') return parseHosts(typed)
  } catch (error) {
    const message = isAppError(error) ? error.message : String(error)
    problems.push({ message: `${where}: ${message}` })
    return undefined
  }
  return typed
}

function typedFromText(definition: Setting, text: string): unknown {
  if (definition.kind === 'boolean') {
    if (/^(true|1|yes|on)$/i.test(text)) return true
    if (/^(false|0|no|off)$/i.test(text)) return false
    return text
  }
  const isCount = definition.kind === 'workers' || definition.kind === 'count'
  if (isCount && /^\d{1,9}$/.test(text)) return Number(text)
  return text
}

/** A list, or a text with commas. */
function parseHosts(value: unknown): string[] {
  const names = Array.isArray(value) ? value.map(String) : String(value).split(',')
  return names.map((name) => name.trim().toLowerCase())
}

/** `HOST:PORT`, `[IPV6]:PORT`. @throws ERR_INVALID_ARGUMENT */
export function parseAddress(text: string): ListenAddress {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/i.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host !== undefined && port <= 65535) return { host, port }
  throw new AppError(
    'ERR_INVALID_ARGUMENT',
    `'${text}' is not an address, expected HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080`,
  )
}

function expectation(definition: Setting): string {
  switch (definition.kind) {
    case 'text':
      return 'a non-empty text'
    case 'address':
      return 'HOST:PORT, for example 127.0.0.1:8080'
    case 'hosts':
      return 'names of hosts without ports, for example images.example.org,*.lan'
    case 'size':
      return `${(definition.words ?? []).map((word) => `${word} or `).join('')}a size, for example 512MiB`
    case 'boolean':
      return 'true or false'
    case 'workers':
      return 'auto or a number of at least 1'
    case 'count':
      return 'a number of at least 1'
    case 'duration':
      return 'a time, for example 30s'
    case 'choice':
      return `one of ${(definition.choices ?? []).join(', ')}`
  }
}

/** A value as a person would write it. */
export function displayValue(
  definition: Setting,
  parsed: unknown,
  raw: unknown,
): string | undefined {
  if (raw === undefined) return undefined
  if (definition.kind === 'size' && typeof parsed === 'number') return formatSize(parsed)
  if (definition.kind === 'address' && parsed !== undefined) {
    return formatAddress(parsed as ListenAddress)
  }
  if (definition.kind === 'hosts' && Array.isArray(parsed)) return parsed.join(',')
  const value = parsed ?? raw
  return typeof value === 'string' ? value : JSON.stringify(value)
}

/** A value inside a message. */
export function show(value: unknown): string {
  return typeof value === 'string' ? `'${value}'` : JSON.stringify(value)
}
