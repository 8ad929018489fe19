/**
 * Two related trees as stock mkfs.erofs writes them, inline tails and all: what the second image adds, counted
 * by code of its own that walks the trees and knows nothing of EROFS.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { findCommand } from '../../scripts/debian-packages.ts'
import { randomNumbers } from '../erofs/fixtures.ts'
import { missing } from '../requires.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, dataFolder, testStore } from '../store/data-folder.ts'
import { DOMAIN, importBytes, mapsOf, readBack } from './harness.ts'

const CHUNK_BYTES = 65_536
/** An extended inode; a directory entry with a short name. */
const INODE_BYTES = 64
const ENTRY_BYTES = 12

async function writeTree(folder: string, files: number, seed: number): Promise<void> {
  const random = randomNumbers(seed)
  for (let index = 0; index < files; index++) {
    const parent = join(folder, `d${random(12)}`, `e${random(6)}`)
    await mkdir(parent, { recursive: true })
    // As in real trees: most are below a chunk, a few are many chunks, all of odd sizes.
    const size = random(20) === 0 ? random(400_000) : random(9000)
    const bytes = createHash('shake256', { outputLength: size }).update(`${seed} ${index}`).digest()
    await writeFile(join(parent, `file-${index}`), bytes)
  }
}

/** Chunks of all files that are not in `seen` yet, by sha256; what they hold, and how many bytes of metadata the tree has. */
async function measure(folder: string, seen: Set<string>) {
  let newBytes = 0
  let metadataBytes = INODE_BYTES
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    metadataBytes += INODE_BYTES + ENTRY_BYTES + entry.name.length
    if (entry.isDirectory()) metadataBytes += 2 * ENTRY_BYTES + 3
    if (!entry.isFile()) continue
    const bytes = await readFile(join(entry.parentPath, entry.name))
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      const chunk = bytes.subarray(at, at + CHUNK_BYTES)
      const digest = createHash('sha256').update(chunk).digest('hex')
      if (!seen.has(digest)) newBytes += chunk.length
      seen.add(digest)
    }
  }
  return { newBytes, metadataBytes }
}

async function blobSizes(store: TestStore): Promise<number[]> {
  const sizes: number[] = []
  for await (const page of store.store.domain(DOMAIN).blobs.list()) {
    sizes.push(...page.map(({ size }) => size))
  }
  return sizes
}

const VARIANTS: readonly {
  readonly name: string
  readonly options: string[]
  readonly blob: boolean
}[] = [
  { name: 'plain', options: [], blob: false },
  { name: 'noinline', options: ['-Enoinline_data'], blob: false },
  { name: 'chunks of 4 KiB', options: ['--chunksize=4096'], blob: false },
  { name: 'chunks of 64 KiB on a device of their own', options: ['--chunksize=65536'], blob: true },
]

describe('a derived image', { skip: missing('mkfs.erofs') }, () => {
  for (const { name, options, blob } of VARIANTS) {
    test(`${name}: adds its new chunks and its metadata, nothing else`, async () => {
      await using folder = await dataFolder()
      await using store = await testStore()
      const base = join(folder.path, 'base')
      const derived = join(folder.path, 'derived')
      await writeTree(base, count(5000, 400), 1)
      await cp(base, derived, { recursive: true, preserveTimestamps: true })
      await writeTree(join(derived, 'app'), count(500, 60), 2)
      const build = async (tree: string): Promise<Buffer[]> => {
        const image = `${tree}.erofs`
        const device = `${tree}.blob`
        const extra = blob ? [`--blobdev=${device}`] : []
        const command = findCommand('mkfs.erofs') ?? assert.fail()
        execFileSync(command, ['--quiet', '-T1700000000', ...options, ...extra, image, tree], {
          stdio: 'ignore',
        })
        return [await readFile(image), ...(blob ? [await readFile(device)] : [])]
      }
      const seen = new Set<string>()

      const baseDevices = await build(base)
      const first = await importBytes(store, baseDevices)
      const baseWant = await measure(base, seen)
      assert.ok(first.newBytes <= 1.02 * baseWant.newBytes + 1.1 * baseWant.metadataBytes + 8192)
      await store.store
        .domain(DOMAIN)
        .refs.compareAndSwap('base', 'latest', 0, { image: first.digest })

      const devices = await build(derived)
      const second = await importBytes(store, devices)
      const want = await measure(derived, seen)
      const limit = 1.02 * want.newBytes + 1.1 * want.metadataBytes + 8192
      assert.ok(second.newBytes <= limit, `${second.newBytes} bytes, at most ${limit}`)
      assert.ok(second.newBytes >= want.newBytes)
      assert.deepEqual(new Set(await blobSizes(store)), new Set([first.newBytes, second.newBytes]))
      assert.equal(second.sharedWith[0]?.ref, `${DOMAIN}/base:latest`)
      assert.ok((second.sharedWith[0]?.bytes ?? 0) >= 0.95 * baseWant.newBytes)
      assert.deepEqual(await readBack(store, second.digest), devices)
      assert.deepEqual(await readBack(store, first.digest), baseDevices)

      const again = await importBytes(store, devices)
      assert.equal(again.newBytes, 0)
      assert.equal(again.digest, second.digest)
      assert.equal((await blobSizes(store)).length, 2)
    })
  }

  test('a fresh image is few runs: metadata and tails lie as on the device', async () => {
    await using folder = await dataFolder()
    await using store = await testStore()
    const tree = join(folder.path, 'tree')
    await writeTree(tree, 300, 3)
    const image = join(folder.path, 'image')
    execFileSync(findCommand('mkfs.erofs') ?? assert.fail(), ['--quiet', image, tree], {
      stdio: 'ignore',
    })
    const summary = await importBytes(store, [await readFile(image)])
    const [map] = await mapsOf(store, summary.digest)
    assert.ok((map?.extentCount ?? Infinity) < summary.inodes, `${map?.extentCount} extents`)
  })
})
