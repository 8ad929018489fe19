/** What a server reports of itself: nothing of another domain, and nothing that has changed since. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import type { DiskUsage, Sharing, Stats } from '../../src/server/http/schemas.ts'
import { startServerProcess } from '../e2e/server-process.ts'

const BLOB = Buffer.alloc(50_000, 'a blob of its own')

function post(http: string, domain: string): Promise<Response> {
  return fetch(`${http}/v1/blobs/${domain}`, { method: 'POST', body: BLOB })
}

test('resident and brought in bytes of a domain are its own; a blob that was uploaded counts at once', async () => {
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
      const added = sharing.images.reduce((sum, row) => sum + row.addedBytes, 0)
      assert.equal(sharing.broughtInBytes, added + sharing.unattributedBytes, domain)
      assert.equal(sharing.broughtInBytes > 0, domain === 'read', domain)
    }
    // Read by digest: for no image.
    const { digest } = Object(await (await post(server.http, 'unread')).json()) as {
      digest: string
    }
    await (await fetch(`${server.http}/v1/blobs/unread/${digest}`)).arrayBuffer()
    const sums = async (query: string) => {
      const report = await get<Sharing>(`/v1/sharing${query}`)
      return [report.unattributedBytes, report.broughtInBytes] as const
    }
    const [all, read, unread] = await Promise.all(['', '?domain=read', '?domain=unread'].map(sums))
    assert.deepEqual(unread, [BLOB.length, BLOB.length])
    assert.deepEqual(read?.[0], 0)
    assert.deepEqual(all, [BLOB.length, BLOB.length + (read?.[1] ?? 0)])

    assert.equal((await post(server.http, 'read')).status, 201)
    const after = (await get<DiskUsage>('/v1/du')).totals
    assert.equal(after.blobs, whole.blobs + 2)
    assert.equal(after.storedBytes, whole.storedBytes + 2 * BLOB.length)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test('stats count open connections of HTTP, and uploads that are coming or parked', async () => {
  await using server = await startServerProcess({ args: ['--workers', '2'] })
  const stats = () => server.getJson<Stats>('/v1/stats')
  const before = await stats()
  assert.deepEqual(before.uploads, { receiving: 0, parked: 0 })
  assert.ok(before.httpConnections >= 1, 'the one that asks')

  const sockets = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const socket = connect(Number(new URL(server.http).port), '127.0.0.1')
      await once(socket, 'connect')
      const answered = once(socket, 'data')
      socket.write(
        'POST /v1/blobs/d HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n',
      )
      await answered // the go-ahead comes after admission
      return socket
    }),
  )
  const during = await stats()
  assert.equal(during.httpConnections - before.httpConnections, 5)
  assert.deepEqual(during.uploads, { receiving: 5, parked: 0 })
  for (const socket of sockets) socket.destroy()
  const parked = await fetch(`${server.http}/v1/blobs/d?park=true`, { method: 'POST', body: BLOB })
  assert.ok(parked.ok)
  // fetch keeps connections of its own; the five are gone when no more than those are open.
  const fetching = 3
  let now = await stats()
  while (now.httpConnections > fetching || now.uploads.receiving > 0) now = await stats()
  assert.deepEqual(now.uploads, { receiving: 0, parked: 1 })
})
