/**
 * The steps of the Dockerfile without a container engine: the build stage's commands run in a copy of what
 * .dockerignore lets through, and the result starts where the last stage would put it.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'

import { checkoutFiles } from '../../scripts/checkout-files.ts'
import { npmEnvironment } from '../../scripts/pack.ts'
import { ROOT } from '../../scripts/steps.ts'

const run = promisify(execFile)
const BUILD_DEADLINE_MS = 300_000

const dockerfile = readFileSync(join(ROOT, 'Dockerfile'), 'utf8')
const [buildStage = '', lastStage = ''] = dockerfile.split(/^FROM /m).slice(1)

function ignored(path: string): boolean {
  const patterns = readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n')
  const [top = ''] = path.split('/')
  return patterns.includes(top)
}

describe('Dockerfile', () => {
  test('the build stage makes a program that starts', { timeout: BUILD_DEADLINE_MS }, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-image-'))
    const [source, app] = [join(folder, 'src'), join(folder, 'app')]
    for (const file of checkoutFiles({ untracked: true })) {
      if (ignored(file) || !existsSync(join(ROOT, file))) continue
      await cp(join(ROOT, file), join(source, file))
    }
    const steps = [...buildStage.matchAll(/^RUN (.+)$/gm)].map(([, step = '']) => step)
    assert.ok(steps.length > 0)
    for (const step of steps) {
      // The folder of the last stage, moved below ours.
      const command = step.replaceAll('/app', app)
      await run('sh', ['-eu', '-c', command], { cwd: source, env: npmEnvironment() })
    }
    // What the build stage had is gone in the last one.
    await rm(source, { recursive: true })
    const { stdout } = await run(process.execPath, [join(app, 'bin/commonpage.js'), '--version'])
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/)
    await rm(folder, { recursive: true })
  })

  test('the last stage runs as another user than root and says how healthy it is', () => {
    assert.match(lastStage, /^USER node$/m)
    assert.match(lastStage, /^HEALTHCHECK .*CMD \["commonpage", "health"\]$/m)
    assert.match(lastStage, /^VOLUME \/data$/m)
    assert.match(lastStage, /^EXPOSE 8080 10809$/m)
    assert.ok(lastStage.indexOf('USER node') > lastStage.lastIndexOf('RUN '))
  })
})
