/**
 * The first start on a machine: what scripts/bootstrap.js and ./commonpage install, when they do not, and what
 * they say when they cannot. Against a pretended npm; a fresh clone is tried by continuous integration.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, rm, symlink, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { FakeCheckout } from './fake-checkout.ts'
import type { Outcome } from './fake-checkout.ts'

interface Shown {
  readonly args: string[]
  readonly cwd: string
  readonly pool?: string
  readonly pid: number
}

/** What the program saw; also asserts that nothing else was written to stdout. */
function shown({ stdout, stderr }: Outcome): Shown {
  assert.match(stdout, /^\{[^\n]*\}\n$/, `stdout: ${stdout}\nstderr: ${stderr}`)
  return JSON.parse(stdout) as Shown
}

describe('scripts/bootstrap.js', () => {
  test('installs once, and runs the task in the checkout', async () => {
    await using checkout = await FakeCheckout.create()
    const first = await checkout.bootstrap('show', '0', 'two words')
    assert.deepEqual(shown(first).args, ['0', 'two words'])
    assert.equal(shown(first).cwd, checkout.root)
    assert.equal(shown(await checkout.bootstrap('show')).cwd, checkout.root)
    assert.deepEqual(await checkout.npmCalls(), ['ci'])
  })

  test('installs again when the lock file changed, also by one version', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.bootstrap('show')
    await checkout.lock({ a: { version: '1.0.1' }, b: { version: '1.0.0', dev: true } })
    shown(await checkout.bootstrap('show'))
    assert.deepEqual(await checkout.npmCalls(), ['ci', 'ci'])
  })

  test('an optional package of another platform is not missed', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.bootstrap('show')
    await checkout.lock({
      a: { version: '1.0.0' },
      b: { version: '1.0.0', dev: true },
      c: { version: '1.0.0', optional: true },
    })
    shown(await checkout.bootstrap('show'))
    assert.deepEqual(await checkout.npmCalls(), ['ci'])
  })

  test('with install scripts off it takes the package that holds the binary', async () => {
    await using checkout = await FakeCheckout.create()
    checkout.env['FAKE_NO_SCRIPTS'] = '1'
    shown(await checkout.bootstrap('show'))
    shown(await checkout.bootstrap('show'))
    assert.deepEqual(await checkout.npmCalls(), [
      'ci',
      `install node-${process.platform}-${process.arch}@99.1.0`,
    ])
  })

  test('starts at the same time install once', async () => {
    await using checkout = await FakeCheckout.create()
    const outcomes = await Promise.all([1, 2, 3].map(() => checkout.bootstrap('show')))
    for (const outcome of outcomes) shown(outcome)
    assert.deepEqual(await checkout.npmCalls(), ['ci'])
    assert.ok(outcomes.some(({ stderr }) => stderr.includes('waiting for another start')))
  })

  test('a failed installation says what to do, and the next start tries again', async () => {
    await using checkout = await FakeCheckout.create()
    checkout.env['FAKE_NPM_FAILS'] = '1'
    const failed = await checkout.bootstrap('show')
    assert.equal(failed.code, 1)
    assert.equal(failed.stdout, '')
    assert.match(failed.stderr, /EAI_AGAIN[\s\S]*npm ci --include=dev failed[\s\S]*connect once/)
    checkout.env['FAKE_NPM_FAILS'] = ''
    shown(await checkout.bootstrap('show'))
  })

  test('without npm it says how to get it', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.removeTool('npm')
    const failed = await checkout.bootstrap('show')
    assert.equal(failed.code, 1)
    assert.match(failed.stderr, /apt-get install npm/)
  })

  test('a cache that cannot be written is replaced', async () => {
    await using checkout = await FakeCheckout.create()
    // A file where a folder is needed fails for root as well.
    await symlink('/dev/null', join(checkout.root, '..', 'npm-cache'))
    const { stderr } = await checkout.bootstrap('show')
    assert.match(stderr, /npm cannot write to .*npm-cache, using .*\.cache\/npm/)
  })

  test('exit code and signal of the task are its own', async () => {
    await using checkout = await FakeCheckout.create()
    assert.equal((await checkout.bootstrap('show', '7')).code, 7)
    const child = checkout.start(process.execPath, ['scripts/bootstrap.js', 'show', 'wait'])
    assert.ok(child.stdout)
    await once(child.stdout, 'data')
    child.kill('SIGTERM')
    await once(child, 'close')
    assert.equal(child.signalCode, 'SIGTERM')
  })

  test('an unknown task is refused with the known ones', async () => {
    await using checkout = await FakeCheckout.create()
    const failed = await checkout.bootstrap('nonsense')
    assert.equal(failed.code, 1)
    assert.match(failed.stderr, /no task 'nonsense'\nTasks: /)
  })
})

describe('./commonpage', () => {
  test('installs on first use and passes arguments, exit code and pool size', async () => {
    await using checkout = await FakeCheckout.create()
    const outcome = await checkout.launch('5', 'a b')
    assert.equal(outcome.code, 5)
    assert.deepEqual(shown(outcome).args, ['5', 'a b'])
    assert.equal(shown(outcome).pool, '8')
    checkout.env['UV_THREADPOOL_SIZE'] = '3'
    assert.equal(shown(await checkout.launch()).pool, '3')
  })

  test('works through a link from another folder, and stays in that folder', async () => {
    await using checkout = await FakeCheckout.create()
    const elsewhere = join(checkout.root, '..', 'else where')
    await mkdir(elsewhere)
    await symlink(join(checkout.root, 'commonpage'), join(elsewhere, 'cp link'))
    const outcome = await checkout.run('./cp link', ['0'], { cwd: elsewhere })
    assert.equal(shown(outcome).cwd, elsewhere)
  })

  test('becomes the program: same process id, and signals reach it', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.launch()
    const child = checkout.start(join(checkout.root, 'commonpage'), ['wait'])
    assert.ok(child.stdout)
    const [text] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string]
    assert.equal((JSON.parse(text) as Shown).pid, child.pid)
    child.kill('SIGTERM')
    await once(child, 'close')
    assert.equal(child.signalCode, 'SIGTERM')
  })

  test('a second start needs nothing but Node, until the lock file is newer', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.launch()
    await rm(join(checkout.root, 'scripts'), { recursive: true })
    await checkout.removeTool('npm')
    assert.equal((await checkout.launch()).code, 0)
    const later = Date.now() / 1000 + 60
    await utimes(join(checkout.root, 'package-lock.json'), later, later)
    assert.notEqual((await checkout.launch()).code, 0)
  })

  test('development packages are not asked for', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.launch()
    await checkout.lock({ a: { version: '1.0.0' }, b: { version: '2.0.0', dev: true } })
    assert.equal((await checkout.launch()).code, 0)
    assert.deepEqual(await checkout.npmCalls(), ['ci'])
  })

  test('without Node it says how to get it', async () => {
    await using checkout = await FakeCheckout.create()
    await checkout.removeTool('node')
    const failed = await checkout.launch()
    assert.equal(failed.code, 1)
    assert.equal(failed.stdout, '')
    assert.match(failed.stderr, /Node is not installed[\s\S]*apt-get install nodejs/)
  })
})
