/** What a server reports of itself: nothing of another domain, and nothing that has changed since. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import type { DiskUsage, Sharing } from '../../src/server/http/schemas.ts'
import { startServerProcess } from '../e2e/server-process.ts'

test('resident bytes of a domain are its own; a blob that was uploaded counts at once', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-reports-'))
  try {
    await using server = await startServerProcess({
      data: join(folder, 'data'),
      args: ['--cache-size', '64MiB', '--workers', '1'],
    })
    const get = async <T>(path: string) => (await (await fetch(server.http + path)).json()) as T
    const file = join(folder, 'image')
    for (const domain of ['read', 'unread']) {
      await writeFile(file, Buffer.alloc(300_000, `bytes of ${domain}`))
      const imported = await server.run('import', 'erofs', file, `${domain}/a:1`)
      assert.equal(imported.code, 0, imported.stderr)
    }
    await (await fetch(`${server.http}/v1/images/read/a:1/-/raw`)).arrayBuffer()
    const whole = (await get<DiskUsage>('/v1/du')).totals
    assert.ok(whole.residentBytes > 0)
    for (const [domain, expected] of [
      ['read', whole.residentBytes],
      ['unread', 0],
      ['unknown', 0],
    ] as const) {
      const { totals } = await get<DiskUsage>(`/v1/du?domain=${domain}`)
      const sharing = await get<Sharing>(`/v1/sharing?domain=${domain}`)
      assert.deepEqual([totals.residentBytes, sharing.residentBytes], [expected, expected], domain)
    }

    const body = Buffer.alloc(50_000, 'a blob of its own')
    const stored = await fetch(`${server.http}/v1/blobs/read`, { method: 'POST', body })
    assert.equal(stored.status, 201)
    const after = (await get<DiskUsage>('/v1/du')).totals
    assert.equal(after.blobs, whole.blobs + 1)
    assert.equal(after.storedBytes, whole.storedBytes + body.length)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
