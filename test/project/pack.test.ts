/**
 * The npm package works where it is installed: built, packed, installed into an empty folder, started.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'

import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

import { build } from '../../scripts/build.ts'
import { npmEnvironment, pack, stage } from '../../scripts/pack.ts'

const run = promisify(execFile)
const INSTALL_DEADLINE_MS = 180_000

describe('the npm package', () => {
  let folder = ''
  let staged = ''
  let installed = ''

  before(
    async () => {
      folder = await mkdtemp(join(tmpdir(), 'commonpage pack '))
      staged = join(folder, 'staged')
      installed = join(folder, 'installed')
      assert.ok(await build(), 'the build works')
      await stage(staged)
      const archive = pack(staged, folder)
      await mkdir(installed)
      await writeFile(join(installed, 'package.json'), '{"private":true}')
      await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', archive], {
        cwd: installed,
        env: npmEnvironment(),
      })
    },
    { timeout: INSTALL_DEADLINE_MS },
  )

  after(() => rm(folder, { recursive: true, force: true }))

  test('commonpage --version prints the version', async () => {
    const command = join(installed, 'node_modules', '.bin', 'commonpage')
    const { stdout } = await run(process.execPath, [command, '--version'], { cwd: tmpdir() })
    const manifest = await readFile(new URL('../../package.json', import.meta.url), 'utf8')
    assert.equal(stdout.trim(), (JSON.parse(manifest) as { version: string }).version)
  })

  test('every module of the package loads', async () => {
    const code = `
      const names = ['commonpage', 'commonpage/erofs', 'nbd-server-ts']
      const all = await Promise.all(names.map((name) => import(name)))
      console.log(all.every((module) => Object.keys(module).length > 0))`
    const inside = join(installed, 'node_modules', 'commonpage')
    const script = join(inside, 'load-all.mjs')
    await writeFile(script, code)
    const { stdout } = await run(process.execPath, [script], { cwd: inside })
    assert.equal(stdout.trim(), 'true')
  })

  test('it holds JavaScript only, and nothing of the checkout', async () => {
    const inside = join(installed, 'node_modules', 'commonpage')
    const { stdout } = await run(
      'find',
      ['.', '-name', '*.ts', '-not', '-name', '*.d.ts', '-not', '-path', './node_modules/*'],
      { cwd: inside },
    )
    assert.equal(stdout, '')
    const bundled = join(inside, 'node_modules', 'nbd-server-ts')
    assert.ok(existsSync(join(bundled, 'dist', 'index.js')))
    assert.ok(!existsSync(join(bundled, 'index.ts')))
    assert.ok(!existsSync(join(inside, 'dist', 'nbd')))
    for (const absent of ['src', 'test', 'scripts'])
      assert.ok(!existsSync(join(inside, absent)), absent)
  })

  test('publint finds nothing', async () => {
    for (const pkgDir of [staged, join(staged, 'node_modules', 'nbd-server-ts')]) {
      const { messages, pkg } = await publint({ pkgDir, strict: true })
      const found = messages.map((message) => formatMessage(message, pkg))
      assert.deepEqual(found, [], pkgDir)
    }
  })
})
