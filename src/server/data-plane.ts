/**
 * The data plane of one worker: resolves references, opens images and blobs, and keeps views for the next
 * client. Resolutions are cached under main's epoch, so that a tag that was moved anywhere is seen by the
 * next open here.
 */
import { LRUCache } from 'lru-cache'

import type { PageReader } from '../cache/index.ts'
import { ImageAccounting } from '../cache/index.ts'
import type { Digest, Ref } from '../core/index.ts'
import { formatRef } from '../core/index.ts'
import { BlobMap, FileCaches, ImageView, MappedHandle } from '../images/index.ts'
import type { ImageDescriptor } from './image-registry.ts'
import type { BlobView, DataPlane } from './planes.ts'
import type { RpcPeer } from './rpc.ts'
import { MAIN_CALLS } from './threads/setup.ts'

/** References whose digest is remembered. */
const MAX_RESOLUTIONS = 4096
/** Views that stay open without a client: each holds its map in memory. */
const MAX_IDLE_VIEWS = 32

export interface DataPlaneOptions {
  readonly rpc: RpcPeer
  readonly reader: PageReader
  readonly epoch: Int32Array
  readonly workerNo: number
}

/** What main answers when a blob is opened. */
export interface BlobDescriptor {
  readonly size: number
  readonly blobNo: number
  readonly domainNo: number
}

interface Resolution {
  readonly digest: Digest
  readonly epoch: number
}

export class WorkerDataPlane implements DataPlane {
  readonly #options: DataPlaneOptions
  readonly #resolutions = new LRUCache<string, Resolution>({ max: MAX_RESOLUTIONS })
  readonly #views = new Map<string, ImageView>()
  readonly #opening = new Map<string, Promise<void>>()
  readonly #idle = new Set<string>()
  readonly #caches = new FileCaches()

  constructor(options: DataPlaneOptions) {
    this.#options = options
  }

  async openImage(ref: Ref): Promise<ImageView> {
    const digest = ref.digest ?? (await this.#resolve(ref))
    const key = `${ref.domain}/${digest}`
    let view = this.#views.get(key)
    while (!view) {
      await this.#openOnce(key, ref.domain, digest)
      view = this.#views.get(key)
    }
    this.#idle.delete(key)
    return view.acquire()
  }

  async openBlob(domain: string, digest: Digest): Promise<BlobView> {
    const { size, blobNo, domainNo } = await this.#options.rpc.call<BlobDescriptor>(
      MAIN_CALLS.OPEN_BLOB,
      domain,
      digest,
    )
    const map = new BlobMap({ digest, size, blobNo, ordinalBase: 0 })
    const identity = { imageId: 0, domainNo }
    const open = () => new MappedHandle(map, this.#options.reader, identity)
    return { digest, size, open, [Symbol.dispose]: () => undefined }
  }

  /** Closes the images that are kept for the next client only: main needs the room of their maps. */
  releaseIdle(): void {
    for (const key of this.#idle) this.#forget(key)
  }

  async #resolve(ref: Ref): Promise<Digest> {
    const key = formatRef(ref)
    const epoch = Atomics.load(this.#options.epoch, 0)
    const known = this.#resolutions.get(key)
    if (known?.epoch === epoch) return known.digest
    const digest = await this.#options.rpc.call<Digest>(MAIN_CALLS.RESOLVE, ref)
    this.#resolutions.set(key, { digest, epoch })
    return digest
  }

  async #openOnce(key: string, domain: string, digest: Digest): Promise<void> {
    const running = this.#opening.get(key)
    if (running) {
      await running
      return
    }
    const opening = this.#open(key, domain, digest)
    this.#opening.set(key, opening)
    try {
      await opening
    } finally {
      this.#opening.delete(key)
    }
  }

  async #open(key: string, domain: string, digest: Digest): Promise<void> {
    const descriptor = await this.#options.rpc.call<ImageDescriptor>(
      MAIN_CALLS.OPEN_IMAGE,
      domain,
      digest,
    )
    try {
      this.#views.set(key, this.#view(key, descriptor))
    } catch (error) {
      this.#options.rpc.notify(MAIN_CALLS.CLOSE_IMAGE, domain, digest)
      throw error
    }
  }

  /** @throws ERR_IMAGE_RECORD_INVALID */
  #view(key: string, descriptor: ImageDescriptor): ImageView {
    const { domain, digest, record, maps, blobs, imageId, domainNo } = descriptor
    const { reader, workerNo } = this.#options
    const touched = new ImageAccounting(descriptor.accounting, workerNo)
    return new ImageView({
      domain,
      digest,
      record,
      maps,
      blobs,
      identity: { imageId, domainNo, touched },
      reader,
      caches: this.#caches,
      onUnused: () => this.#released(key),
    })
  }

  #released(key: string): void {
    this.#idle.add(key)
    for (const oldest of this.#idle) {
      if (this.#idle.size <= MAX_IDLE_VIEWS) return
      this.#forget(oldest)
    }
  }

  #forget(key: string): void {
    const view = this.#views.get(key)
    this.#idle.delete(key)
    this.#views.delete(key)
    if (view) this.#options.rpc.notify(MAIN_CALLS.CLOSE_IMAGE, view.domain, view.digest)
  }
}
