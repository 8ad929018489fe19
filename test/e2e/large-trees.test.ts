/**
 * Two trees of more than 10,000 files, as Debian's mkfs.erofs makes them: plain with inline tails, and
 * chunks of 64 KiB on a device of their own. Devices byte for byte, the kernel's mount against the source.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { after, before, describe, test } from 'node:test'

import { missing } from '../requires.ts'
import type { ListedEntry } from './kernel-mount.ts'
import { attach, compareTrees, listTree, mountErofs, mountExport } from './kernel-mount.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'
import { makeTree } from './trees.ts'

const SKIP = missing('root', 'nbdfuse', '/dev/fuse', 'erofs', 'mkfs.erofs', 'nbdcopy')
const FILES = 10_500
const HTTP_FILES = process.env['COMMONPAGE_FULL'] === '1' ? FILES : 600

describe('trees of more than 10,000 files', { skip: SKIP, concurrency: false }, () => {
  let folder: string
  let expected: Map<string, ListedEntry>
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-large-'))
    const tree = join(folder, 'tree')
    await mkdir(tree)
    await makeTree(tree, { seed: 21, files: FILES })
    await runOk('mkfs.erofs', [join(folder, 'plain.erofs'), tree])
    await runOk('mkfs.erofs', [
      '--chunksize=65536',
      `--blobdev=${join(folder, 'chunked.blob')}`,
      join(folder, 'chunked.erofs'),
      tree,
    ])
    expected = await listTree(tree)
    // Debian's mkfs takes whole seconds and nanoseconds of files, but a directory's link count is the kernel's affair.
    for (const [path, entry] of expected)
      if (entry.mode.startsWith('0o4')) expected.set(path, omitLinks(entry))
  })
  after(() => rm(folder, { recursive: true, force: true }))

  for (const args of [
    ['--cache-size', '256MiB'],
    ['--cache-size', '4MiB', '--allow-tiny-cache'],
  ]) {
    test(`plain, ${args.join(' ')}`, async () => {
      await using server = await startServerProcess({ args })
      await importImage(server, [join(folder, 'plain.erofs')], 'large/plain:1')
      await assertDevice(server, 'large/plain:1/-/dev/0', join(folder, 'plain.erofs'))
      await using mounted = await mountExport(server.nbdUri('large/plain:1'), 4)
      assert.deepEqual(compareTrees(expected, await listTree(mounted.path)), [])
      await assertFilesOverHttp(server, 'large/plain:1', expected)
    })

    test(`chunks on a blob device, ${args.join(' ')}`, async () => {
      await using server = await startServerProcess({ args })
      await importImage(
        server,
        [join(folder, 'chunked.erofs'), join(folder, 'chunked.blob')],
        'large/chunked:1',
      )
      await assertDevice(server, 'large/chunked:1/-/dev/0', join(folder, 'chunked.erofs'))
      await assertDevice(server, 'large/chunked:1/-/dev/1', join(folder, 'chunked.blob'))
      await using primary = await attach(server.nbdUri('large/chunked:1/-/dev/0'))
      await using blob = await attach(server.nbdUri('large/chunked:1/-/dev/1'))
      await using mounted = await mountErofs(primary.loop, [blob.loop])
      assert.deepEqual(compareTrees(expected, await listTree(mounted.path)), [])
      await assertFilesOverHttp(server, 'large/chunked:1', expected)
    })
  }
})

function omitLinks(entry: ListedEntry): ListedEntry {
  const copy: { -readonly [K in keyof ListedEntry]: ListedEntry[K] } = { ...entry }
  delete copy.nlink
  return copy
}

async function importImage(
  server: ServerProcess,
  [image = '', ...devices]: readonly string[],
  ref: string,
): Promise<void> {
  const result = await server.run(
    'import',
    'erofs',
    image,
    ...devices.flatMap((one) => ['--device', one]),
    ref,
    '--json',
  )
  assert.equal(result.code, 0, result.stderr)
}

async function assertDevice(server: ServerProcess, name: string, file: string): Promise<void> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  const expected = hash.digest('hex')
  const nbd = await runOk('bash', [
    '-o',
    'pipefail',
    '-c',
    'nbdcopy "$1" - | sha256sum',
    '-',
    server.nbdUri(name),
  ])
  assert.equal(nbd.slice(0, 64), expected, `${name} over NBD`)
  const http = await runOk('bash', [
    '-o',
    'pipefail',
    '-c',
    'curl -sS --fail "$1" | sha256sum',
    '-',
    `${server.http}/v1/images/${name}`,
  ])
  assert.equal(http.slice(0, 64), expected, `${name} over HTTP`)
}

async function assertFilesOverHttp(
  server: ServerProcess,
  ref: string,
  expected: Map<string, ListedEntry>,
): Promise<void> {
  const random = new Random(77)
  const files = [...expected.values()].filter((entry) => entry.sha256 !== undefined)
  for (let i = 0; i < Math.min(HTTP_FILES, files.length); i++) {
    const entry = files[HTTP_FILES >= files.length ? i : random.next(files.length)]
    if (!entry) continue
    const response = await fetch(`${server.http}/v1/images/${ref}/-/files${entry.path}`)
    const sum = createHash('sha256').update(Buffer.from(await response.arrayBuffer()))
    assert.equal(sum.digest('hex'), entry.sha256, entry.path)
  }
}
