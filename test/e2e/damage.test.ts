/** A page that went bad on disk: an error for whoever reads it, never wrong bytes, and everything else goes on; a good copy of the file is used as soon as it is there. */
import assert from 'node:assert/strict'
import { copyFile, mkdtemp, open, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { missing } from '../requires.ts'
import { run, startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'

const IMAGE_BYTES = 1024 * 1024
const DAMAGED_AT = 512 * 1024 + 100

test(
  'a corrupted page gives errors, a counter and a log line',
  { skip: missing('qemu-io') },
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-damage-'))
    const data = join(folder, 'data')
    try {
      const bytes = new Random(4).bytes(IMAGE_BYTES)
      await writeFile(join(folder, 'image'), bytes)
      {
        await using server = await startServerProcess({ data })
        const imported = await server.run(
          'import',
          'erofs',
          join(folder, 'image'),
          'damage/image:1',
        )
        assert.equal(imported.code, 0, imported.stderr)
      }
      const blob = await blobFile(data)
      await copyFile(blob, join(folder, 'good'))
      await damage(blob)
      await using server = await startServerProcess({ data })
      const raw = `${server.http}/v1/images/damage/image:1/-/raw`

      const good = await fetch(raw, { headers: { Range: 'bytes=0-99999' } })
      assert.ok(Buffer.from(await good.arrayBuffer()).equals(bytes.subarray(0, 100_000)))
      const behind = await fetch(raw, { headers: { Range: 'bytes=900000-999999' } })
      assert.ok(Buffer.from(await behind.arrayBuffer()).equals(bytes.subarray(900_000, 1_000_000)))

      await assertNeverServed(raw, bytes)
      const nbd = await run('qemu-io', [
        '-r',
        '-f',
        'raw',
        '-c',
        `read ${DAMAGED_AT} 512`,
        server.nbdUri('damage/image:1'),
      ])
      assert.match(nbd.stdout + nbd.stderr, /Input\/output error/)
      const fine = await run('qemu-io', [
        '-r',
        '-f',
        'raw',
        '-c',
        'read 0 4096',
        server.nbdUri('damage/image:1'),
      ])
      assert.match(fine.stdout, /read 4096\/4096 bytes/)

      const metrics = await (await fetch(`${server.http}/metrics`)).text()
      const counted =
        /commonpage_cache_fill_errors_total\{code="ERR_CACHE_PAGE_CORRUPT"\} (\d+)/.exec(metrics)
      assert.ok(Number(counted?.[1]) >= 2, `counter: ${counted?.[0]}`)
      assert.ok(
        server.logs.some((line) => JSON.stringify(line).includes('ERR_CACHE_PAGE_CORRUPT')),
        'no log line',
      )
      const stats = await server.getJson<{ cache: { pinnedBytes: number } }>('/v1/stats')
      assert.equal(stats.cache.pinnedBytes, 0)

      await rename(join(folder, 'good'), blob)
      const restored = await fetch(raw)
      assert.equal(restored.status, 200)
      assert.ok(
        Buffer.from(await restored.arrayBuffer()).equals(bytes),
        'a good copy that was renamed over the bad file is served at once',
      )
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
)

/** Headers may have gone out before the page was read: then the body must break off before the damage. */
async function assertNeverServed(raw: string, bytes: Buffer): Promise<void> {
  const start = DAMAGED_AT - 50
  let received: Buffer | undefined
  try {
    const response = await fetch(raw, { headers: { Range: `bytes=${start}-${DAMAGED_AT + 50}` } })
    if (response.status === 502) return
    assert.equal(response.status, 206)
    received = Buffer.from(await response.arrayBuffer())
  } catch {
    return // the connection broke: no complete answer
  }
  assert.fail(
    `a complete answer of ${received.length} bytes came, equal: ${received.equals(bytes.subarray(start, start + received.length))}`,
  )
}

async function blobFile(data: string): Promise<string> {
  const folder = join(data, 'domains/damage/blobs/sha256')
  const names = await readdir(folder, { recursive: true, withFileTypes: true })
  const blob = names.find((entry) => entry.isFile() && !entry.name.endsWith('.idx'))
  assert.ok(blob)
  return join(blob.parentPath, blob.name)
}

/** Flips one bit. */
async function damage(path: string): Promise<void> {
  await using file = await open(path, 'r+').catch(async () => {
    await run('chmod', ['u+w', path])
    return open(path, 'r+')
  })
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, DAMAGED_AT)
  byte[0] = (byte[0] ?? 0) ^ 0x10
  await file.write(byte, 0, 1, DAMAGED_AT)
}
