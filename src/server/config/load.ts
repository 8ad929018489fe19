/**
 * Collects settings from flags, environment, file and defaults (in this order of precedence), remembers
 * where each value came from, and reports every problem it finds, not only the first. What the values mean
 * together is for derive.ts.
 */
import { readFile } from 'node:fs/promises'
import { extname } from 'node:path'
import { parseDocument } from 'yaml'

import { AppError, closestNames, formatSize } from '../../core/index.ts'
import { deriveConfig } from './derive.ts'
import type { ParsedSettings, ServerConfig } from './derive.ts'
import { readHostFacts } from './host-facts.ts'
import type { HostFacts } from './host-facts.ts'
import { displayValue, parseValue, show } from './values.ts'
import type { Problem } from './values.ts'
import {
  DEVELOPMENT_VARIABLES,
  ENVIRONMENT_PREFIX,
  environmentName,
  SETTING_PATHS,
  SETTINGS,
  VARIABLES,
} from '../settings.ts'
import type { SettingPath } from '../settings.ts'

/** A configuration is a few dozen lines: more is the wrong file. */
const MAX_FILE_BYTES = 1024 * 1024
/** The file is two levels deep; what YAML aliases could blow up is refused before it is built. */
const MAX_ALIASES = 16

/** Variables with the prefix that are no settings of the server. */
const OTHER_VARIABLES = { ...VARIABLES, ...DEVELOPMENT_VARIABLES }
/** What Kubernetes sets for a Service called `commonpage` or `commonpage-…`. */
const KUBERNETES_VARIABLE = /_(SERVICE_(HOST|PORT)|PORT)(_|$)/

export interface LoadOptions {
  /** Values of command line flags by setting, as typed. */
  readonly flags?: Readonly<Partial<Record<SettingPath, string | boolean>>>
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly file?: string
  /** What is known of the machine; looked up when absent. */
  readonly host?: HostFacts
}

export interface SettingValue {
  readonly path: SettingPath
  /** As a person would write it; undefined: unset. */
  readonly value: string | undefined
  /** `flag --http`, `environment COMMONPAGE_HTTP__LISTEN`, `file PATH` or `default`. */
  readonly origin: string
}

export interface LoadedConfig {
  readonly config: ServerConfig
  readonly settings: readonly SettingValue[]
  /** Path of the file that was read. */
  readonly file: string | undefined
}

interface Raw {
  readonly value: unknown
  readonly origin: string
}

/** @throws ERR_CONFIG_INVALID, ERR_CONFIG_INSECURE, ERR_CONFIG_UNREADABLE */
export async function loadConfig(options: LoadOptions = {}): Promise<LoadedConfig> {
  const problems: Problem[] = []
  const fromFile =
    options.file === undefined ? new Map<string, Raw>() : await readSettings(options.file, problems)
  const fromEnvironment = environmentSettings(options.env ?? {}, problems)
  const raw = new Map<SettingPath, Raw>()
  for (const path of SETTING_PATHS) {
    const flag = options.flags?.[path]
    const fromFlag =
      flag === undefined ? undefined : { value: flag, origin: `flag --${SETTINGS[path].flag}` }
    const fallback = { value: SETTINGS[path].default, origin: 'default' }
    raw.set(path, fromFlag ?? fromEnvironment.get(path) ?? fromFile.get(path) ?? fallback)
  }
  const parsed: Record<string, unknown> = {}
  const settings: SettingValue[] = []
  for (const [path, { value, origin }] of raw) {
    const result = value === undefined ? undefined : parseValue(path, value, origin, problems)
    parsed[path] = result
    settings.push({ path, value: displayValue(SETTINGS[path], result, value), origin })
  }
  refuse(problems, options.file)
  const host = options.host ?? (await readHostFacts())
  const config = deriveConfig(parsed as unknown as ParsedSettings, host)
  return { config, settings, file: options.file }
}

/** Everything that can be said of a file without the flags and environment of a server. @throws as loadConfig */
export async function checkConfigFile(file: string, host?: HostFacts): Promise<LoadedConfig> {
  return loadConfig({ file, env: {}, ...(host === undefined ? {} : { host }) })
}

