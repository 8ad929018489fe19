/** `image export`: files that are the devices that were imported, or nothing. */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import type { ServerProcess } from './server-process.ts'
import { startServerProcess } from './server-process.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/erofs/', import.meta.url))

describe('image export', { concurrency: false }, () => {
  let folder: string
  let server: ServerProcess
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-export-'))
    server = await startServerProcess()
    const plain = await server.run('import', 'erofs', `${FIXTURES}plain.erofs`, 'export/plain:1')
    assert.equal(plain.code, 0, plain.stderr)
    const devices = await server.run(
      'import',
      'erofs',
      `${FIXTURES}chunk-64k-blob.erofs`,
      '--device',
      `${FIXTURES}chunk-64k-blob.blob0`,
      'export/devices:1',
    )
    assert.equal(devices.code, 0, devices.stderr)
  })
  after(async () => {
    await server[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  test('an image of one device is the file that was imported', async () => {
    const file = join(folder, 'plain')
    const { code, stdout, stderr } = await server.run('image', 'export', 'export/plain:1', file)
    assert.equal(code, 0, stderr)
    assert.match(stdout, /mount -t erofs -o ro,loop/)
    assert.deepEqual(await readFile(file), await readFile(`${FIXTURES}plain.erofs`))
  })

  test('--devices: each as a file of its own', async () => {
    const file = join(folder, 'devices')
    const { code, stderr } = await server.run(
      'image',
      'export',
      'export/devices:1',
      file,
      '--devices',
    )
    assert.equal(code, 0, stderr)
    assert.deepEqual(await readFile(file), await readFile(`${FIXTURES}chunk-64k-blob.erofs`))
    assert.deepEqual(await readFile(`${file}.1`), await readFile(`${FIXTURES}chunk-64k-blob.blob0`))
  })

  test('without it: one file, the devices at their unified addresses', async () => {
    const file = join(folder, 'flat')
    const { code, stderr } = await server.run('image', 'export', 'export/devices:1', file)
    assert.equal(code, 0, stderr)
    const bytes = await readFile(file)
    const primary = await readFile(`${FIXTURES}chunk-64k-blob.erofs`)
    const blob = await readFile(`${FIXTURES}chunk-64k-blob.blob0`)
    assert.deepEqual(bytes.subarray(0, primary.length), primary)
    assert.deepEqual(bytes.subarray(bytes.length - blob.length), blob)
  })

  test('what fails leaves nothing behind', async () => {
    const names = await readdir(folder)
    const absent = await server.run('image', 'export', 'export/absent:1', join(folder, 'absent'))
    assert.equal(absent.code, 3)
    const nowhere = await server.run('image', 'export', 'export/plain:1', join(folder, 'no/where'))
    assert.equal(nowhere.code, 1)
    assert.match(nowhere.stderr, /ERR_CLI_FILE_UNWRITABLE/)
    assert.deepEqual(await readdir(folder), names)
  })
})
