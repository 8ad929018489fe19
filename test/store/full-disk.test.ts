import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, readFile, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { digestOf } from '../../src/core/index.ts'
import { LocalEngine, openStore } from '../../src/store/index.ts'
import { hasCode } from '../contract/storage-engine.ts'
import { missing } from '../requires.ts'
import { dataFolder, filesBelow } from './data-folder.ts'

/** A file system of 2 MiB. */
async function tinyDisk() {
  const folder = await dataFolder()
  const path = join(folder.path, 'disk')
  await mkdir(path)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', path])
  return {
    path,
    async [Symbol.asyncDispose]() {
      execFileSync('umount', ['-l', path])
      await folder[Symbol.asyncDispose]()
    },
  }
}

async function* stream(...pieces: Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) yield await Promise.resolve(piece)
}

describe('a full disk', { skip: missing('root', 'tmpfs') }, () => {
  test('every kind of write says so, leaves nothing of itself, and works again with room', async () => {
    await using disk = await tinyDisk()
    const dataDir = join(disk.path, 'data')
    await using store = await openStore({ dataDir, mode: 'owner', reservedFreeBytes: 0 })
    const domain = store.domain('acme')
    const image = await domain.manifests.put(Buffer.from('{"first":1}'))
    await domain.refs.compareAndSwap('app', 'latest', 0, { image })
    const before = await filesBelow(dataDir)
    const full = hasCode('ERR_STORE_FULL')
    const large = Buffer.alloc(3 * 1024 * 1024, 'large')

    await assert.rejects(domain.blobs.putStream(stream(large)), full)
    assert.deepEqual(await filesBelow(dataDir), before)

    await using writer = await domain.blobs.createWriter()
    assert.throws(() => {
      for (let block = 0; block < 1024; block++) writer.appendBlocks(large.subarray(0, 4096))
    }, full)
    assert.deepEqual(await filesBelow(dataDir), before)

    await using packed = await domain.blobs.createWriter()
    packed.appendPacked(large.subarray(0, 1_100_000))
    await assert.rejects(packed.finish(), full)
    assert.deepEqual(await filesBelow(dataDir), before)

    await assert.rejects(domain.manifests.put(large), full)
    await assert.rejects(domain.stageUpload(3 * 1024 * 1024), full)
    assert.deepEqual(await filesBelow(dataDir), before)

    const upload = await domain.stageUpload(1024 * 1024)
    const filler = join(disk.path, 'filler')
    await fill(filler)
    await assert.rejects(upload.receive(stream(large.subarray(0, 1024 * 1024))), full)
    await assert.rejects(domain.refs.compareAndSwap('app', 'latest', 1, { image }), full)
    assert.equal((await domain.refs.resolve('app', 'latest'))?.generation, 1)
    assert.deepEqual(await filesBelow(dataDir), before)

    await rm(filler)
    await domain.refs.compareAndSwap('app', 'latest', 1, { image })
    const blob = await domain.blobs.putStream(stream(Buffer.from('small')))
    assert.equal(blob.digest, digestOf(Buffer.from('small')))
  })

  test('the engine itself', async () => {
    await using disk = await tinyDisk()
    const engine = new LocalEngine({ dataDir: disk.path, changesRefs: true })
    const key = 'domains/acme/blobs/sha256/ab/abc'
    await assert.rejects(engine.put(key, Buffer.alloc(4 * 1024 * 1024)), hasCode('ERR_STORE_FULL'))
    assert.deepEqual(await filesBelow(disk.path), [])
    assert.ok((await engine.freeBytes()) > 1024 * 1024)
  })
})

/** Takes every free byte. */
async function fill(path: string): Promise<void> {
  const { bavail, bsize } = await statfs(join(path, '..'))
  await writeFile(path, Buffer.alloc(bavail * bsize))
  assert.equal((await readFile(path)).byteLength, bavail * bsize)
}
