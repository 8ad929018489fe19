import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import {
  mkdir,
  open,
  readFile,
  readlink,
  readdir,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import type { BlobKey } from '../../src/cache/index.ts'
import { digestOf, rawDigestOf } from '../../src/core/index.ts'
import type { ReadCalls } from '../../src/store/direct-file.ts'
import type { LocalPageSourceOptions } from '../../src/store/index.ts'
import { LocalPageSource } from '../../src/store/index.ts'
import { blobIndexKey, blobKey } from '../../src/store/layout.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { missing } from '../requires.ts'
import { dataFolder, seeded, testStore } from './data-folder.ts'

const FRAME = 65_536

/** As the engine has it; the compiler's library for servers does not say so. */
const { WebAssembly: wasm } = globalThis as unknown as {
  WebAssembly: {
    Memory: new (options: object) => { readonly buffer: SharedArrayBuffer }
  }
}

/** Frames as the cache has them: shared, aligned to the machine's pages, filled with old bytes. */
function frames(number: number): Buffer[] {
  const { buffer } = new wasm.Memory({ initial: number, maximum: number, shared: true })
  return Array.from({ length: number }, (_, index) =>
    Buffer.from(buffer, index * FRAME, FRAME).fill(0xee),
  )
}

async function* stream(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes)
}

/** A store in `dataDir` with one blob of `size` bytes. */
async function withBlob(size: number, dataDir?: string) {
  const fixture = await testStore(dataDir === undefined ? {} : { dataDir })
  const random = seeded(size)
  const bytes = Buffer.from(Uint8Array.from({ length: size }, () => random() * 256))
  const { digest } = await fixture.store.domain('acme').blobs.putStream(stream(bytes))
  const key: BlobKey = { domain: 'acme', digest, size }
  const path = join(fixture.dataDir, blobKey('acme', digest))
  const indexPath = join(fixture.dataDir, blobIndexKey('acme', digest))
  return {
    fixture,
    bytes,
    key,
    path,
    indexPath,
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  }
}

type Setup = Awaited<ReturnType<typeof withBlob>>

function sourceOf(setup: Setup, options: Partial<LocalPageSourceOptions> = {}) {
  const fallbacks: string[] = []
  const source = new LocalPageSource({
    dataDir: setup.fixture.dataDir,
    onFallback: (code) => void fallbacks.push(code),
    ...options,
  })
  return { source, fallbacks }
}

/** Every page and every digest equals the blob's bytes; what is behind the end is zeros. */
function checkAll(setup: Setup, source: LocalPageSource): void {
  const { bytes, key } = setup
  const pageCount = Math.ceil(key.size / FRAME)
  const [frame = assert.fail()] = frames(1)
  for (let page = 0; page < pageCount; page++) {
    const length = Math.min(FRAME, key.size - page * FRAME)
    frame.fill(0xee)
    source.readPage(key, page * FRAME, frame, length)
    assert.ok(frame.subarray(0, length).equals(bytes.subarray(page * FRAME, page * FRAME + length)))
    assert.ok(frame.subarray(length).every((byte) => byte === 0))
  }
  const targets = frames(pageCount)
  source.readPages(key, 0, targets, key.size)
  assert.ok(Buffer.concat(targets).subarray(0, key.size).equals(bytes))
  const digests = Math.ceil(key.size / 16_384)
  for (const [first, number] of [
    [0, digests],
    [digests - 1, 1],
    [Math.floor(digests / 2), digests - Math.floor(digests / 2)],
    [0, 0],
  ] as const) {
    const found = Buffer.from(source.pageDigests(key, first, number))
    const expected = Array.from({ length: number }, (_, index) =>
      rawDigestOf(bytes.subarray((first + index) * 16_384, (first + index + 1) * 16_384)),
    )
    assert.deepEqual(found, Buffer.concat(expected))
  }
}

