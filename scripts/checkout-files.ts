/**
 * The files that make up this checkout. git knows them; where it is not installed, or the project was unpacked
 * from an archive, they are all files but those that .gitignore names.
 */
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'

import { ROOT } from './steps.ts'

const LIST_TRACKED = ['-c', 'safe.directory=*', 'ls-files', '-z']
const LIST_ALL = [...LIST_TRACKED, '--cached', '--others', '--exclude-standard']

/** Paths relative to the project. `untracked`: also those that nobody has added to git yet. */
export function checkoutFiles(options: { readonly untracked: boolean }): string[] {
  const args = options.untracked ? LIST_ALL : LIST_TRACKED
  const git = spawnSync('git', args, { cwd: ROOT, encoding: 'utf8' })
  if (git.status === 0) return git.stdout.split('\0').filter((file) => file !== '')
  const ignored = readFileSync(join(ROOT, '.gitignore'), 'utf8').split('\n')
  const left = new Set([...ignored.map((line) => line.replace(/\/$/, '')), '.git'])
  const entries = globSync('**/*', {
    cwd: ROOT,
    withFileTypes: true,
    exclude: ({ name }) => left.has(name),
  })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
}
