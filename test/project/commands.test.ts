/**
 * Runs the commands that README.md and docs/guide show: fenced blocks marked `sh test`. The blocks of a page
 * run in order in one shell, in an empty folder that has ./commonpage, and the first command that fails ends
 * it. What a block left running is stopped.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { ROOT } from '../../scripts/steps.ts'

const PAGE_DEADLINE_MS = 240_000
const TESTED_BLOCK = /^```sh test\b[^\n]*\n([\s\S]*?)^```/gm

function testedCommands(page: string): string {
  const text = readFileSync(join(ROOT, page), 'utf8')
  return [...text.matchAll(TESTED_BLOCK)].map(([, block = '']) => block).join('\n')
}

interface Outcome {
  readonly code: number | null
  readonly output: string
}

async function runPage(script: string, signal: AbortSignal): Promise<Outcome> {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-docs-'))
  await symlink(join(ROOT, 'commonpage'), join(folder, 'commonpage'))
  // Its own process group: servers that a block starts in the background end with it.
  const shell = spawn('bash', ['-euo', 'pipefail', '-x', '-c', script], {
    cwd: folder,
    detached: true,
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

  test('README.md has commands that are tried', () => {
    assert.notEqual(testedCommands('README.md'), '')
  })

  for (const page of pages) {
    const script = testedCommands(page)
    if (script === '') continue
    test(`the commands of ${page} work`, { timeout: PAGE_DEADLINE_MS }, async (t) => {
      const { code, output } = await runPage(script, t.signal)
      assert.equal(code, 0, output)
    })
  }

  test('a command that fails fails its page', async (t) => {
    const { code, output } = await runPage('sleep 60 &\necho before\nfalse\necho after\n', t.signal)
    assert.equal(code, 1)
    assert.match(output, /^before$/m)
    assert.doesNotMatch(output, /^after$/m)
  })
})
