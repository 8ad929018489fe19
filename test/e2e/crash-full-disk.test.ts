/**
 * A running server whose disk fills up: before an upload, while one is received, while it is imported, and when
 * tags change. Clients get a clear error over HTTP and on the command line, the room comes back, nothing is lost.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'

import { loadFixture, sha256 } from '../erofs/fixtures.ts'
import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import { count, dataFolder } from '../store/data-folder.ts'
import type { SmallDisk } from '../store/small-disk.ts'
import { smallDisk } from '../store/small-disk.ts'
import { DOMAIN, listImages, servedContent } from './crash/client.ts'
import type { ServerProcess } from './server-process.ts'
import { startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'

const KIB = 1024
const IMAGE_BYTES = 1024 * KIB
/** From nothing to more than an import needs: the upload, the new blob and what belongs to it. */
const STEP_BYTES = count(64, 640) * KIB
const MAX_FREE = 4 * IMAGE_BYTES
/** Below what a server keeps free for maps, records and tags. */
const LITTLE = 32 * KIB * KIB

interface Answer {
  readonly status: number | undefined
  readonly body: { readonly code?: string; readonly detail?: string; readonly digest?: string }
  /** Whether the server asked for the body. */
  readonly admitted: boolean
}

/** Imports with `Expect: 100-continue`; what is done when the server is ready for the body is the caller's. */
async function importImage(
  server: ServerProcess,
  tag: string,
  image: Buffer,
  onAdmitted: () => Promise<void> = () => Promise.resolve(),
): Promise<Answer> {
  const path = `/v1/images/${DOMAIN}/app:${tag}?format=erofs&wait=true`
  const sent = request(server.http + path, {
    method: 'POST',
    headers: { Expect: '100-continue', 'Content-Length': image.byteLength },
  })
  let admitted = false
  sent.once('continue', () => {
    admitted = true
    void onAdmitted().then(() => sent.end(image))
  })
  // An answer before the end of the body may close the connection.
  sent.on('error', () => undefined)
  sent.flushHeaders()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  const body = JSON.parse(await text(response)) as Answer['body']
  sent.destroy()
  return { status: response.statusCode, body, admitted }
}

async function moveTag(server: ServerProcess, to: string, from: string): Promise<number> {
  const response = await fetch(`${server.http}/v1/images/${DOMAIN}/app:${to}`, {
    method: 'PUT',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ from: `${DOMAIN}/app:${from}` }),
  })
  await response.body?.cancel()
  return response.status
}

async function assertFull(disk: SmallDisk, server: ServerProcess, answer: Answer): Promise<void> {
  assert.deepEqual([answer.status, answer.body.code], [507, 'ERR_STORE_FULL'])
  assert.ok((answer.body.detail ?? '').length > 0)
  assert.deepEqual(await readdir(join(disk.path, 'data/domains', DOMAIN, 'uploads')), [])
  const ready = await fetch(`${server.http}/readyz`)
  assert.equal(ready.status, 200)
}

test(
  'a disk that fills up under a running server',
  { skip: missing('root', 'tmpfs') },
  async () => {
    await using folder = await dataFolder()
    await using disk = await smallDisk('80m')
    await using server = await startServerProcess({
      data: join(disk.path, 'data'),
      args: ['--workers', '1', '--cache-size', '64MiB'],
    })
    const [base] = loadFixture('plain').devices
    assert.ok(base !== undefined)
    const first = await importImage(server, 'base', Buffer.from(base))
    assert.equal(first.status, 201)
    const { digest = '' } = first.body
    const listed = await listImages(server.http)
    const image = new Random(11).bytes(IMAGE_BYTES)

    // No room to begin with: the body is never asked for, and the command says why.
    await disk.leaveFree(LITTLE)
    const refused = await importImage(server, 'new', image)
    assert.equal(refused.admitted, false)
    await assertFull(disk, server, refused)
    const file = join(folder.path, 'image')
    await writeFile(file, image)
    const command = await server.run('import', 'erofs', file, `${DOMAIN}/app:new`)
    assert.equal(command.code, 1)
    assert.match(command.stderr, /ERR_STORE_FULL/)
    await disk.clear()

    // The disk fills up when the upload was admitted: with each amount that may be left, another step fails.
    let failures = 0
    for (let free = 0; free <= MAX_FREE; free += STEP_BYTES) {
      const before = await disk.freeBytes()
      const answer = await importImage(server, 'new', image, () => disk.leaveFree(free))
      assert.ok(answer.admitted)
      await disk.clear()
      if (answer.status === 201) break
      failures++
      await assertFull(disk, server, answer)
      assert.equal(await disk.freeBytes(), before, `${free} bytes left: room is not given back`)
      assert.deepEqual(await listImages(server.http), listed)
      assert.equal(await servedContent(server.http, digest), sha256(base))
    }
    assert.ok(failures >= 3)
    const added = (await listImages(server.http)).get(`${DOMAIN}/app:new`)
    assert.equal(added?.content, sha256(image))
    assert.equal(await servedContent(server.http, added.digest), sha256(image))

    // No byte is free: tags stay as they are, and can be removed.
    await disk.leaveFree(0)
    assert.equal(await moveTag(server, 'base', 'new'), 507)
    assert.equal(await moveTag(server, 'other', 'new'), 507)
    const full = await listImages(server.http)
    assert.deepEqual([...full.keys()].toSorted(), [`${DOMAIN}/app:base`, `${DOMAIN}/app:new`])
    assert.equal(full.get(`${DOMAIN}/app:base`)?.digest, digest)
    const removed = await server.run('image', 'rm', '--yes', `${DOMAIN}/app:new`)
    assert.equal(removed.code, 0, removed.stderr)
    assert.deepEqual(await listImages(server.http), listed)
    await disk.clear()
    const command2 = await server.run('import', 'erofs', file, `${DOMAIN}/app:new`)
    assert.equal(command2.code, 0, command2.stderr)
    evidence('e2e.full_disk', { stepBytes: STEP_BYTES, failures })
  },
)
