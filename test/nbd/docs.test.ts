/**
 * The documents against the code: tables in docs/reference/nbd.md are what the code says (run with
 * UPDATE_DOCS=1 to rewrite them), every error code is explained, and the README's example works.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { HANDSHAKE_TRANSITIONS } from '../../src/nbd/handshake.ts'
import { NBD_DEFAULT_LIMITS, NBD_ERRORS } from '../../src/nbd/index.ts'
import { renderTransitions } from '../../src/nbd/transitions.ts'
import type { Transitions } from '../../src/nbd/transitions.ts'
import { TRANSMISSION_TRANSITIONS } from '../../src/nbd/transmission.ts'
import { request, simpleReply, WireClient } from './wire.ts'

const ROOT = join(import.meta.dirname, '../..')
const PAGE = join(ROOT, 'docs/reference/nbd.md')

function limitsTable(): string {
  const source = readFileSync(join(ROOT, 'src/nbd/limits.ts'), 'utf8')
  const rows = Object.entries(NBD_DEFAULT_LIMITS).map(([name, value]) => {
    const comment = new RegExp(`/\\*\\* ([^\\n]+) \\*/\\n  readonly ${name}:`).exec(source)?.[1]
    assert.ok(comment !== undefined, `limit ${name} has no one-line comment`)
    return `| ${name} | ${value} | ${comment} |`
  })
  return ['| limit | default | what it bounds |', '| --- | --- | --- |', ...rows].join('\n')
}

const GENERATED: Record<string, string> = {
  limits: limitsTable(),
  handshake: renderTransitions(HANDSHAKE_TRANSITIONS),
  transmission: renderTransitions(TRANSMISSION_TRANSITIONS),
}

describe('docs/reference/nbd.md', () => {
  if (process.env['UPDATE_DOCS'] === '1') {
    let page = readFileSync(PAGE, 'utf8')
    for (const [name, table] of Object.entries(GENERATED)) {
      const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`]
      const [head = '', rest = ''] = page.split(begin)
      page = `${head}${begin}\n\n${table}\n\n${end}${rest.split(end)[1] ?? ''}`
    }
    writeFileSync(PAGE, page)
  }

  for (const [name, table] of Object.entries(GENERATED)) {
    test(`the table of ${name} is what the code says`, () => {
      const page = readFileSync(PAGE, 'utf8')
      const shown = page.split(`<!-- ${name}:begin -->`)[1]?.split(`<!-- ${name}:end -->`)[0]
      // Prettier pads the columns.
      const plain = (text: string): string =>
        text.trim().replaceAll(/ +/g, ' ').replaceAll(/-{3,}/g, '---')
      assert.equal(plain(shown ?? ''), plain(table))
    })
  }
})

describe('state machines', () => {
  const tables: [string, Transitions<string, string>, string][] = [
    ['handshake', HANDSHAKE_TRANSITIONS, 'flags'],
    ['transmission', TRANSMISSION_TRANSITIONS, 'header'],
  ]
  for (const [name, table, initial] of tables) {
    test(`${name}: every state can be reached, every next state exists`, () => {
      const reached = new Set([initial])
      for (const state of reached) {
        for (const to of Object.values(table[state] ?? {})) {
          assert.ok(to !== undefined && to[0] in table)
          reached.add(to[0])
        }
      }
      assert.deepEqual(reached, new Set(Object.keys(table)))
    })
  }
})

test('every error code is thrown somewhere', () => {
  const files = [
    'budget',
    'clock',
    'codec',
    'connection',
    'errors',
    'export',
    'handshake',
    'limits',
  ]
  const more = ['server', 'session', 'stream-reply', 'transmission']
  const source = [...files, ...more]
    .map((file) => readFileSync(join(ROOT, `src/nbd/${file}.ts`), 'utf8'))
    .join('\n')
  for (const code of Object.keys(NBD_ERRORS)) assert.match(source, new RegExp(`'${code}'`), code)
})

test('the example of the README serves its bytes', async () => {
  const readme = readFileSync(join(ROOT, 'src/nbd/README.md'), 'utf8')
  const example = /```ts\n(.*?)```/s.exec(readme)?.[1]
  assert.ok(example !== undefined)
  const folder = mkdtempSync(join(ROOT, 'test/nbd/readme-'))
  try {
    const file = join(folder, 'example.ts')
    writeFileSync(file, example)
    const child = spawn(process.execPath, [file], { stdio: ['pipe', 'pipe', 'inherit'] })
    const [line] = await once(child.stdout, 'data')
    const port = Number(/nbd:\/\/127\.0\.0\.1:(\d+)\/hello/.exec(String(line))?.[1])
    const client = await WireClient.over(connect({ host: '127.0.0.1', port, allowHalfOpen: true }))
    await client.go('hello')
    client.send(request({ cookie: 1n, length: 5 }))
    await client.expect(simpleReply(1n, 0, Buffer.from('hello')))
    client.stream.end()
    child.stdin.end()
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
