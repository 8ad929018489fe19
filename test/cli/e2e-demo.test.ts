/** The demo from end to end: real images, a real server, NBD and HTTP, and sharing that shows in the table. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

const ROOT = join(import.meta.dirname, '../..')
const LAUNCHER = join(ROOT, 'commonpage')
const MAIN = join(ROOT, 'src/cli/main.ts')
/** Building the images, the imports and the reads take a few seconds; a loaded machine takes more. */
const TIMEOUT_MS = 180_000
const UNIT_BYTES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
}

/** The launcher of a checkout, or the command itself where there is none. */
function startDemo(args: readonly string[], env: Readonly<Record<string, string>>) {
  const viaLauncher = existsSync(LAUNCHER)
  const command = viaLauncher ? LAUNCHER : process.execPath
  const before = viaLauncher ? [] : [MAIN]
  return spawn(command, [...before, 'demo', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
}

async function text(stream: NodeJS.ReadableStream): Promise<string> {
  let all = ''
  for await (const chunk of stream) all += String(chunk)
  return all
}

/** Bytes of a cell such as `5.0 MiB`. */
function bytesOf(value = '', unit = ''): number {
  return Number(value) * (UNIT_BYTES[unit] ?? NaN)
}

/** touched, added and saved of a row of the sharing table. */
function rowOf(table: string, name: string): number[] {
  const cell = String.raw`\s+(-?[\d.]+) (B|KiB|MiB|GiB)`
  const row = new RegExp(`^${name}${cell}${cell}${cell}`, 'm').exec(table)
  assert.ok(row, `a row for ${name} in:\n${table}`)
  return [1, 3, 5].map((at) => bytesOf(row[at], row[at + 1]))
}

async function runDemo(
  env: Readonly<Record<string, string>>,
): Promise<{ stdout: string; stderr: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'demo-test-'))
  try {
    const child = startDemo(['--exit'], { TMPDIR: folder, ...env })
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'exit'),
    ])
    assert.equal(code, 0, stderr + stdout)
    assert.deepEqual(await readdir(folder), [], 'the demo removes what it made')
    return { stdout, stderr }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function assertShared(stdout: string): void {
  const [baseTouched = 0, baseAdded = 0] = rowOf(stdout, 'demo/base:1')
  const [touched = 0, added = 0, saved = 0] = rowOf(stdout, 'demo/application:1')
  assert.ok(baseAdded >= baseTouched * 0.99, 'the first image brings all that it touches')
  assert.ok(touched > 1_000_000, `the second image touched ${touched}`)
  assert.ok(added < touched / 2, `the second image touched ${touched} and added ${added}`)
  assert.ok(added > 0, 'the application is new')
  assert.ok(saved > touched / 2)
  assert.match(stdout, /^saved [\d.]+ MiB: /m)
  for (const address of ['/metrics', 'nbd://127.0.0.1:', 'curl ', 'nbd-client']) {
    assert.ok(stdout.includes(address), `${address} is printed`)
  }
}

test(
  'demo --exit: two images are read and the second shares with the first',
  { timeout: TIMEOUT_MS },
  async () => {
    const { stdout, stderr } = await runDemo({})
    assertShared(stdout)
    assert.match(stderr, /demo\/application:1 added .* was there already, shared with demo\/base:1/)
    assert.match(stderr, /over NBD and \d+ of its files/)
  },
)

test(
  'demo stays up until it is told to stop, and then leaves with 0',
  { timeout: TIMEOUT_MS },
  async () => {
    const child = startDemo([], {})
    const stdout = text(child.stdout)
    let talk = ''
    for await (const chunk of child.stderr) {
      talk += String(chunk)
      if (talk.includes('until Ctrl-C')) break
    }
    child.kill('SIGINT')
    const [code] = (await once(child, 'exit')) as [number | null]
    assert.equal(code, 0)
    assertShared(await stdout)
  },
)
