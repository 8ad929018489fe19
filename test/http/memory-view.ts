/** Images in memory and the views of them that front ends open. */
import type { Digest, Ref } from '../../src/core/index.ts'
import { AppError, digestOf } from '../../src/core/index.ts'
import type { DataHandle, FileStatus } from '../../src/images/index.ts'
import type { Ledger, Weather } from './memory-handle.ts'
import { MemoryHandle } from './memory-handle.ts'

export interface MemoryNode {
  readonly type: FileStatus['type']
  readonly bytes?: Buffer
  readonly target?: string
  readonly mode?: number
}

export interface MemoryImage {
  readonly ref: Ref
  readonly devices: readonly Buffer[]
  /** By path as latin1. */
  readonly files: ReadonlyMap<string, MemoryNode>
}

export class MemoryView {
  readonly digest: Digest
  readonly domain: string
  readonly size: number
  readonly deviceCount: number
  readonly filesystem: string
  readonly rawEtag: string
  readonly #image: MemoryImage
  readonly #flat: Buffer
  readonly #ledger: Ledger
  readonly #weather: Weather

  constructor(image: MemoryImage, ledger: Ledger, weather: Weather) {
    this.#image = image
    const [only] = image.devices
    this.#flat =
      image.devices.length === 1 && only !== undefined ? only : Buffer.concat(image.devices)
    this.#ledger = ledger
    this.#weather = weather
    this.digest = imageDigest(image)
    this.domain = image.ref.domain
    this.size = this.#flat.length
    this.deviceCount = image.devices.length
    this.filesystem = image.files.size > 0 ? 'erofs' : 'unknown'
    this.rawEtag = `"${this.digest}-raw"`
    ledger.views++
  }

  deviceDigest(n: number): Digest {
    return digestOf(this.#device(n))
  }

  openFlattened(): DataHandle {
    return new MemoryHandle(this.#flat, this.#ledger, this.#weather)
  }

  openDevice(n: number): DataHandle {
    return new MemoryHandle(this.#device(n), this.#ledger, this.#weather)
  }

  stat(path: Uint8Array, options: { followLast: boolean }): Promise<FileStatus> {
    return attempt(() => statusOf(this.#node(path, options.followLast)))
  }

  openFile(path: Uint8Array) {
    return attempt(() => {
      const node = this.#node(path, true)
      const info = statusOf(node)
      if (node.type === 'directory') throw new AppError('ERR_FILE_IS_DIRECTORY', 'a directory')
      if (node.bytes === undefined)
        throw new AppError('ERR_FILE_SPECIAL', `a ${node.type} has no bytes`)
      const handle = new MemoryHandle(node.bytes, this.#ledger, this.#weather)
      return { info, etag: info.etag ?? '', handle }
    })
  }

  readDirectory(path: Uint8Array, options: { after?: Uint8Array; limit: number }) {
    return attempt(() => {
      if (this.#node(path, true).type !== 'directory') {
        throw new AppError('ERR_FILE_NOT_DIRECTORY', 'not a directory')
      }
      const key = latin1(path)
      const prefix = key === '' ? '' : `${key}/`
      const after = options.after === undefined ? '' : latin1(options.after)
      const names = [...this.#image.files.keys()]
        .filter((name) => name !== '' && name.startsWith(prefix))
        .map((name) => name.slice(prefix.length))
        .filter((name) => name !== '' && !name.includes('/') && name > after)
        .toSorted((a, b) => (a < b ? -1 : 1))
      const page = names.slice(0, options.limit)
      const last = page.at(-1)
      return {
        entries: page.map((name) => ({
          name: Buffer.from(name, 'latin1'),
          info: statusOf(this.#node(Buffer.from(prefix + name, 'latin1'), false)),
        })),
        ...(names.length > page.length && last !== undefined
          ? { next: Buffer.from(last, 'latin1') }
          : {}),
      }
    })
  }

  [Symbol.dispose](): void {
    this.#ledger.viewsClosed++
  }

  #device(n: number): Buffer {
    const device = this.#image.devices[n]
    if (device === undefined) throw new AppError('ERR_DEVICE_NOT_FOUND', `no device ${n}`)
    return device
  }

  #node(path: Uint8Array, follow: boolean): MemoryNode {
    if (this.filesystem !== 'erofs')
      throw new AppError('ERR_IMAGE_NOT_PARSED', 'the image has no files')
    const key = latin1(path)
    const node = this.#image.files.get(key)
    if (node === undefined) throw new AppError('ERR_FILE_NOT_FOUND', `no file '${key}'`)
    if (follow && node.target !== undefined) return this.#node(Buffer.from(node.target), true)
    return node
  }
}

function statusOf(node: MemoryNode): FileStatus {
  const size = node.bytes?.length ?? node.target?.length ?? 0
  return {
    nid: 42 as FileStatus['nid'],
    type: node.type,
    size,
    mode: node.mode ?? 0o100644,
    uid: 0,
    gid: 0,
    nlink: 1,
    mtimeSeconds: 1_700_000_000,
    mtimeNanoseconds: 5,
    xattrs: [{ name: Buffer.from('user.a'), value: Buffer.from([0, 255]), hidden: false }],
    ...(node.target === undefined ? {} : { target: Buffer.from(node.target) }),
    ...(node.bytes === undefined ? {} : { etag: `"${digestOf(node.bytes)}"` }),
  }
}

export function imageDigest(image: MemoryImage): Digest {
  return digestOf(Buffer.from(image.devices.map((device) => digestOf(device)).join(' ')))
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

export function attempt<T>(run: () => T): Promise<T> {
  return new Promise((resolve) => resolve(run()))
}
