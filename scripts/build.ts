/**
 * Compiles src to dist, from nothing: Node runs .ts files from a checkout, but not from node_modules, so the
 * published package holds JavaScript. dist/nbd becomes the package nbd-server-ts when pack.ts stages it.
 */
import { globSync } from 'node:fs'
import { cp, rm } from 'node:fs/promises'
import { join, relative } from 'node:path'

import { describeFailures, ROOT, runStep } from './steps.ts'

/** Files that are served or read as they are: the page. The NBD library has none. */
function assets(): string[] {
  return globSync('**/*', { cwd: join(ROOT, 'src'), withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.(?:ts|md)$/.test(entry.name))
    .map((entry) => relative(join(ROOT, 'src'), join(entry.parentPath, entry.name)))
    .filter((path) => !path.startsWith('nbd/'))
}

export async function build(): Promise<boolean> {
  const dist = join(ROOT, 'dist')
  await rm(dist, { recursive: true, force: true })
  const compiled = await runStep({ name: 'build', command: ['tsc', '-p', 'tsconfig.build.json'] })
  for (const line of describeFailures([compiled])) console.log(line)
  if (!compiled.passed) return false
  for (const path of assets()) {
    await cp(join(ROOT, 'src', path), join(dist, path))
  }
  return true
}

if (import.meta.main && !(await build())) process.exitCode = 1