async function readSettings(file: string, problems: Problem[]): Promise<Map<string, Raw>> {
  const document = parseFile(file, await readText(file))
  const found = new Map<string, Raw>()
  if (document === null || document === undefined) return found
  if (!isMapping(document)) {
    throw unreadable(file, 'holds no mapping at its top level')
  }
  const groups = new Set(SETTING_PATHS.map((path) => path.split('.')[0] ?? path))
  for (const [key, value] of Object.entries(document)) {
    if (isSetting(key)) {
      found.set(key, { value, origin: `file ${file}` })
    } else if (!groups.has(key)) {
      problems.push(unknownKey(file, key, groups))
    } else if (!isMapping(value)) {
      problems.push({ message: `${file}: ${key} is ${show(value)}, expected a mapping` })
    } else {
      for (const [member, memberValue] of Object.entries(value)) {
        const path = `${key}.${member}`
        if (isSetting(path)) found.set(path, { value: memberValue, origin: `file ${file}` })
        else problems.push(unknownKey(file, path, SETTING_PATHS))
      }
    }
  }
  return found
}

async function readText(file: string): Promise<string> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new AppError('ERR_CONFIG_UNREADABLE', `cannot read ${file}: ${why}`, { cause: error })
  }
  if (bytes.byteLength > MAX_FILE_BYTES) {
    throw unreadable(
      file,
      `is ${formatSize(bytes.byteLength)}, expected at most ${formatSize(MAX_FILE_BYTES)}`,
    )
  }
  return bytes.toString('utf8')
}

function parseFile(file: string, text: string): unknown {
  switch (extname(file)) {
    case '.json':
      try {
        return JSON.parse(text) as unknown
      } catch (error) {
        throw unreadable(file, `is not JSON: ${error instanceof Error ? error.message : ''}`)
      }
    case '.yaml':
    case '.yml': {
      const document = parseDocument(text, { prettyErrors: true })
      const [mistake] = document.errors
      if (mistake !== undefined) {
        throw unreadable(
          file,
          `is not YAML: ${mistake.message.split('\n')[0]?.replace(/:$/, '') ?? ''}`,
        )
      }
      try {
        return document.toJS({ maxAliasCount: MAX_ALIASES }) as unknown
      } catch (error) {
        throw unreadable(file, `cannot be resolved: ${error instanceof Error ? error.message : ''}`)
      }
    }
    default:
      throw unreadable(file, 'has an unknown suffix, expected .yaml, .yml or .json')
  }
}

function environmentSettings(
  env: Readonly<Record<string, string | undefined>>,
  problems: Problem[],
): Map<SettingPath, Raw> {
  const paths = new Map(SETTING_PATHS.map((path) => [environmentName(path), path]))
  const found = new Map<SettingPath, Raw>()
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith(ENVIRONMENT_PREFIX) || value === undefined) continue
    const path = paths.get(name)
    if (path !== undefined) {
      found.set(path, { value, origin: `environment ${name}` })
    } else if (!Object.hasOwn(OTHER_VARIABLES, name) && !KUBERNETES_VARIABLE.test(name)) {
      const closest = closestNames(name, [...paths.keys(), ...Object.keys(VARIABLES)], 1)[0]
      problems.push({
        message: `environment: unknown variable ${name}`,
        ...(closest === undefined ? {} : { hint: `did you mean ${closest}?` }),
      })
    }
  }
  return found
}

function unknownKey(file: string, path: string, known: Iterable<string>): Problem {
  const closest = closestNames(path, known, 1)[0]
  return {
    message: `${file}: unknown key ${path}`,
    hint:
      closest === undefined
        ? 'commonpage config schema lists all keys'
        : `did you mean ${closest}?`,
  }
}

function refuse(problems: readonly Problem[], file: string | undefined): void {
  const [first] = problems
  if (first === undefined) return
  const details = { problems: problems.map(({ message }) => message), ...(file ? { file } : {}) }
  if (problems.length === 1) {
    const hint = first.hint === undefined ? {} : { hint: first.hint }
    throw new AppError('ERR_CONFIG_INVALID', first.message, { ...hint, details })
  }
  const lines = problems.map(
    ({ message, hint }) => `\n  ${message}${hint === undefined ? '' : ` (${hint})`}`,
  )
  throw new AppError(
    'ERR_CONFIG_INVALID',
    `${problems.length} problems in the configuration${lines.join('')}`,
    { details },
  )
}

function unreadable(file: string, why: string): AppError {
  return new AppError('ERR_CONFIG_UNREADABLE', `${file} ${why}`)
}

function isSetting(path: string): path is SettingPath {
  return Object.hasOwn(SETTINGS, path)
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