/** linux/magic.h: file systems with O_DIRECT (an overlay passes it on to the one below). */
const DIRECT_FILE_SYSTEMS = new Set([0xef53, 0x58465342, 0x794c7630])
/** /tmp is often a tmpfs. */
const FOLDERS = ['/tmp', '/var/tmp']
const DIRECT_FOLDER = FOLDERS.find((folder) => DIRECT_FILE_SYSTEMS.has(fs.statfsSync(folder).type))

/** System calls that fail as another file system would. */
function calls(overrides: Partial<ReadCalls>): ReadCalls {
  return {
    open: (file, flags) => fs.openSync(file, flags),
    read: (fd, targets, position) => fs.readvSync(fd, targets, position),
    ...overrides,
  }
}

function errno(code: string): Error {
  return Object.assign(new Error(code), { code })
}

describe('local page source', () => {
  for (const size of [1, 4096, 16_384, 65_536, 65_537, 1_000_000, 3 * 1024 * 1024]) {
    test(`pages and digests of a blob of ${size} bytes`, async () => {
      await using setup = await withBlob(size)
      const { source } = sourceOf(setup)
      await using _ = source
      checkAll(setup, source)
    })
  }

  test(
    'reads past the kernel page cache where the file system can',
    { skip: DIRECT_FOLDER === undefined && `none of ${FOLDERS.join(', ')} is on ext4 or XFS` },
    async () => {
      await using folder = await dataFolder(DIRECT_FOLDER)
      await using setup = await withBlob(1_000_000, join(folder.path, 'data'))
      const opened: number[] = []
      const { source, fallbacks } = sourceOf(setup, {
        calls: calls({
          open(file, flags) {
            opened.push(flags)
            return fs.openSync(file, flags)
          },
        }),
      })
      await using _ = source
      checkAll(setup, source)
      assert.deepEqual(fallbacks, [])
      assert.deepEqual(opened, [fs.constants.O_RDONLY | fs.constants.O_DIRECT])
    },
  )

  test(
    'in /dev/shm, whether its kernel takes O_DIRECT or not',
    { skip: missing('/dev/shm') },
    async () => {
      await using folder = await dataFolder('/dev/shm')
      await using setup = await withBlob(1_000_000, join(folder.path, 'data'))
      const { source, fallbacks } = sourceOf(setup)
      await using _ = source
      checkAll(setup, source)
      assert.ok(fallbacks.length <= 1)
    },
  )

  test('on a file system without O_DIRECT (ramfs)', { skip: missing('root') }, async () => {
    await using folder = await dataFolder()
    const mountPoint = join(folder.path, 'ramfs')
    await mkdir(mountPoint)
    execFileSync('mount', ['-t', 'ramfs', 'ramfs', mountPoint])
    try {
      await using setup = await withBlob(200_000, join(mountPoint, 'data'))
      const { source, fallbacks } = sourceOf(setup)
      await using _ = source
      checkAll(setup, source)
      source.closeBlob(setup.key)
      checkAll(setup, source)
      assert.deepEqual(fallbacks, ['EINVAL'], 'said once')
    } finally {
      execFileSync('umount', ['-l', mountPoint])
    }
  })

  test('falls back where opening or reading directly is refused, and says so once', async () => {
    await using setup = await withBlob(200_000)
    const isDirect = (flags: number) => (flags & fs.constants.O_DIRECT) !== 0
    const direct = new Set<number>()
    const refusingOpen = calls({
      open(file, flags) {
        if (isDirect(flags)) throw errno('EINVAL')
        return fs.openSync(file, flags)
      },
    })
    const refusingRead = calls({
      open(file, flags) {
        const fd = fs.openSync(file, flags)
        if (isDirect(flags)) direct.add(fd)
        else direct.delete(fd)
        return fd
      },
      read(fd, targets, position) {
        if (direct.has(fd)) throw errno('EINVAL')
        return fs.readvSync(fd, targets, position)
      },
    })
    for (const system of [refusingOpen, refusingRead]) {
      const { source, fallbacks } = sourceOf(setup, { calls: system })
      await using _ = source
      checkAll(setup, source)
      source.closeBlob(setup.key)
      checkAll(setup, source)
      assert.deepEqual(fallbacks, ['EINVAL'])
    }
  })

  test('short reads are continued, failing ones are errors', async () => {
    await using setup = await withBlob(200_000)
    const halving = calls({
      read(fd, targets, position) {
        const first = targets[0]?.subarray(0, 4096) ?? assert.fail()
        return fs.readvSync(fd, [first], position)
      },
    })
    const short = sourceOf(setup, { calls: halving })
    checkAll(setup, short.source)
    const failing = sourceOf(setup, {
      calls: calls({
        read() {
          throw errno('EIO')
        },
      }),
    })
    const [frame = assert.fail()] = frames(1)
    assert.throws(
      () => failing.source.readPage(setup.key, 0, frame, 1),
      hasCode('ERR_STORE_READ_FAILED'),
    )
    assert.deepEqual(failing.fallbacks, [])
    await short.source[Symbol.asyncDispose]()
    await failing.source[Symbol.asyncDispose]()
  })

  test('what is missing, of another size or torn is an error by its own code', async () => {
    await using setup = await withBlob(200_000)
    const { key, path, indexPath } = setup
    const [frame = assert.fail()] = frames(1)
    const fails = async (code: string, other = key) => {
      const { source } = sourceOf(setup)
      await using _ = source
      assert.throws(() => source.openBlob(other), hasCode(code))
      assert.throws(() => source.readPage(other, 0, frame, 100), hasCode(code))
      assert.throws(() => source.pageDigests(other, 0, 1), hasCode(code))
    }
    await fails('ERR_STORE_BLOB_MISSING', { ...key, digest: digestOf(Buffer.from('none')) })
    await fails('ERR_STORE_BLOB_MISSING', { ...key, domain: 'other' })
    await fails('ERR_DIGEST_INVALID', { ...key, digest: '../../../etc/passwd' })
    await fails('ERR_STORE_CORRUPT', { ...key, size: 199_999 })
    const index = await readFile(indexPath)
    await writeFile(indexPath, index.subarray(0, 150))
    await fails('ERR_STORE_CORRUPT')
    await rm(indexPath)
    await fails('ERR_STORE_CORRUPT')
    await writeFile(indexPath, index)
    await truncate(path, 100_000)
    await fails('ERR_STORE_CORRUPT')
  })

  test('a file that shrinks while it is open ends in an error, not in old bytes', async () => {
    await using setup = await withBlob(200_000)
    const { source } = sourceOf(setup)
    await using _ = source
    const [frame = assert.fail()] = frames(1)
    source.readPage(setup.key, 65_536, frame, FRAME)
    await truncate(setup.path, 70_000)
    assert.throws(
      () => source.readPage(setup.key, 65_536, frame, FRAME),
      hasCode('ERR_STORE_CORRUPT'),
    )
  })

  test('a file that was renamed over a bad one is read without a restart', async () => {
    await using setup = await withBlob(200_000)
    const { key, path, indexPath, bytes } = setup
    const { source } = sourceOf(setup)
    await using _ = source
    const [frame = assert.fail()] = frames(1)
    const good = { blob: await readFile(path), index: await readFile(indexPath) }
    const restore = async (to: string, content: Buffer) => {
      await writeFile(`${to}.good`, content)
      await rename(`${to}.good`, to)
    }
    const damage = async (to: string, at: number) => {
      await using file = await open(to, 'r+')
      await file.write(Buffer.alloc(32, 0xdd), 0, 32, at)
    }
    await damage(path, 70_000)
    source.readPage(key, 65_536, frame, FRAME)
    assert.ok(!frame.equals(bytes.subarray(65_536, 131_072)))
    source.suspectBlob(key)
    await restore(path, good.blob)
    checkAll(setup, source)

    await damage(indexPath, 128)
    source.closeBlob(key)
    assert.deepEqual(Buffer.from(source.pageDigests(key, 0, 1)), Buffer.alloc(32, 0xdd))
    source.suspectBlob(key)
    await restore(indexPath, good.index)
    checkAll(setup, source)

    await truncate(path, 70_000)
    assert.throws(() => source.readPage(key, 65_536, frame, FRAME), hasCode('ERR_STORE_CORRUPT'))
    await restore(path, good.blob)
    checkAll(setup, source)
  })

  test('a read that fails costs one open, however many pages are found to be bad', async () => {
    await using setup = await withBlob(200_000)
    let opened = 0
    let failing = false
    const { source } = sourceOf(setup, {
      direct: false,
      calls: calls({
        open(file, flags) {
          opened++
          return fs.openSync(file, flags)
        },
        read(fd, targets, position) {
          if (failing) throw errno('EIO')
          return fs.readvSync(fd, targets, position)
        },
      }),
    })
    await using _ = source
    const [frame = assert.fail()] = frames(1)
    const read = () => source.readPage(setup.key, 0, frame, FRAME)
    for (let i = 0; i < 5; i++) read()
    assert.equal(opened, 1)
    failing = true
    for (let i = 0; i < 5; i++) assert.throws(read, hasCode('ERR_STORE_READ_FAILED'))
    assert.equal(opened, 5)
    failing = false
    for (let i = 0; i < 5; i++) read()
    assert.equal(opened, 6)
    for (let i = 0; i < 5; i++) source.suspectBlob(setup.key)
    read()
    assert.equal(opened, 7)
  })

  test('ranges that are not inside are refused', async () => {
    await using setup = await withBlob(100_000)
    const { source } = sourceOf(setup)
    await using _ = source
    const [frame = assert.fail()] = frames(1)
    assert.throws(() => source.readPage(setup.key, 65_536, frame, FRAME), RangeError)
    assert.throws(() => source.readPage(setup.key, 131_072, frame, 1), RangeError)
    assert.throws(() => source.readPages(setup.key, 0, [frame], 100_000), RangeError)
    assert.throws(() => source.pageDigests(setup.key, 6, 2), RangeError)
  })

  test(
    'keeps no more files open than it may, and none afterwards',
    { skip: missing('/proc/self/fd') },
    async () => {
      await using setup = await withBlob(1000)
      const { blobs } = setup.fixture.store.domain('acme')
      const keys = [setup.key]
      for (let blob = 0; blob < 20; blob++) {
        const { digest, size } = await blobs.putStream(stream(Buffer.from(`blob ${blob}`)))
        keys.push({ domain: 'acme', digest, size })
      }
      const openFiles = async () => {
        const links = await Promise.allSettled(
          (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`)),
        )
        return links.filter(
          (link) =>
            link.status === 'fulfilled' &&
            link.value.startsWith(`${setup.fixture.dataDir}/domains`),
        ).length
      }
      const { source } = sourceOf(setup, { maxOpenBlobs: 4 })
      const [frame = assert.fail()] = frames(1)
      for (const key of [...keys, ...keys]) {
        source.readPage(key, 0, frame, key.size)
        assert.equal(digestOf(frame.subarray(0, key.size)), key.digest)
        assert.ok((await openFiles()) <= 8)
      }
      await source[Symbol.asyncDispose]()
      assert.equal(await openFiles(), 0)
    },
  )

  test('digests beyond the memory for them are read again', async () => {
    await using setup = await withBlob(3 * 1024 * 1024)
    const { source } = sourceOf(setup, { digestCacheBytes: 1 })
    await using _ = source
    checkAll(setup, source)
    const file = await open(setup.indexPath, 'r+')
    await file.write(Buffer.alloc(32), 0, 32, 128)
    await file.close()
    assert.notDeepEqual(Buffer.from(source.pageDigests(setup.key, 0, 1)), Buffer.alloc(32), 'kept')
    source.pageDigests(setup.key, 150, 1)
    assert.deepEqual(
      Buffer.from(source.pageDigests(setup.key, 0, 1)),
      Buffer.alloc(32),
      'read again',
    )
  })
})
