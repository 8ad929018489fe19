/**
 * The two planes over Buffers: a real implementation of the interfaces that front ends see, with every
 * lease and every open view counted, and with reads that can be made cold, slow or broken. Not a mock: it
 * answers any request, and tests look at what it counted.
 */
import type { Digest, Ref } from '../../src/core/index.ts'
import { AppError, digestOf, formatRef } from '../../src/core/index.ts'
import type { ImageView } from '../../src/images/index.ts'
import type { BlobView, DataPlane } from '../../src/server/planes.ts'
import { MemoryControl, notFound } from './memory-control.ts'
import type { Weather } from './memory-handle.ts'
import { Ledger, MemoryHandle } from './memory-handle.ts'
import type { MemoryImage, MemoryNode } from './memory-view.ts'
import { imageDigest, MemoryView } from './memory-view.ts'

import '../../src/images/errors.ts'
import '../../src/server/errors.ts'
import '../../src/store/errors.ts'
import '../../src/cache/errors.ts'

export class MemoryPlanes implements DataPlane {
  readonly ledger = new Ledger()
  readonly weather: Weather = {
    cold: false,
    gate: undefined,
    openGate: undefined,
    failAt: undefined,
    pinBudgetBytes: 1 << 20,
  }
  readonly images = new Map<string, MemoryImage>()
  readonly blobs = new Map<string, Buffer>()
  readonly control = new MemoryControl(this)

  addImage(ref: Ref, devices: readonly Buffer[], files: Record<string, MemoryNode>): Digest {
    const image = { ref, devices, files: new Map(Object.entries(files)) }
    const digest = imageDigest(image)
    this.images.set(formatRef(ref), image)
    this.images.set(formatRef({ domain: ref.domain, name: ref.name, digest }), image)
    return digest
  }

  addBlob(domain: string, bytes: Buffer): Digest {
    const digest = digestOf(bytes)
    this.blobs.set(`${domain}/${digest}`, bytes)
    return digest
  }

  openImage(ref: Ref): Promise<ImageView> {
    const image = this.images.get(formatRef(ref))
    if (image === undefined) return Promise.reject(notFound(ref))
    return Promise.resolve(new MemoryView(image, this.ledger, this.weather) as unknown as ImageView)
  }

  async openBlob(domain: string, digest: Digest): Promise<BlobView> {
    await this.weather.openGate?.()
    const bytes = this.blobs.get(`${domain}/${digest}`)
    if (bytes === undefined) {
      throw new AppError('ERR_BLOB_NOT_FOUND', `no blob ${digest} in ${domain}`)
    }
    this.ledger.views++
    const close = (): void => void this.ledger.viewsClosed++
    return {
      digest,
      size: bytes.length,
      open: () => new MemoryHandle(bytes, this.ledger, this.weather),
      [Symbol.dispose]: close,
    }
  }
}
