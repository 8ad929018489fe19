/** Imports into a temporary store, and two ways back to the bytes: plain reads of the blobs, and the page cache. */
import assert from 'node:assert/strict'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { ImageAccounting, createImageAccounting } from '../../src/cache/index.ts'
import type { Digest } from '../../src/core/index.ts'
import type { DataHandle, ImportOptions, ImportSummary, ViewBlob } from '../../src/images/index.ts'
import {
  AddressMap,
  FileCaches,
  ImageView,
  importErofs,
  planBlobs,
  readImageRecord,
} from '../../src/images/index.ts'
import type { DeviceMap } from '../../src/store/index.ts'
import { LocalPageSource } from '../../src/store/index.ts'
import type { TestCacheOptions } from '../cache/harness.ts'
import { TestCache } from '../cache/harness.ts'
import type { TestStore } from '../store/data-folder.ts'

export const DOMAIN = 'acme'

let lastFile = 0

/** Imports devices given as bytes. */
export async function importBytes(
  test: TestStore,
  devices: readonly Uint8Array[],
  options: Partial<ImportOptions> = {},
): Promise<ImportSummary> {
  const folder = join(test.dataDir, 'sources')
  await mkdir(folder, { recursive: true })
  const paths: { path: string }[] = []
  for (const bytes of devices) {
    const path = join(folder, `device-${++lastFile}`)
    await writeFile(path, bytes)
    paths.push({ path })
  }
  return await importErofs({ store: test.store, domain: DOMAIN, devices: paths, ...options })
}

export async function mapsOf(test: TestStore, digest: Digest): Promise<DeviceMap[]> {
  const domain = test.store.domain(DOMAIN)
  const { devices } = await readImageRecord(domain, digest)
  return await Promise.all(
    devices.map(async ({ sha256 }) => (await domain.maps.require(sha256)).map),
  )
}

/** Each device's bytes, through its map, from the blobs' files. */
export async function readBack(test: TestStore, digest: Digest): Promise<Buffer[]> {
  const blobs = new Map<Digest, Buffer>()
  const maps = await mapsOf(test, digest)
  for (const { digest: blob } of maps.flatMap((map) => map.blobs)) {
    const hex = blob.slice(7)
    const path = join(test.dataDir, 'domains', DOMAIN, 'blobs/sha256', hex.slice(0, 2), hex)
    blobs.set(blob, blobs.get(blob) ?? (await readFile(path)))
  }
  return maps.map((map) => {
    const numbered = map.blobs.map((blob) => ({ ...blob, blobNo: 1, ordinalBase: 0 }))
    const pieces: Uint8Array[] = []
    new AddressMap(map, numbered).visitRange(0, map.size, {
      piece: (blob, offset, length) => {
        const bytes = blobs.get(blob.digest)?.subarray(offset, offset + length)
        assert.equal(bytes?.length, length)
        pieces.push(bytes)
      },
      zeros: (length) => pieces.push(Buffer.alloc(length)),
    })
    return Buffer.concat(pieces)
  })
}

/** A cache over the blobs of a test store. */
export class ImageCache implements AsyncDisposable {
  readonly cache: TestCache
  readonly #source: LocalPageSource
  readonly #caches = new FileCaches()
  #lastImage = 0

  constructor(test: TestStore, options: TestCacheOptions = {}) {
    this.#source = new LocalPageSource({ dataDir: test.dataDir })
    this.cache = new TestCache({ source: this.#source, ...options })
  }

  async openView(test: TestStore, digest: Digest): Promise<ImageView> {
    const record = await readImageRecord(test.store.domain(DOMAIN), digest)
    const maps = await mapsOf(test, digest)
    const planned = planBlobs(maps, this.cache.memory.frameSize)
    const keys = planned.blobs.map((blob) => ({ ...blob, domain: DOMAIN }))
    const numbers = await this.cache.client.openBlobs(keys)
    const blobs = planned.blobs.map((blob, index): ViewBlob => ({
      ...blob,
      blobNo: numbers[index]?.blobNo ?? 0,
    }))
    const accounting = createImageAccounting(planned.pages)
    const imageId = ++this.#lastImage
    await this.cache.client.registerImage(imageId, accounting)
    return new ImageView({
      domain: DOMAIN,
      digest,
      record,
      maps,
      blobs,
      identity: {
        imageId,
        domainNo: numbers[0]?.domainNo ?? 1,
        touched: new ImageAccounting(accounting),
      },
      reader: this.cache.reader,
      caches: this.#caches,
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cache[Symbol.asyncDispose]()
    await this.#source[Symbol.asyncDispose]()
  }
}

/** A range through whatever the handle offers for it, as a front end does. */
export async function readHandle(
  handle: DataHandle,
  offset = 0,
  length = handle.size - offset,
): Promise<Buffer> {
  const target = Buffer.alloc(length)
  if (handle.readInto(target, 0, offset, length)) return target
  if (length <= handle.pinBudgetBytes) {
    using lease = handle.tryRead(offset, length) ?? (await handle.read(offset, length))
    return Buffer.concat(lease.parts)
  }
  let at = 0
  for await (const lease of handle.stream(offset, length)) {
    for (const part of lease.parts) {
      target.set(part, at)
      at += part.byteLength
    }
    lease.release()
  }
  assert.equal(at, length)
  return target
}
