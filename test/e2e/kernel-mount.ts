/**
 * Mounts an NBD export with this machine's kernel: nbdfuse shows the export as a file, a loop device makes
 * it a disk, and the kernel's own EROFS reads it. Taken down in reverse order, also after a failure.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { run, runOk } from './server-process.ts'

const APPEAR_DEADLINE_MS = 20_000

export interface Attached extends AsyncDisposable {
  /** The export as a file. */
  readonly file: string
  /** A read-only loop device over it. */
  readonly loop: string
}

/** An export as a loop device. */
export async function attach(uri: string, connections = 1): Promise<Attached> {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-nbd-'))
  const file = join(folder, 'nbd')
  const child = spawn('nbdfuse', ['-r', '-C', String(connections), file, uri], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const exited = once(child, 'exit')
  const detach = async (): Promise<void> => {
    await run('fusermount3', ['-u', folder])
    if (child.exitCode === null)
      await Promise.race([exited, delay(2000, undefined, { ref: false })])
    if (child.exitCode === null && child.kill('SIGKILL')) await exited
    await run('umount', ['-l', folder])
    await rm(folder, { recursive: true, force: true })
  }
  try {
    const deadline = Date.now() + APPEAR_DEADLINE_MS
    while ((await stat(file).catch(() => undefined)) === undefined) {
      if (child.exitCode !== null || Date.now() > deadline)
        throw new Error(`nbdfuse ${uri}: ${stderr}`)
      await delay(10)
    }
    const loop = (await runOk('losetup', ['-r', '-f', '--show', file])).trim()
    return {
      file,
      loop,
      async [Symbol.asyncDispose]() {
        await run('losetup', ['-d', loop])
        await detach()
      },
    }
  } catch (error) {
    await detach()
    throw error
  }
}

export interface Mounted extends AsyncDisposable {
  readonly path: string
}

/** Mounts a loop device (with further devices in slot order) as EROFS. */
export async function mountErofs(device: string, extra: readonly string[] = []): Promise<Mounted> {
  const path = await mkdtemp(join(tmpdir(), 'commonpage-mnt-'))
  const options = ['ro', ...extra.map((one) => `device=${one}`)].join(',')
  try {
    await runOk('mount', ['-t', 'erofs', '-o', options, device, path])
  } catch (error) {
    await rm(path, { recursive: true, force: true })
    throw error
  }
  return {
    path,
    async [Symbol.asyncDispose]() {
      const result = await run('umount', [path])
      if (result.code !== 0) await run('umount', ['-l', path])
      await rm(path, { recursive: true, force: true })
    },
  }
}

/** Attaches and mounts one export. */
export async function mountExport(uri: string, connections = 1): Promise<Mounted> {
  const attached = await attach(uri, connections)
  try {
    const mounted = await mountErofs(attached.loop)
    return {
      path: mounted.path,
      async [Symbol.asyncDispose]() {
        await mounted[Symbol.asyncDispose]()
        await attached[Symbol.asyncDispose]()
      },
    }
  } catch (error) {
    await attached[Symbol.asyncDispose]()
    throw error
  }
}

export interface ListedEntry {
  readonly path: string
  readonly mode: string
  readonly uid: number
  readonly gid: number
  readonly mtime_ns: string
  readonly nlink?: number
  readonly size?: number
  readonly sha256?: string
  readonly target?: string
  readonly rdev?: readonly [number, number]
  readonly xattrs?: Readonly<Record<string, string>>
}

/** What the kernel says of a tree (list-tree.py), by path. */
export async function listTree(
  root: string,
  options: { contents?: boolean } = {},
): Promise<Map<string, ListedEntry>> {
  const script = fileURLToPath(new URL('list-tree.py', import.meta.url))
  const out = await runOk('/usr/bin/python3', [
    script,
    root,
    ...(options.contents === false ? ['--no-contents'] : []),
  ])
  return parseTree(out)
}

export function parseTree(text: string): Map<string, ListedEntry> {
  const rows = text.split('\n').filter((line) => line !== '')
  return new Map(rows.map((line) => JSON.parse(line) as ListedEntry).map((row) => [row.path, row]))
}

/** Differences, in words; only fields that the expected entry has are compared. */
export function compareTrees(
  expected: Map<string, ListedEntry>,
  actual: Map<string, ListedEntry>,
): string[] {
  const differences: string[] = []
  for (const [path, want] of expected) {
    const got = actual.get(path)
    if (!got) differences.push(`${path}: missing`)
    else {
      for (const [key, value] of Object.entries(want)) {
        const other = (got as unknown as Record<string, unknown>)[key]
        if (JSON.stringify(other) !== JSON.stringify(value)) {
          differences.push(
            `${path}: ${key} is ${JSON.stringify(other)}, expected ${JSON.stringify(value)}`,
          )
        }
      }
    }
  }
  for (const path of actual.keys())
    if (!expected.has(path)) differences.push(`${path}: not expected`)
  return differences
}
