/** Several names of one image, and files that are none: what the commands say of them. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import * as schemas from '../../src/server/http/schemas.ts'
import type { FakeServer } from './fake-server.ts'
import { DISK_USAGE, sendJson, startFakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

/** The server's base image has a second tag. */
function twoNames(server: FakeServer): void {
  const [base, ...others] = DISK_USAGE.images
  assert.ok(base)
  const images = [base, { ...base, ref: 'demo/base:stable' }, ...others]
  server.override = (request, response) =>
    request.url?.startsWith('/v1/du') === true &&
    sendJson(response, schemas.DiskUsage, { ...DISK_USAGE, images })
}

describe('an image with two tags', () => {
  test('du adds its unique bytes once', async () => {
    await using server = await startFakeServer()
    twoNames(server)
    const { stdout } = await runCommand(['du', '--server', server.url])
    assert.match(stdout, /^total\s+21\.0 MiB\s+11\.0 MiB\s+9\.0 MiB\s+4\.0 KiB$/m)
  })

  test('rm says which names stay, and what goes when none does', async () => {
    await using server = await startFakeServer()
    twoNames(server)
    const dry = async (...refs: string[]) => {
      const args = ['image', 'rm', '--dry-run', '--json', '--server', server.url]
      const { code, stdout, stderr } = await runCommand([...args, ...refs])
      assert.equal(code, 0)
      return { stays: (JSON.parse(stdout) as { stays: string[] }[])[0]?.stays, stderr }
    }
    const one = await dry('demo/base:1')
    assert.deepEqual(one.stays, ['demo/base:stable'])
    assert.match(one.stderr, /12\.0 MiB, which stays as demo\/base:stable\)/)
    const other = await dry('demo/application:1')
    assert.deepEqual(other.stays, [])
    assert.match(other.stderr, /1\.0 MiB of it in no other image\)/)
  })
})

test('a fifo is refused, not waited for', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-fifo-'))
  try {
    const path = join(folder, 'pipe')
    execFileSync('mkfifo', [path])
    const { code, stderr } = await runCommand(['import', 'erofs', path, 'demo/new:1'])
    assert.equal(code, 3)
    assert.match(stderr, /ERR_CLI_FILE_UNREADABLE.*not a regular file/)
  } finally {
    await rm(folder, { recursive: true })
  }
})
