/**
 * package-lock.json is one that `npm ci` accepts on every platform and that names no registry.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'

import { completeLock, missingEntries } from '../../scripts/lock.ts'
import type { LockFile } from '../../scripts/lock.ts'

const text = readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8')

describe('package-lock.json', () => {
  test('has an entry for every optional platform package', () => {
    assert.deepEqual(missingEntries(JSON.parse(text) as LockFile), [], 'run: npm run lock')
  })

  test('holds no download address', () => {
    assert.doesNotMatch(text, /"resolved": "https?:/)
  })
})

describe('completing a lock file', () => {
  const lock: LockFile = {
    packages: {
      'node_modules/tool': {
        version: '1.2.3',
        dev: true,
        optionalDependencies: { '@tool/linux-x64-musl': '1.2.3', '@tool/darwin-arm64': '1.2.3' },
      },
      'node_modules/tool/node_modules/@tool/darwin-arm64': { version: '1.2.3' },
    },
  }

  test('adds what is missing, for its platform only', () => {
    const { packages } = completeLock(lock)
    assert.deepEqual(packages['node_modules/@tool/linux-x64-musl'], {
      version: '1.2.3',
      cpu: ['x64'],
      libc: ['musl'],
      os: ['linux'],
      dev: true,
      optional: true,
    })
    assert.equal(Object.keys(packages).length, 3)
    assert.deepEqual(missingEntries({ packages }), [])
  })

  test('does not guess versions or platforms', () => {
    const range: LockFile = {
      packages: { 'node_modules/a': { optionalDependencies: { 'b-linux-x64': '^1.0.0' } } },
    }
    assert.throws(() => completeLock(range), /not an exact version/)
    const unnamed: LockFile = {
      packages: { 'node_modules/a': { optionalDependencies: { b: '1.0.0' } } },
    }
    assert.throws(() => completeLock(unnamed), /does not say/)
  })
})
