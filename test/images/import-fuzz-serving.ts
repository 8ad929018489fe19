/**
 * Serves a damaged image that was imported, as a front end would: devices, the flattened view, listings and files,
 * through a page cache that is far smaller than the image. What comes back is what the bytes say, or an error with
 * a code of the format or the image; never one of the cache, whose pages are good.
 */
import assert from 'node:assert/strict'

import type { Digest } from '../../src/core/index.ts'
import { isAppError, memorySource } from '../../src/core/index.ts'
import type { ErofsImage } from '../../src/erofs/index.ts'
import { openErofs } from '../../src/erofs/index.ts'
import type { DataHandle, ImageView } from '../../src/images/index.ts'
import { gather } from '../erofs/fixtures.ts'
import type { TestStore } from '../store/data-folder.ts'
import type { ImageCache } from './harness.ts'
import { readHandle } from './harness.ts'

/** A damaged tree may be endless, and a damaged file as long as 2^53 bytes. */
const MAX_DIRECTORIES = 6
const MAX_ENTRIES = 30
const MAX_FILES = 20
const SAMPLE_BYTES = 100_000
const EXPECTED_CODES = /^ERR_(?:EROFS|FILE|IMAGE)_/

export interface Served {
  bytes: number
  files: number
  readonly codes: Set<string>
}

export async function serveImage(
  images: ImageCache,
  store: TestStore,
  digest: Digest,
  devices: readonly Uint8Array[],
  served: Served,
): Promise<void> {
  using view = (await images.openView(store, digest)).acquire()
  for (const [index, bytes] of devices.entries()) {
    using handle = view.openDevice(index)
    assert.ok((await readHandle(handle)).equals(bytes), `device ${index} differs as served`)
    served.bytes += bytes.length
  }
  using flattened = view.openFlattened()
  await readEnds(flattened, served)
  if (view.filesystem === 'erofs') await new FileWalk(view, devices, served).run()
}

class FileWalk {
  readonly #view: ImageView
  readonly #devices: readonly Uint8Array[]
  readonly #served: Served
  #files = 0

  constructor(view: ImageView, devices: readonly Uint8Array[], served: Served) {
    this.#view = view
    this.#devices = devices
    this.#served = served
  }

  async run(): Promise<void> {
    const [primary] = this.#devices
    assert.ok(primary !== undefined)
    await this.#tolerate(async () => {
      const image = await openErofs(memorySource(primary), {
        extraDeviceSizes: this.#devices.slice(1).map(({ length }) => length),
      })
      const folders = [Buffer.alloc(0)]
      for (let index = 0; index < MAX_DIRECTORIES; index++) {
        const folder = folders[index]
        if (folder !== undefined) await this.#tolerate(() => this.#folder(image, folder, folders))
      }
    })
  }

  async #folder(image: ErofsImage, folder: Buffer, folders: Buffer[]): Promise<void> {
    const page = await this.#view.readDirectory(folder, { limit: MAX_ENTRIES })
    for (const { name, info } of page.entries) {
      const path = folder.length === 0 ? Buffer.from(name) : Buffer.concat([folder, SLASH, name])
      if (info.type === 'directory') folders.push(path)
      else if (this.#files++ < MAX_FILES) await this.#tolerate(() => this.#file(image, path))
    }
  }

  async #file(image: ErofsImage, path: Buffer): Promise<void> {
    await this.#view.stat(path, { followLast: false })
    const { handle } = await this.#view.openFile(path)
    using file = handle
    const inode = await image.resolve(path)
    assert.equal(file.size, inode.size)
    for (const [offset, bytes] of await readEnds(file, this.#served)) {
      const expected = gather(this.#devices, await image.mapFile(inode, offset, bytes.length))
      assert.ok(bytes.equals(expected), `${path.toString('latin1')} differs at ${offset}`)
    }
    this.#served.files++
  }

  async #tolerate(action: () => Promise<void>): Promise<void> {
    try {
      await action()
    } catch (error) {
      if (!isAppError(error) || !EXPECTED_CODES.test(error.code)) throw error
      this.#served.codes.add(error.code)
    }
  }
}

const SLASH = Buffer.from('/')

/** The first and the last bytes, by whatever way a handle offers for that many. */
async function readEnds(handle: DataHandle, served: Served): Promise<[number, Buffer][]> {
  const length = Math.min(handle.size, SAMPLE_BYTES)
  const ends: [number, Buffer][] = []
  for (const offset of new Set([0, handle.size - length])) {
    if (length === 0) break
    ends.push([offset, await readHandle(handle, offset, length)])
    served.bytes += length
  }
  return ends
}
