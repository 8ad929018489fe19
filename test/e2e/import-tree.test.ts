/**
 * Directories and archives become images: what this kernel sees in a mount over NBD is the tree that was given, and
 * what fsck.erofs reads is accepted.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { missing } from '../requires.ts'
import type { ListedEntry } from './kernel-mount.ts'
import { compareTrees, listTree, mountExport } from './kernel-mount.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'

const FULL = process.env['COMMONPAGE_FULL'] === '1'
const SKIP = missing('root', 'nbdfuse', '/dev/fuse', 'erofs', 'fsck.erofs')
const ENTRIES_IN_ONE_DIRECTORY = FULL ? 70_000 : 3000
const HARD_LINKS = FULL ? 5000 : 500
const SCRIPT = fileURLToPath(new URL('adversarial-tree.py', import.meta.url))

interface Report {
  readonly digest: string
  readonly newBytes: number
  readonly notes: readonly string[]
}

describe('a tree of everything', { skip: SKIP, concurrency: false }, () => {
  let folder: string
  let tree: string
  let server: ServerProcess
  let expected: Map<string, ListedEntry>

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-tree-'))
    tree = join(folder, 'tree')
    await runOk('/usr/bin/python3', [
      SCRIPT,
      tree,
      String(ENTRIES_IN_ONE_DIRECTORY),
      String(HARD_LINKS),
    ])
    expected = await listTree(tree)
    server = await startServerProcess()
  })
  after(async () => {
    await server[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  async function importTree(...args: string[]): Promise<Report> {
    const result = await server.run('import', ...args, '--json', '--progress', 'none')
    assert.equal(result.code, 0, result.stderr)
    return JSON.parse(result.stdout) as Report
  }

  async function assertMounted(ref: string): Promise<void> {
    await using mounted = await mountExport(server.nbdUri(ref))
    assert.deepEqual(compareTrees(expected, await listTree(mounted.path)).slice(0, 20), [])
  }

  test('import dir: the mount is the tree', async () => {
    const report = await importTree('dir', tree, 'trees/dir:1')
    assert.deepEqual(report.notes, [])
    await assertMounted('trees/dir:1')
  })

  test('exported, fsck.erofs reads all of it, and importing it again stores nothing', async () => {
    const image = join(folder, 'image.erofs')
    const exported = await server.run('image', 'export', 'trees/dir:1', image, '--progress', 'none')
    assert.equal(exported.code, 0, exported.stderr)
    await runOk('fsck.erofs', ['--extract', image])
    const again = await importTree('erofs', image, 'trees/exported:1')
    assert.equal(again.newBytes, 0)
    const { blocks, size } = await stat(image)
    assert.ok(blocks * 512 < size, 'zeros are holes')
    await rm(image)
  })

  test('the same directory gives the same image, and adds nothing', async () => {
    const first = await importTree('dir', tree, 'trees/dir:1')
    const second = await importTree('dir', tree, 'trees/dir:2')
    assert.equal(second.digest, first.digest)
    assert.equal(second.newBytes, 0)
  })

  for (const [form, ...command] of [
    ['plain', 'cat'],
    ['gzip', 'gzip', '-1'],
    ['zstd', 'zstd', '-1', '-q'],
    ['xz', 'xz', '-0'],
  ] as const) {
    const skip = command[0] === 'cat' ? false : missing(command[0])
    test(`import tar, ${form}: no file data is stored again`, { skip }, async () => {
      // sockets are not in an archive of tar
      const archive = join(folder, `archive.${form}`)
      await runOk('bash', [
        '-o',
        'pipefail',
        '-c',
        'tar --format=pax --xattrs --xattrs-include="*" --sparse --warning=no-file-ignored -C "$1" -c . | "${@:3}" > "$2"',
        '-',
        tree,
        archive,
        ...command,
      ])
      const report = await importTree('tar', archive, `trees/${form}:1`)
      assert.ok(report.newBytes < 8 * 1024 * 1024, `${report.newBytes} bytes of metadata`)
      await using mounted = await mountExport(server.nbdUri(`trees/${form}:1`))
      const withoutSocket = new Map(expected)
      withoutSocket.delete('/socket')
      assert.deepEqual(compareTrees(withoutSocket, await listTree(mounted.path)).slice(0, 20), [])
      await rm(archive)
    })
  }

  const cutArchive = (options: string, bytes: number, to: string): Promise<string> => {
    const script = 'tar -C "$1" "$2" names levels | head -c "$3" > "$4"'
    return runOk('bash', ['-c', script, '-', tree, options, String(bytes), to])
  }

  test('an archive cut short is refused, and nothing of it is there', async () => {
    const archive = join(folder, 'cut.tar')
    await cutArchive('-c', 30_000, archive)
    const cut = await server.run('import', 'tar', archive, 'trees/cut:1')
    assert.equal(cut.code, 1)
    assert.match(cut.stderr, /ERR_TAR_TRUNCATED/)
    const gzip = join(folder, 'cut.tar.gz')
    await cutArchive('-cz', 2000, gzip)
    const damaged = await server.run('import', 'tar', gzip, 'trees/cut:1')
    assert.equal(damaged.code, 1)
    assert.match(damaged.stderr, /ERR_IMPORT_ARCHIVE/)
    const shown = await server.run('image', 'show', 'trees/cut:1')
    assert.equal(shown.code, 3)
  })

  test('standard input is an archive, too', async () => {
    await writeFile(join(folder, 'one'), 'a file\n')
    const result = await runOk('bash', [
      '-o',
      'pipefail',
      '-c',
      'tar -C "$1" -c one | "$2" "$3" import tar - trees/stdin:1 --server "$4" --progress none',
      '-',
      folder,
      process.execPath,
      fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url)),
      server.http,
    ])
    assert.match(result, /trees\/stdin:1/)
    const file = await runOk('curl', ['-sSf', `${server.http}/v1/images/trees/stdin:1/-/files/one`])
    assert.equal(file, 'a file\n')
  })
})
