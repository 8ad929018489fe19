/**
 * OCI images, made by umoci and brought into other forms by skopeo, become EROFS images: what this kernel sees in a mount
 * over NBD is what `umoci unpack` makes of them.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import type { Image, ImportReport } from '../../src/server/http/schemas.ts'
import { missing } from '../requires.ts'
import type { ListedEntry } from './kernel-mount.ts'
import { compareTrees, listTree, mountExport } from './kernel-mount.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'

const SKIP = missing('root', 'nbdfuse', '/dev/fuse', 'erofs', 'umoci', 'skopeo', 'gzip')

/** What each layer does to the tree of those below, in a shell whose folder is the root of the image. */
const LAYERS: readonly string[] = [
  `mkdir -p bin etc/app usr/lib var/cache/deep/er opaque/inner type
   echo base > etc/app/config; echo gone > etc/app/gone; echo kept > etc/kept
   head -c 300000 /dev/urandom > usr/lib/library; head -c 5000 /dev/urandom > usr/lib/small
   ln usr/lib/library usr/lib/linked; ln -s ../lib/library usr/lib/symlink
   echo a > opaque/a; echo b > opaque/inner/b; echo x > var/cache/deep/er/x
   echo inside > type/inside; echo file > becomes-directory
   printf '#!/bin/sh\\n' > bin/run; chmod 4755 bin/run; mkfifo fifo; mknod null c 1 3
   setfattr -n user.layer -v one etc/app/config
   touch -d '2001-02-03 04:05:06.789 UTC' etc/kept usr/lib/small`,
  `rm etc/app/gone; echo replaced > etc/app/config; rm -r var/cache/deep
   rm -r opaque; mkdir opaque; echo new > opaque/new
   rm -r type; echo 'a file now' > type
   rm becomes-directory; mkdir becomes-directory; echo in > becomes-directory/in
   ln etc/kept etc/kept-again; echo more > usr/lib/more; chmod 700 bin`,
  `chown -R 1000:1001 usr; rm usr/lib/linked; mkdir -p var/cache/deep; echo again > var/cache/deep/y
   setfattr -n user.layer -v three etc/app`,
  `rm -r usr/lib; mkdir usr/lib; echo last > usr/lib/last; rm null`,
]

describe('OCI images', { skip: SKIP, concurrency: false }, () => {
  let folder: string
  let layout: string
  let server: ServerProcess
  let expected: Map<string, ListedEntry>

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-oci-'))
    layout = join(folder, 'layout')
    const image = `${layout}:made`
    await runOk('umoci', ['init', '--layout', layout])
    await runOk('umoci', ['new', '--image', image])
    for (const [index, script] of LAYERS.entries()) {
      const bundle = join(folder, `bundle${index}`)
      await runOk('umoci', ['unpack', '--image', image, bundle])
      await runOk('sh', ['-ec', `cd "$1/rootfs"; ${script}`, '-', bundle])
      await runOk('umoci', ['repack', '--image', image, bundle])
      await rm(bundle, { recursive: true })
    }
    await runOk('umoci', [
      'config',
      '--image',
      image,
      '--config.entrypoint=/bin/run',
      '--config.env=COLOUR=blue',
      '--config.user=1000:1001',
      '--config.label=maker=umoci',
    ])
    const unpacked = join(folder, 'unpacked')
    await runOk('umoci', ['unpack', '--image', image, unpacked])
    expected = await listTree(join(unpacked, 'rootfs'))
    server = await startServerProcess()
  })
  after(async () => {
    await server[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  async function importImage(source: string, ref: string): Promise<ImportReport> {
    const result = await server.run('import', 'oci', source, ref, '--json', '--progress', 'none')
    assert.equal(result.code, 0, result.stderr)
    return JSON.parse(result.stdout) as ImportReport
  }

  async function assertMounted(ref: string): Promise<void> {
    await using mounted = await mountExport(server.nbdUri(ref))
    assert.deepEqual(compareTrees(expected, await listTree(mounted.path)), [])
  }

  test('a layout: the mount is what umoci unpacks, the configuration is kept', async () => {
    await importImage(`${layout}:made`, 'oci/layout:1')
    await assertMounted('oci/layout:1')
    const image = await server.getJson<Image>('/v1/images/oci/layout:1')
    const config = image.oci?.['config'] as Record<string, unknown>
    assert.deepEqual(config['Entrypoint'], ['/bin/run'])
    assert.deepEqual(config['Env'], ['COLOUR=blue'])
    assert.equal(config['User'], '1000:1001')
    assert.deepEqual(config['Labels'], { maker: 'umoci' })
  })

  for (const [form, ...filter] of [
    ['oci-archive', 'cat'],
    ['docker-archive', 'cat'],
    ['docker-archive', 'gzip', '-1'],
  ] as const) {
    test(`${form}, ${filter[0]}: the same tree, and nothing is stored again`, async () => {
      const archive = join(folder, `image.${form}`)
      const name = form === 'docker-archive' ? ':demo/made:1' : ':made'
      await runOk('skopeo', [
        'copy',
        '--insecure-policy',
        `oci:${layout}:made`,
        `${form}:${archive}${name}`,
      ])
      const file = `${archive}.${filter[0]}`
      await runOk('bash', ['-c', '"${@:3}" < "$1" > "$2"', '-', archive, file, ...filter])
      const report = await importImage(file, `oci/${form}:${filter[0]}`)
      assert.equal(report.newBytes, 0)
      await assertMounted(`oci/${form}:${filter[0]}`)
      await rm(archive)
    })
  }

  test('layers of zstd', async () => {
    const archive = join(folder, 'zstd')
    await runOk('skopeo', [
      'copy',
      '--insecure-policy',
      '--dest-compress-format',
      'zstd',
      '--dest-compress',
      `oci:${layout}:made`,
      `oci:${archive}:made`,
    ])
    const report = await importImage(archive, 'oci/zstd:1')
    assert.equal(report.newBytes, 0)
    await assertMounted('oci/zstd:1')
  })

  test('what is not there is refused, and the message says what is', async () => {
    const tag = await server.run('import', 'oci', `${layout}:absent`, 'oci/none:1')
    assert.equal(tag.code, 3)
    assert.match(tag.stderr, /ERR_OCI_NOT_FOUND.*'absent': it has made/)
    const platform = await server.run(
      'import',
      'oci',
      `${layout}:made`,
      'oci/none:1',
      '--platform=linux/riscv64',
    )
    assert.equal(platform.code, 3)
    assert.match(platform.stderr, /linux\/riscv64: it has linux\//)
  })

  test('a damaged layer is refused', async () => {
    const copy = join(folder, 'damaged')
    await runOk('cp', ['-r', layout, copy])
    await runOk('sh', [
      '-ec',
      'largest=$(ls -S "$1"/blobs/sha256/* | head -1); printf x | dd of="$largest" bs=1 seek=5000 conv=notrunc status=none',
      '-',
      copy,
    ])
    const result = await server.run('import', 'oci', `${copy}:made`, 'oci/damaged:1')
    assert.equal(result.code, 1)
    assert.match(result.stderr, /ERR_IMPORT_ARCHIVE/)
    const shown = await server.run('image', 'show', 'oci/damaged:1')
    assert.equal(shown.code, 3)
  })
})
