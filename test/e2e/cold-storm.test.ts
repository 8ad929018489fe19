/**
 * 64 clients open the same cold image at once: each page is read from the store once. Judged by the kernel's
 * own account of the process (/proc/PID/io), readahead off.
 */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { missing } from '../requires.ts'
import { runOk, startServerProcess } from './server-process.ts'
import type { ServerProcess } from './server-process.ts'
import { Random } from '../random.ts'
import { evidence } from '../evidence.ts'

const CLIENTS = 64
const IMAGE_BYTES = 48 * 1024 * 1024

test(`${CLIENTS} clients open a cold image at once`, { skip: missing('root', 'fio') }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-storm-'))
  const data = join(folder, 'data')
  try {
    const image = join(folder, 'image')
    await writeFile(image, new Random(3).bytes(IMAGE_BYTES))
    {
      await using server = await startServerProcess({ data })
      const imported = await server.run('import', 'erofs', image, 'storm/image:1')
      assert.equal(imported.code, 0, imported.stderr)
    }
    await runOk('sync', [])
    await writeFile('/proc/sys/vm/drop_caches', '3\n')
    await using server = await startServerProcess({
      data,
      args: ['--cache-size', '256MiB', '--no-readahead', '--workers', '2'],
    })
    await server.getJson('/v1/images')
    const before = await readBytes(server.pid)
    await runOk('fio', [
      '--name=storm',
      '--ioengine=nbd',
      `--uri=${server.nbdUri('storm/image:1')}`,
      '--rw=randread',
      '--bs=16k',
      '--iodepth=4',
      `--numjobs=${CLIENTS}`,
      '--thread',
      '--group_reporting',
      `--io_size=${IMAGE_BYTES / 8}`,
      '--randseed=9',
      '--allrandrepeat=1',
    ])
    const read = (await readBytes(server.pid)) - before
    const { pages, frameSizeBytes } = await residentPages(server)
    const distinct = pages * frameSizeBytes
    const ratio = (read / distinct).toFixed(4)
    evidence('cold-storm', { clients: CLIENTS, read, distinct, ratio })
    assert.ok(distinct > IMAGE_BYTES / 16)
    assert.ok(
      read <= 1.02 * distinct,
      `${read} bytes were read from the store for ${distinct} bytes of pages`,
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

/** Bytes that the process had the disk deliver. */
async function readBytes(pid: number): Promise<number> {
  const io = await readFile(`/proc/${pid}/io`, 'utf8')
  return Number(/^read_bytes: (\d+)/m.exec(io)?.[1] ?? NaN)
}

async function residentPages(
  server: ServerProcess,
): Promise<{ pages: number; frameSizeBytes: number }> {
  const { cache } = await server.getJson<{
    cache: { residentBytes: number; frameSizeBytes: number }
  }>('/v1/stats')
  return { pages: cache.residentBytes / cache.frameSizeBytes, frameSizeBytes: cache.frameSizeBytes }
}
