/**
 * Runs the commands that README.md and docs/guide show: fenced blocks marked `sh test`. The blocks of a page
 * run in order in one shell, in an empty folder that has ./commonpage, and the first command that fails ends
 * it. A block marked `sh test server` goes on until it is stopped: what follows runs when its server is ready.
 * The default ports, which something else may have, are replaced by free ones. What is left running is stopped.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { freePort } from '../free-port.ts'
import { ROOT } from '../../scripts/steps.ts'
import { missing } from '../requires.ts'

const PAGE_DEADLINE_MS = 240_000
const TESTED_BLOCK = /^```sh test( server)?\n([\s\S]*?)^```/gm
/** What the commands of a page need besides Commonpage; README.md's bring what they need. */
const NEEDS: Readonly<Record<string, readonly string[]>> = {
  'docs/guide/get-started.md': ['mkfs.erofs', 'curl'],
}
/** Ends with the block when that ends instead. */
const UNTIL_READY = 'until ./commonpage health &>/dev/null; do kill -0 $!; sleep 0.2; done'

function testedCommands(page: string): string {
  const text = readFileSync(join(ROOT, page), 'utf8')
  const blocks = [...text.matchAll(TESTED_BLOCK)].map(([, server, block = '']) =>
    server === undefined ? block : `{\n${block}} &\n${UNTIL_READY}\n`,
  )
  return blocks.join('\n')
}

interface Outcome {
  readonly code: number | null
  readonly output: string
}

async function runPage(commands: string, signal: AbortSignal): Promise<Outcome> {
  const [http, nbd] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`]
  const script = commands.replaceAll('127.0.0.1:8080', http).replaceAll('127.0.0.1:10809', nbd)
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-docs-'))
  await symlink(join(ROOT, 'commonpage'), join(folder, 'commonpage'))
  // Its own process group: servers that a block starts in the background end with it.
  const shell = spawn('bash', ['-euo', 'pipefail', '-x', '-c', script], {
    cwd: folder,
    detached: true,
    env: {
      ...process.env,
      COMMONPAGE_HTTP__LISTEN: http,
      COMMONPAGE_NBD__LISTEN: nbd,
      COMMONPAGE_SERVER: `http://${http}`,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [shell.stdout, shell.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  const stop = (): void => {
    if (shell.pid === undefined) return
    try {
      process.kill(-shell.pid, 'SIGKILL')
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
    }
  }
  signal.addEventListener('abort', stop)
  try {
    await once(shell, 'exit')
    return { code: shell.exitCode, output }
  } finally {
    stop()
    await rm(folder, { recursive: true, force: true })
  }
}

describe('documented commands', () => {
  const pages = ['README.md', ...globSync('docs/guide/*.md', { cwd: ROOT }).toSorted()]

  for (const page of ['README.md', ...Object.keys(NEEDS)]) {
    test(`${page} has commands that are tried`, () => {
      assert.notEqual(testedCommands(page), '')
    })
  }

  for (const page of pages) {
    const script = testedCommands(page)
    if (script === '') continue
    const options = { timeout: PAGE_DEADLINE_MS, skip: missing(...(NEEDS[page] ?? [])) }
    test(`the commands of ${page} work`, options, async (t) => {
      const { code, output } = await runPage(script, t.signal)
      assert.equal(code, 0, output)
    })
  }

  test('a server that does not start fails its page', async (t) => {
    const { code } = await runPage(`{\nfalse\n} &\n${UNTIL_READY}\n`, t.signal)
    assert.equal(code, 1)
  })

  test('a command that fails fails its page', async (t) => {
    const { code, output } = await runPage('sleep 60 &\necho before\nfalse\necho after\n', t.signal)
    assert.equal(code, 1)
    assert.match(output, /^before$/m)
    assert.doesNotMatch(output, /^after$/m)
  })
})
