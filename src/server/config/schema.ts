/**
 * The table of settings as JSON Schema: what a value in a file must look like, for the loader and for
 * editors.
 */
import { Type } from 'typebox'
import type { TSchema } from 'typebox'

import { SETTINGS } from '../settings.ts'
import type { Setting } from '../settings.ts'

/** Counts are of things that each take memory: more is a typing mistake. */
const MAX_COUNT = 1_000_000
/** Each request with another Host header than the one before is compared with all of them. */
const MAX_HOSTS = 64
/** A DNS name, or `*.` and one; labels as in RFC 1123 §2.1, and the underscore that many have. */
const HOST_NAME = '(\\*\\.)?[\\w-]{1,63}(\\.[\\w-]{1,63}){0,126}'
/** A day. */
const MAX_DURATION_MS = 86_400_000

/** The form of one setting in a file. */
export function settingSchema(definition: Setting): TSchema {
  const annotations = {
    description: definition.doc,
    ...(definition.default === undefined ? {} : { default: definition.default }),
  }
  switch (definition.kind) {
    case 'text':
      return Type.String({ minLength: 1, ...annotations })
    case 'address':
      return Type.String({ pattern: '^\\S*:\\d{1,5}$', ...annotations })
    case 'hosts': {
      const list = `^\\s*${HOST_NAME}(\\s*,\\s*${HOST_NAME}){0,${MAX_HOSTS - 1}}\\s*$`
      const name = Type.String({ pattern: `^${HOST_NAME}$` })
      return Type.Union(
        [Type.Array(name, { minItems: 1, maxItems: MAX_HOSTS }), Type.String({ pattern: list })],
        annotations,
      )
    }
    case 'size': {
      const words = (definition.words ?? []).map((word) => `${word}|`).join('')
      const pattern = `^(${words}\\s*\\d+(\\.\\d+)?\\s*([kmgtKMGT]?[iI]?[bB]?)\\s*)$`
      return Type.Union([Type.Integer({ minimum: 0 }), Type.String({ pattern })], annotations)
    }
    case 'boolean':
      return Type.Boolean(annotations)
    case 'workers':
      return Type.Union([Type.Literal('auto'), Type.Integer({ minimum: 1 })], annotations)
    case 'count':
      return Type.Integer({
        ...annotations,
        minimum: 1,
        maximum: MAX_COUNT,
        default: Number(definition.default),
      })
    case 'duration':
      return Type.Union(
        [
          Type.Integer({ minimum: 0, maximum: MAX_DURATION_MS }),
          Type.String({ pattern: '^\\s*\\d{1,9}(\\.\\d+)?\\s*(ms|s|m|h|d)?\\s*$' }),
        ],
        annotations,
      )
    case 'choice':
      return Type.Union(
        (definition.choices ?? []).map((choice) => Type.Literal(choice)),
        annotations,
      )
  }
}

/** JSON Schema of the configuration file, for editors (`commonpage config schema`). */
export function configJsonSchema(): object {
  const groups = new Map<string, Record<string, TSchema>>()
  const top: Record<string, TSchema> = {}
  for (const [path, definition] of Object.entries(SETTINGS)) {
    const [group, key] = path.split('.')
    if (group === undefined) continue
    const schema = Type.Optional(settingSchema(definition))
    if (key === undefined) {
      top[group] = schema
      continue
    }
    const members = groups.get(group) ?? {}
    members[key] = schema
    groups.set(group, members)
  }
  for (const [group, members] of groups) {
    top[group] = Type.Optional(Type.Object(members, { additionalProperties: false }))
  }
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'commonpage configuration',
    ...Type.Object(top, { additionalProperties: false }),
  }
}
