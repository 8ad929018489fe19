/**
 * Admission of uploads: space is promised before a body is read, so that a disk does not fill up half way
 * through, and the number of uploads is bounded. Bodies are written by the data workers straight to the
 * path given here. A device of an image can be parked under its digest until the image that needs it comes.
 */
import { randomUUID } from 'node:crypto'
import { rm, stat } from 'node:fs/promises'

import type { Digest } from '../core/index.ts'
import { AppError, formatSize } from '../core/index.ts'

/** Uploads under way or parked at once, over all clients. */
const MAX_UPLOADS = 256
/** Space that is left free on the store's disk whatever is uploaded: records, maps and logs need some. */
const RESERVE_BYTES = 64 * 1024 * 1024
/** A parked device whose image does not come is removed after this long. */
const PARK_TTL_MS = 60 * 60 * 1000

export interface Upload {
  readonly id: string
  readonly domain: string
  readonly path: string
  /** The body may not be longer than this. */
  readonly limitBytes: number
}

interface Entry extends Upload {
  digest?: Digest
  parkedAt?: number
}

export interface UploadArea {
  freeBytes(): Promise<number>
  /** A path for a new file in the domain's upload area; its folder exists. */
  uploadPath(domain: string, id: string): Promise<string>
}

export class Uploads {
  readonly #area: UploadArea
  readonly #entries = new Map<string, Entry>()

  constructor(area: UploadArea) {
    this.#area = area
  }

  /** @throws ERR_STORE_FULL, ERR_UPLOADS_EXHAUSTED */
  async begin(domain: string, sizeBytes: number | undefined): Promise<Upload> {
    await this.#expire()
    if (this.#entries.size >= MAX_UPLOADS) {
      throw new AppError(
        'ERR_UPLOADS_EXHAUSTED',
        `${this.#entries.size} uploads are under way, the limit is ${MAX_UPLOADS}`,
      )
    }
    const free = Math.max(
      0,
      (await this.#area.freeBytes()) - RESERVE_BYTES - (await this.#promised()),
    )
    if (sizeBytes !== undefined && sizeBytes > free) {
      throw new AppError(
        'ERR_STORE_FULL',
        `an upload of ${formatSize(sizeBytes)} does not fit: ${formatSize(free)} are free`,
        {
          hint: 'remove images or use a larger disk for --data',
          details: { sizeBytes, freeBytes: free },
        },
      )
    }
    const id = randomUUID()
    const path = await this.#area.uploadPath(domain, id)
    const entry: Entry = { id, domain, path, limitBytes: sizeBytes ?? free }
    this.#entries.set(id, entry)
    return { id, domain, path, limitBytes: entry.limitBytes }
  }

  /** Hands an upload over: from here on the caller removes its file. @throws ERR_UPLOAD_NOT_FOUND */
  take(domain: string, id: string): Upload {
    const entry = this.#entries.get(id)
    if (!entry || entry.domain !== domain)
      throw new AppError('ERR_UPLOAD_NOT_FOUND', `no upload '${id}' in '${domain}'`)
    this.#entries.delete(id)
    return entry
  }

  /** Keeps a finished upload under its digest until an import takes it. */
  park(upload: Upload, digest: Digest): void {
    this.#entries.set(upload.id, { ...upload, digest, parkedAt: Date.now() })
  }

  /** Takes a parked upload by digest, if there is one. */
  takeParked(domain: string, digest: Digest): Upload | undefined {
    for (const entry of this.#entries.values()) {
      if (entry.domain !== domain || entry.digest !== digest) continue
      this.#entries.delete(entry.id)
      return entry
    }
    return undefined
  }

  /** Gives the space back. Unknown ids are fine: an abort may come twice. */
  async abort(id: string): Promise<void> {
    const entry = this.#entries.get(id)
    if (!entry) return
    this.#entries.delete(id)
    await rm(entry.path, { force: true })
  }

  async #expire(): Promise<void> {
    const now = Date.now()
    for (const entry of this.#entries.values()) {
      if (entry.parkedAt !== undefined && now - entry.parkedAt > PARK_TTL_MS)
        await this.abort(entry.id)
    }
  }

  /** Bytes that were promised to uploads under way and are not on disk yet. */
  async #promised(): Promise<number> {
    let bytes = 0
    for (const entry of this.#entries.values()) {
      if (entry.digest !== undefined) continue
      const written = await stat(entry.path).then(
        (info) => info.size,
        () => 0,
      )
      bytes += Math.max(0, entry.limitBytes - written)
    }
    return bytes
  }
}
