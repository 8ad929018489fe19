/** Hints and messages send people to commands: all of them exist. */
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'

import { errorDefinitions } from '../../src/core/index.ts'
import { STORE_ERRORS } from '../../src/store/index.ts'
import { commandNames } from './render-reference.ts'

const SOURCE = join(import.meta.dirname, '../../src')
/** Where a text quotes a command or tells to run it. */
const NAMED = /(?:\brun |`|'|"|\()commonpage ([a-z]+)/g
/** Titles and sentences about the program. */
const NO_COMMANDS = new Set(['configuration', 'flattened', 'runs', 'server', 'serves'])
/** Commands of the design that are not built yet: an error must not send anybody there. */
const NOT_BUILT = /\b(?:scrub|collect garbage)\b/

test('every command that a text in src names is one', async () => {
  const known = new Set(commandNames().map((name) => name.split(' ')[0]))
  let named = 0
  for (const entry of await readdir(SOURCE, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.ts')) continue
    const file = join(entry.parentPath, entry.name)
    for (const [text, name] of (await readFile(file, 'utf8')).matchAll(NAMED)) {
      if (name === undefined || NO_COMMANDS.has(name)) continue
      assert.ok(known.has(name), `${file}: ${text}`)
      named++
    }
  }
  assert.ok(named > 5)
})

test('no error asks for what is not built', () => {
  assert.ok('ERR_STORE_CORRUPT' in STORE_ERRORS)
  for (const [code, { doc }] of errorDefinitions()) assert.doesNotMatch(doc, NOT_BUILT, code)
})
