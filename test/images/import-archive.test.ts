/** Archives that are no trees, or say what cannot be: a clear error in bounded time and memory, and nothing stays. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'

import { AppError } from '../../src/core/index.ts'
import { importOci } from '../../src/images/build/import-oci.ts'
import { importTar } from '../../src/images/build/import-tar.ts'
import type { Store } from '../../src/store/index.ts'
import { openStore } from '../../src/store/index.ts'
import { seededBytes } from '../random.ts'

describe('archives that cannot be imported', { concurrency: false }, () => {
  let folder: string
  let store: Store
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-archive-'))
    store = await openStore({ dataDir: join(folder, 'data'), mode: 'owner' })
  })
  after(async () => {
    await store[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  async function archive(bytes: Uint8Array): Promise<string> {
    const path = join(folder, 'archive')
    await writeFile(path, bytes)
    return path
  }

  async function assertRefused(
    perform: (path: string) => Promise<unknown>,
    bytes: Uint8Array,
    code: string,
  ): Promise<void> {
    const path = await archive(bytes)
    await assert.rejects(perform(path), (error) => {
      assert.ok(error instanceof AppError, String(error))
      assert.equal(error.code, code, error.message)
      return true
    })
    const uploads = join(folder, 'data/domains/d/uploads')
    const left = await readdir(uploads, { recursive: true, withFileTypes: true }).catch(() => [])
    assert.deepEqual(
      left.filter((entry) => entry.isFile()).map(({ name }) => name),
      [],
    )
  }

  const tar = (path: string): Promise<unknown> => importTar({ store, domain: 'd', path })
  const oci = (path: string): Promise<unknown> =>
    importOci({ store, domain: 'd', path, wanted: {} })
  const small = (): Buffer => {
    return execFileSync('tar', ['-c', '-C', import.meta.dirname, 'import-archive.test.ts'])
  }

  const cases: readonly [string, typeof tar, () => Uint8Array, string][] = [
    ['random bytes', tar, () => seededBytes(3, 100_000), 'ERR_TAR_BAD_HEADER'],
    [
      'a gzip that is cut short',
      tar,
      () => gzipSync(small()).subarray(0, 900),
      'ERR_IMPORT_ARCHIVE',
    ],
    [
      'a zstd that is cut short',
      tar,
      () => zstdCompressSync(small()).subarray(0, 900),
      'ERR_IMPORT_ARCHIVE',
    ],
    ['a gzip with bytes changed', tar, () => damaged(gzipSync(small())), 'ERR_IMPORT_ARCHIVE'],
    ['a bzip2', tar, () => Buffer.from('BZh91AY&SY'), 'ERR_IMPORT_ARCHIVE'],
    ['a gzip of no archive', tar, () => gzipSync(seededBytes(4, 5000)), 'ERR_TAR_BAD_HEADER'],
    [
      'a sparse file as long as no device',
      tar,
      () => sparse('9007199254740991'),
      'ERR_IMPORT_TOO_COMPLEX',
    ],
    ['a sparse file of 100 TiB', tar, () => sparse('109951162777600'), 'ERR_IMPORT_TOO_COMPLEX'],
    ['no image at all', oci, small, 'ERR_OCI_INVALID'],
    ['an index that is not JSON', oci, () => members({ 'index.json': '{' }), 'ERR_OCI_INVALID'],
    [
      'an index of nothing',
      oci,
      () => members({ 'index.json': '{"manifests":[]}' }),
      'ERR_OCI_NOT_FOUND',
    ],
    [
      'a manifest that is not there',
      oci,
      () => members({ 'index.json': indexOf('a'.repeat(64), 5) }),
      'ERR_OCI_UNSUPPORTED',
    ],
    [
      'a manifest with another digest',
      oci,
      () =>
        members({
          'index.json': indexOf('a'.repeat(64), 2),
          [`blobs/sha256/${'a'.repeat(64)}`]: '{}',
        }),
      'ERR_OCI_DIGEST',
    ],
    ['a layer that another one took the place of', oci, withWrongLayer, 'ERR_OCI_DIGEST'],
    [
      'a list of docker without layers',
      oci,
      () => members({ 'manifest.json': '[{"Config":"c"}]' }),
      'ERR_OCI_INVALID',
    ],
  ]
  for (const [name, perform, make, code] of cases) {
    test(name, () => assertRefused(perform, make(), code))
  }

  test('as many levels as there can be are an image', async () => {
    const path = await archive(members({ [`${'d/'.repeat(4095)}f`]: 'x' }))
    const report = await importTar({ store, domain: 'd', path })
    assert.equal(report.inodes, 4097)
  })

  test('an empty archive is an empty image', async () => {
    const report = await importTar({ store, domain: 'd', path: await archive(Buffer.alloc(1024)) })
    assert.equal(report.inodes, 1)
  })
})

function damaged(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  copy.fill(0xff, 400, 440)
  return copy
}

function indexOf(hex: string, size: number): string {
  return JSON.stringify({ manifests: [{ mediaType: 'x', digest: `sha256:${hex}`, size }] })
}

function withWrongLayer(): Buffer {
  const config = {
    os: 'linux',
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: [`sha256:${'a'.repeat(64)}`] },
  }
  return members({
    'manifest.json': '[{"Config":"c","Layers":["l"]}]',
    c: JSON.stringify(config),
    l: members({ file: 'other bytes' }).toString('latin1'),
  })
}

/** An archive of these files, by Python's tarfile. */
function members(files: Readonly<Record<string, string>>): Buffer {
  const script = `import sys, tarfile, io, json
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')
for name, text in json.loads(sys.argv[1]).items():
    info = tarfile.TarInfo(name)
    info.size = len(text)
    archive.addfile(info, io.BytesIO(text.encode()))
archive.close()`
  return execFileSync('/usr/bin/python3', ['-c', script, JSON.stringify(files)])
}

/** A file that is one hole (GNU.sparse 0.1 without a segment). */
function sparse(size: string): Buffer {
  const script = `import sys, tarfile
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT)
info = tarfile.TarInfo('hole')
info.pax_headers = {'GNU.sparse.size': sys.argv[1], 'GNU.sparse.map': ''}
archive.addfile(info)
archive.close()`
  return execFileSync('/usr/bin/python3', ['-c', script, size])
}
