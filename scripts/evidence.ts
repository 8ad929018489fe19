/**
 * The head of the pages in docs/evidence: which code was run, on what machine, when. The pages are the
 * record of the last full run and are committed; nothing reads them back.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem, type } from 'node:os'
import { join } from 'node:path'

import { formatSize } from '../src/core/index.ts'
import { ROOT } from './steps.ts'

export function writeEvidence(name: string, title: string, body: readonly string[]): string {
  const folder = join(ROOT, 'docs', 'evidence')
  mkdirSync(folder, { recursive: true })
  const file = join(folder, `${name}.md`)
  const machine = `${cpus()[0]?.model ?? 'unknown processor'}, ${availableParallelism()} cores, ${formatSize(totalmem())}`
  const head = [
    `# ${title}`,
    '',
    `| | |\n| --- | --- |`,
    `| commit | ${commit()} |`,
    `| date | ${new Date().toISOString()} |`,
    `| machine | ${machine}, ${type()} |`,
    `| Node | ${process.version} |`,
  ]
  writeFileSync(file, `${[...head, '', ...body].join('\n')}\n`)
  return file
}

/** The commit that was run; a tree with changes says so. */
function commit(): string {
  try {
    const git = (args: string[]): string =>
      execFileSync('git', ['-c', 'safe.directory=*', ...args], {
        cwd: ROOT,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      })
    const changed = git(['status', '--porcelain', '--untracked-files=no']).trim() !== ''
    return git(['rev-parse', 'HEAD']).trim() + (changed ? ' with changes' : '')
  } catch {
    return 'not a git checkout'
  }
}
