/**
 * What the product is for: a derived image costs only what is new in it. Both images are stock mkfs.erofs
 * images with inline tails; the judge is test/oracle, which shares no code with the server; the arena's
 * resident pages are what the kernel says they are.
 */
import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm, mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import { newBytes } from '../oracle/new-bytes.ts'
import { missing } from '../requires.ts'
import { mountExport } from './kernel-mount.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'
import { makeTree } from './trees.ts'
import { evidence } from '../evidence.ts'

const SKIP = missing('root', 'nbdfuse', '/dev/fuse', 'erofs', 'mkfs.erofs')
const SLACK_BYTES = 256 * 1024

interface SharingReport {
  readonly images: {
    ref: string
    touchedBytes: number
    addedBytes: number
    residentBytes: number
  }[]
  readonly broughtInBytes: number
  readonly unattributedBytes: number
  readonly residentBytes: number
  readonly capacityBytes: number
}

describe('a derived image', { skip: SKIP, concurrency: false }, () => {
  let folder: string
  let base: string
  let derived: string
  let server: ServerProcess
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-sharing-'))
    const tree = join(folder, 'tree')
    await mkdir(tree)
    await makeTree(tree, { seed: 11, files: 6000 })
    base = join(folder, 'base.erofs')
    derived = join(folder, 'derived.erofs')
    await runOk('mkfs.erofs', ['-T', '1700000000', base, tree])
    const app = join(folder, 'derived')
    await cp(tree, app, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true })
    await makeTree(join(app), { seed: 12, files: 300, prefix: 'm-app' })
    await runOk('mkfs.erofs', ['-T', '1700000000', derived, app])
    server = await startServerProcess({ args: ['--cache-size', '512MiB'] })
  })
  after(async () => {
    await server[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  test('import stores only what is new, and nothing the second time', async () => {
    const first = await importImage(server, base, 'share/base:1')
    const second = await importImage(server, derived, 'share/derived:1')
    const again = await importImage(server, derived, 'share/again:1')
    assert.equal(again.newBytes, 0)
    assert.ok(first.newBytes > 0)
    const oracle = newBytes(base, derived)
    evidence('sharing.store', {
      first: first.newBytes,
      derived: second.newBytes,
      U: oracle.totalBytes,
    })
    // All new pieces are of 64 KiB chunks and of single inodes and directory blocks: U is what they hold.
    assert.ok(
      second.newBytes <= 1.02 * oracle.totalBytes,
      `${second.newBytes} new bytes, U ${oracle.totalBytes}`,
    )
    assert.ok(
      second.newBytes < first.newBytes / 4,
      `${second.newBytes} of ${first.newBytes} bytes are new`,
    )
    assert.deepEqual(second.sharedWith[0]?.ref, 'share/base:1')
  })

  test('reading it adds what the judge says, and all counters agree', async () => {
    await readAll(server, 'share/base:1')
    const earlier = await server.getJson<SharingReport>('/v1/sharing')
    const rssBefore = await arenaResidentBytes(server.pid, earlier.capacityBytes)
    await readAll(server, 'share/derived:1')
    const now = await server.getJson<SharingReport>('/v1/sharing')
    const rss = await arenaResidentBytes(server.pid, earlier.capacityBytes)
    const row = now.images.find(({ ref }) => ref === 'share/derived:1' || ref === 'share/again:1')
    assert.ok(row)
    const oracle = newBytes(base, derived)
    evidence('sharing.added', {
      added: row.addedBytes,
      touched: row.touchedBytes,
      U: oracle.totalBytes,
      ratio: (row.addedBytes / oracle.totalBytes).toFixed(3),
    })
    assert.ok(
      row.addedBytes <= 1.15 * oracle.totalBytes + SLACK_BYTES,
      `added ${row.addedBytes}, U ${oracle.totalBytes}`,
    )
    assert.ok(row.touchedBytes > 4 * row.addedBytes)
    assert.equal(
      now.images.reduce((sum, image) => sum + image.addedBytes, 0) + now.unattributedBytes,
      now.broughtInBytes,
      'Σ added + unattributed = brought in',
    )
    await assertMetricsAgree(server, now)
    const grown = now.residentBytes - earlier.residentBytes
    const seen = rss - rssBefore
    evidence('sharing.resident', { counted: grown, smaps: seen })
    assert.ok(
      Math.abs(seen - grown) <= 0.05 * grown,
      `resident grew by ${grown}, smaps says ${seen}`,
    )
  })
})

async function importImage(server: ServerProcess, path: string, ref: string) {
  const result = await server.run('import', 'erofs', path, ref, '--json')
  assert.equal(result.code, 0, result.stderr)
  return JSON.parse(result.stdout) as {
    newBytes: number
    sharedBytes: number
    sharedWith: { ref: string; bytes: number }[]
  }
}

async function readAll(server: ServerProcess, ref: string): Promise<void> {
  await using mounted = await mountExport(server.nbdUri(ref))
  await runOk('bash', [
    '-c',
    'cd "$1" && find . -ls >/dev/null && find . -type f -print0 | xargs -0 cat >/dev/null',
    '-',
    mounted.path,
  ])
}

/** /metrics says of each image what /v1/sharing says. */
async function assertMetricsAgree(server: ServerProcess, sharing: SharingReport): Promise<void> {
  const text = await (await fetch(`${server.http}/metrics`)).text()
  for (const image of sharing.images) {
    for (const [metric, value] of [
      ['commonpage_image_touched_bytes', image.touchedBytes],
      ['commonpage_image_added_bytes', image.addedBytes],
    ] as const) {
      const line = text
        .split('\n')
        .find((one) => one.startsWith(`${metric}{`) && one.includes(`image="${image.ref}"`))
      assert.equal(Number(line?.split(' ').at(-1)), value, `${metric} of ${image.ref}`)
    }
  }
}

/** Resident bytes of the arena: the one mapping that has exactly its size. */
async function arenaResidentBytes(pid: number, capacityBytes: number): Promise<number> {
  const smaps = await readFile(`/proc/${pid}/smaps`, 'utf8')
  let size = 0
  for (const line of smaps.split('\n')) {
    const match = /^(Size|Rss):\s+(\d+) kB/.exec(line)
    if (match?.[1] === 'Size') size = Number(match[2]) * 1024
    else if (match?.[1] === 'Rss' && size === capacityBytes) return Number(match[2]) * 1024
  }
  throw new Error(`no mapping of ${capacityBytes} bytes`)
}
