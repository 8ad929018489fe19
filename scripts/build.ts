/**
 * Compiles src to dist, from nothing: Node runs .ts files from a checkout, but not from node_modules, so the
 * published package holds JavaScript. dist/nbd becomes the package nbd-server-ts when pack.ts stages it.
 */
import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { describeFailures, ROOT, runStep } from './steps.ts'

/** Files that are served or read as they are, relative to src. */
const ASSETS = ['dashboard/static']

export async function build(): Promise<boolean> {
  const dist = join(ROOT, 'dist')
  await rm(dist, { recursive: true, force: true })
  const compiled = await runStep({ name: 'build', command: ['tsc', '-p', 'tsconfig.build.json'] })
  for (const line of describeFailures([compiled])) console.log(line)
  if (!compiled.passed) return false
  for (const folder of ASSETS) {
    await cp(join(ROOT, 'src', folder), join(dist, folder), { recursive: true })
  }
  return true
}

if (import.meta.main && !(await build())) process.exitCode = 1
