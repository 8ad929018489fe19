/**
 * Uploads under way: space is set aside in the store before a body is read, and their number is bounded.
 * Bodies are written by the data workers straight to the path given here. A device of an image can be
 * parked under its digest until the image that needs it comes.
 */
import { randomUUID } from 'node:crypto'

import type { Digest } from '../core/index.ts'
import { AppError } from '../core/index.ts'
import type { StagedUpload, Store } from '../store/index.ts'

/** Uploads under way or parked at once, over all clients. */
const MAX_UPLOADS = 256
/**
 * A parked device whose image does not come is removed after this long, counted from the end of the last upload
 * of its domain: a client parks all devices before it sends the image.
 */
const PARK_TTL_MS = 60 * 60 * 1000
/** How often parked devices are looked at. */
const EXPIRY_CHECK_MS = 60 * 1000

export interface Upload {
  readonly id: string
  readonly domain: string
  /** Of the local file; removed, and its space given back, when this is disposed of. */
  readonly staged: StagedUpload
  /** The body may not be longer than this. */
  readonly limitBytes: number
}

/** A parked device in the hands of an import; its file stays until this is disposed of. */
export interface ParkedDevice extends AsyncDisposable {
  readonly path: string
}

/** One file for all who parked a device of this digest: each of them comes for it with an import of their own. */
interface Parked {
  readonly upload: Upload
  readonly digest: Digest
  since: number
  /** Times it was parked and not taken yet. */
  claims: number
  /** Imports that read it. */
  users: number
}

export interface UploadsOptions {
  readonly parkTtlMs?: number
  readonly checkMs?: number
  /** Of a parked device that could not be removed. */
  readonly onError: (error: unknown) => void
}

export class Uploads implements AsyncDisposable {
  readonly #store: Store
  readonly #parkTtlMs: number
  readonly #onError: (error: unknown) => void
  readonly #timer: NodeJS.Timeout
  readonly #receiving = new Map<string, Upload>()
  readonly #parked = new Map<string, Parked>()
  #opening = 0

  constructor(store: Store, options: UploadsOptions) {
    this.#store = store
    this.#parkTtlMs = options.parkTtlMs ?? PARK_TTL_MS
    this.#onError = options.onError
    this.#timer = setInterval(() => void this.#expire(), options.checkMs ?? EXPIRY_CHECK_MS)
    this.#timer.unref()
  }

  /** How many there are now. */
  get counts(): { readonly receiving: number; readonly parked: number } {
    return { receiving: this.#receiving.size + this.#opening, parked: this.#parked.size }
  }

  /**
   * Admits an upload of the announced size, or of an unknown one.
   * @throws ERR_STORE_FULL, ERR_UPLOADS_EXHAUSTED
   */
  async begin(domain: string, sizeBytes: number | undefined): Promise<Upload> {
    const { receiving, parked } = this.counts
    const count = receiving + parked
    if (count >= MAX_UPLOADS) {
      throw new AppError(
        'ERR_UPLOADS_EXHAUSTED',
        `${count} uploads are under way, the limit is ${MAX_UPLOADS}`,
      )
    }
    this.#opening++
    try {
      const staged = await this.#store.domain(domain).stageUpload(sizeBytes)
      const upload: Upload = { id: randomUUID(), domain, staged, limitBytes: staged.maxBytes }
      this.#receiving.set(upload.id, upload)
      return upload
    } finally {
      this.#opening--
    }
  }

  /** Hands an upload over: from here on the caller disposes of it. @throws ERR_UPLOAD_NOT_FOUND */
  take(domain: string, id: string): Upload {
    const upload = this.#receiving.get(id)
    if (!upload || upload.domain !== domain) {
      throw new AppError('ERR_UPLOAD_NOT_FOUND', `no upload '${id}' in domain '${domain}'`)
    }
    this.#ended(upload)
    return upload
  }

  /**
   * Keeps a finished upload under its digest until an import takes it. Of two equal ones the first is kept, for
   * two takers.
   */
  async park(upload: Upload, digest: Digest): Promise<void> {
    const since = performance.now()
    const known = this.#findParked(upload.domain, digest)
    if (known === undefined) {
      this.#parked.set(upload.id, { upload, digest, since, claims: 1, users: 0 })
      return
    }
    known.claims++
    known.since = since
    await upload.staged[Symbol.asyncDispose]()
  }

  /**
   * Takes a parked device by digest, if there is one.
   * @param times how often the import names it: it may have been parked for each
   */
  takeParked(domain: string, digest: Digest, times = 1): ParkedDevice | undefined {
    const parked = this.#findParked(domain, digest)
    if (parked === undefined) return undefined
    parked.claims = Math.max(0, parked.claims - times)
    parked.users++
    if (parked.claims === 0) this.#parked.delete(parked.upload.id)
    let held = true
    return {
      path: parked.upload.staged.path,
      [Symbol.asyncDispose]: async () => {
        if (held) parked.users--
        held = false
        await removeUnused(parked)
      },
    }
  }

  /** Gives the space back. Unknown ids are fine: an abort may come twice. */
  async abort(id: string): Promise<void> {
    const upload = this.#receiving.get(id)
    if (upload === undefined) return
    this.#ended(upload)
    await upload.staged[Symbol.asyncDispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    const receiving = [...this.#receiving.values()]
    const parked = [...this.#parked.values()]
    this.#receiving.clear()
    this.#parked.clear()
    for (const upload of receiving) await upload.staged[Symbol.asyncDispose]()
    for (const device of parked) await giveUp(device)
  }

  #findParked(domain: string, digest: Digest): Parked | undefined {
    for (const parked of this.#parked.values()) {
      if (parked.upload.domain === domain && parked.digest === digest) return parked
    }
    return undefined
  }

  /** What is parked in its domain may have waited for it. */
  #ended(upload: Upload): void {
    this.#receiving.delete(upload.id)
    const since = performance.now()
    for (const parked of this.#parked.values()) {
      if (parked.upload.domain === upload.domain) parked.since = since
    }
  }

  /** Never rejects. */
  async #expire(): Promise<void> {
    const now = performance.now()
    const receiving = new Set([...this.#receiving.values()].map(({ domain }) => domain))
    for (const [id, parked] of this.#parked) {
      if (now - parked.since <= this.#parkTtlMs || receiving.has(parked.upload.domain)) continue
      this.#parked.delete(id)
      try {
        await giveUp(parked)
      } catch (error) {
        this.#onError(error)
      }
    }
  }
}

/** Nobody will come for it any more. */
async function giveUp(parked: Parked): Promise<void> {
  parked.claims = 0
  await removeUnused(parked)
}

async function removeUnused({ upload, claims, users }: Parked): Promise<void> {
  if (claims === 0 && users === 0) await upload.staged[Symbol.asyncDispose]()
}
