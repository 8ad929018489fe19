/**
 * A tree of real files to build images from: a bounded part of what is on every machine that runs Node.
 * Only regular files are taken, in a fixed order, so that two runs on a machine stage the same tree.
 */
import { copyFile, mkdir, readdir, stat } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

import { MIB } from '../../core/index.ts'

/** Enough to see the effect, little enough to build in a second or two. */
const BASE_BUDGET: Budget = { bytes: 16 * MIB, files: 1500 }
const APPLICATION_BUDGET: Budget = { bytes: 2 * MIB, files: 300 }
/** Larger files would use the budget up alone. */
const MAX_FILE_BYTES = MIB
/** So deep and wide does the walk go at most, whatever the machine holds. */
const MAX_DEPTH = 12
const MAX_VISITED = 20_000

interface Budget {
  readonly bytes: number
  readonly files: number
}

export interface StagedTree {
  readonly path: string
  readonly files: number
  readonly sizeBytes: number
}

/** Folders of the base: language libraries and the package manager that came with Node. */
function baseFolders(): string[] {
  const prefix = dirname(dirname(process.execPath))
  return [
    '/usr/lib/python3',
    '/usr/share/perl',
    '/usr/lib/x86_64-linux-gnu/perl-base',
    '/usr/lib/aarch64-linux-gnu/perl-base',
    '/usr/share/i18n',
    '/usr/share/zoneinfo',
    join(prefix, 'lib/node_modules/npm'),
    '/usr/lib/node_modules/npm',
    '/usr/local/lib/node_modules/npm',
  ]
}

/** Copies the base below `target/usr`; this program's own files when the machine has none of the folders. */
export function stageBase(target: string, signal: AbortSignal): Promise<StagedTree> {
  return stage([...baseFolders(), ownFiles()], join(target, 'usr'), BASE_BUDGET, signal)
}

/** Adds the "application": this program's own files. */
export function stageApplication(target: string, signal: AbortSignal): Promise<StagedTree> {
  return stage([ownFiles()], join(target, 'var/application'), APPLICATION_BUDGET, signal)
}

/** The folder of this program's own code: `src` of a checkout or `dist` of the package. */
function ownFiles(): string {
  return fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
}

async function stage(
  sources: readonly string[],
  target: string,
  budget: Budget,
  signal: AbortSignal,
): Promise<StagedTree> {
  let files = 0
  let sizeBytes = 0
  await mkdir(target, { recursive: true })
  for (const source of sources) {
    for await (const path of regularFiles(source)) {
      signal.throwIfAborted()
      const size = await sizeOf(path)
      if (size === undefined || size > MAX_FILE_BYTES || sizeBytes + size > budget.bytes) continue
      const copy = join(target, relative(dirname(source), path))
      await mkdir(dirname(copy), { recursive: true })
      await copyFile(path, copy)
      files += 1
      sizeBytes += size
      if (files >= budget.files) return { path: target, files, sizeBytes }
    }
  }
  return { path: target, files, sizeBytes }
}

async function* regularFiles(root: string): AsyncGenerator<string> {
  const folders = [{ path: root, depth: 0 }]
  let visited = 0
  for (let folder = folders.shift(); folder !== undefined; folder = folders.shift()) {
    const entries = await readdir(folder.path, { withFileTypes: true }).catch(() => [])
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      visited += 1
      if (visited > MAX_VISITED) return
      const path = join(folder.path, entry.name)
      const skipped = entry.name === 'node_modules' && folder.depth === 0
      if (entry.isDirectory() && folder.depth < MAX_DEPTH && !skipped) {
        folders.push({ path, depth: folder.depth + 1 })
      } else if (entry.isFile()) {
        yield path
      }
    }
  }
}

/** undefined for files that this user cannot use. */
async function sizeOf(path: string): Promise<number | undefined> {
  const status = await stat(path).catch(() => undefined)
  return status?.size
}
