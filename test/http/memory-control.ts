/** The control plane over maps; uploads go to real files. */
import { randomUUID } from 'node:crypto'
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import type { Digest, Ref } from '../../src/core/index.ts'
import { AppError, digestOf, formatRef } from '../../src/core/index.ts'
import type {
  DiskUsage,
  Image,
  ImageList,
  ImportReport,
  Job,
  Sharing,
  Stats,
} from '../../src/server/http/schemas.ts'
import type { Preconditions } from '../../src/server/http/conditional.ts'
import { checkPreconditions, imageEtag } from '../../src/server/http/conditional.ts'
import type { ControlPlane } from '../../src/server/planes.ts'
import { FRAME_BYTES } from './memory-handle.ts'
import type { MemoryImage } from './memory-view.ts'
import { attempt, imageDigest } from './memory-view.ts'

const STARTED = '2026-01-02T03:04:05Z'

/** What the control plane knows the data plane by. */
export interface Stored {
  readonly images: Map<string, MemoryImage>
  readonly blobs: Map<string, Buffer>
  addImage(ref: Ref, devices: readonly Buffer[], files: Record<string, never>): Digest
  addBlob(domain: string, bytes: Buffer): Digest
}

export class MemoryControl implements ControlPlane {
  readonly #planes: Stored
  readonly uploads = new Map<string, string>()
  readonly jobList = new Map<string, Job>()
  aborted: string[] = []
  /** Refuses uploads announced larger than this. */
  freeBytes = 1 << 30
  limitBytes = 1 << 30
  checks: { name: string; ok: boolean; reason?: string }[] = [{ name: 'store', ok: true }]
  /** Resolves when jobs may finish. */
  jobGate: Promise<void> = Promise.resolve()
  served = 0

  constructor(planes: Stored) {
    this.#planes = planes
  }

  domains(): Promise<string[]> {
    return Promise.resolve(
      [...new Set([...this.#tags()].map((image) => image.ref.domain))].toSorted(),
    )
  }

  images(query: { domain?: string; cursor?: string; limit?: number }): Promise<ImageList> {
    const all = this.#tags()
      .map((image) => recordOf(image, image.ref))
      .filter((image) => query.domain === undefined || image.domain === query.domain)
      .filter((image) => query.cursor === undefined || image.ref > query.cursor)
      .toSorted((a, b) => (a.ref < b.ref ? -1 : 1))
    const images = all.slice(0, query.limit ?? 100)
    const last = images.at(-1)
    return Promise.resolve({
      images,
      ...(last !== undefined && images.length < all.length ? { nextCursor: last.ref } : {}),
    })
  }

  image(ref: Ref): Promise<Image> {
    return attempt(() => recordOf(this.#find(ref), ref))
  }

  tag(ref: Ref, from: Ref, preconditions: Preconditions = {}): Promise<Image> {
    return attempt(() => {
      const image = { ...this.#find(from), ref }
      this.#check(ref, preconditions)
      this.#planes.images.set(formatRef(ref), image)
      return recordOf(image, ref)
    })
  }

  remove(ref: Ref, preconditions: Preconditions = {}): Promise<void> {
    return attempt(() => {
      this.#find(ref)
      this.#check(ref, preconditions)
      this.#planes.images.delete(formatRef(ref))
    })
  }

  beginUpload(_domain: string, sizeBytes: number | undefined) {
    return attempt(() => {
      if ((sizeBytes ?? 0) > this.freeBytes)
        throw new AppError('ERR_STORE_FULL', 'no space for the upload')
      const id = randomUUID()
      const path = join(tmpdir(), `commonpage-test-${id}`)
      this.uploads.set(id, path)
      return { id, path, limitBytes: this.limitBytes }
    })
  }

  async abortUpload(id: string): Promise<void> {
    this.aborted.push(id)
    await this.#take(id)
  }

  async finishBlob(
    domain: string,
    id: string,
    { expected }: { expected?: Digest; park?: boolean } = {},
  ) {
    const bytes = await this.#take(id)
    const digest = digestOf(bytes)
    if (expected !== undefined && expected !== digest) {
      throw new AppError(
        'ERR_STORE_DIGEST_MISMATCH',
        `the body has ${digest}, expected ${expected}`,
      )
    }
    const created = !this.#planes.blobs.has(`${domain}/${digest}`)
    this.#planes.addBlob(domain, bytes)
    return { digest, sizeBytes: bytes.length, created }
  }

  async startImport(
    domain: string,
    uploadId: string,
    request: { ref: Ref; preconditions?: Preconditions },
  ): Promise<Job> {
    const bytes = await this.#take(uploadId)
    this.#check(request.ref, request.preconditions ?? {})
    const digest = this.#planes.addImage(request.ref, [bytes], {})
    const report: ImportReport = {
      ref: formatRef(request.ref),
      digest,
      sizeBytes: bytes.length,
      logicalBytes: bytes.length,
      newBytes: bytes.length,
      sharedBytes: 0,
      zeroBytes: 0,
      sharedWith: [],
      filesystem: 'unknown',
      inodes: 0,
      notes: [`imported to ${domain}`],
    }
    const job: Job = {
      id: randomUUID(),
      kind: 'import',
      ref: formatRef(request.ref),
      state: 'running',
      phase: 'writing',
      doneBytes: 0,
      totalBytes: bytes.length,
      createdAt: STARTED,
    }
    this.jobList.set(job.id, job)
    void this.#finishJob(job.id, report)
    return job
  }

  jobs(): Promise<Job[]> {
    return Promise.resolve([...this.jobList.values()])
  }

  async job(id: string, options?: { waitMs?: number }): Promise<Job> {
    if (options?.waitMs !== undefined) await this.jobGate
    return this.#job(id)
  }

  cancelJob(id: string): Promise<Job> {
    return attempt(() => {
      const job: Job = { ...this.#job(id), state: 'cancelled' }
      this.jobList.set(id, job)
      return job
    })
  }

  diskUsage(_query: { domain?: string }): Promise<DiskUsage> {
    const images = this.#tags().map((image) => {
      const size = Buffer.concat(image.devices).length
      return {
        ref: formatRef(image.ref),
        digest: imageDigest(image),
        logicalBytes: size,
        storedBytes: size,
        uniqueBytes: Math.floor(size / 4),
        sharedBytes: size - Math.floor(size / 4),
        residentBytes: Math.floor(size / 2),
      }
    })
    const total = images.reduce((sum, row) => sum + row.logicalBytes, 0)
    return Promise.resolve({
      images,
      totals: {
        logicalBytes: total,
        storedBytes: total,
        residentBytes: 0,
        images: images.length,
        blobs: this.#planes.blobs.size,
      },
    })
  }

  sharing(_query: { domain?: string }): Promise<Sharing> {
    const images = this.#tags().map((image) => ({
      ref: formatRef(image.ref),
      domain: image.ref.domain,
      digest: imageDigest(image),
      touchedBytes: 40_960,
      addedBytes: 4096,
      sharedHits: 9,
      residentBytes: 65_536,
    }))
    return Promise.resolve({
      epochStartedAt: STARTED,
      images,
      unattributedBytes: 0,
      broughtInBytes: images.length * 4096,
      residentBytes: images.length * 65_536,
      capacityBytes: 1 << 26,
    })
  }

  resetSharing(): Promise<Sharing> {
    return this.sharing({})
  }

  stats(): Promise<Stats> {
    return Promise.resolve({
      version: '0.0.0-test',
      startedAt: STARTED,
      uptimeSeconds: 61,
      workers: 1,
      cache: {
        capacityBytes: 1 << 26,
        residentBytes: 1 << 20,
        pinnedBytes: 0,
        frameSizeBytes: FRAME_BYTES,
        evictions: 0,
        fillErrors: 0,
      },
      domains: [
        {
          domain: 'demo',
          hits: 10,
          sharedHits: 5,
          coalesced: 1,
          misses: 2,
          servedMemoryBytes: 1000,
          servedStoreBytes: 100,
          residentBytes: 1 << 20,
        },
      ],
      servedBytes: 1_000_000 + this.served,
      storeReadBytes: 100_000,
      nbdConnections: 1,
      httpConnections: 2,
      uploads: { receiving: this.uploads.size, parked: 0 },
      httpRequests: 7,
      images: this.#tags().length,
      clients: [
        {
          id: 'n1',
          kind: 'nbd',
          address: '127.0.0.1:40000',
          export: 'demo/app:1',
          connectedAt: STARTED,
          readBytes: 900,
          requests: 3,
        },
      ],
    })
  }

  readiness() {
    return Promise.resolve(this.checks)
  }

  async #finishJob(id: string, report: ImportReport): Promise<void> {
    await this.jobGate
    const job = this.#job(id)
    if (job.state === 'cancelled') return
    this.jobList.set(id, {
      ...job,
      state: 'done',
      doneBytes: job.totalBytes,
      finishedAt: STARTED,
      report,
    })
  }

  #job(id: string): Job {
    const job = this.jobList.get(id)
    if (job === undefined) throw new AppError('ERR_JOB_NOT_FOUND', `no job ${id}`)
    return job
  }

  #check(ref: Ref, preconditions: Preconditions): void {
    const image = this.#planes.images.get(formatRef(ref))
    checkPreconditions(
      preconditions,
      image === undefined ? undefined : imageEtag(imageDigest(image)),
    )
  }

  #find(ref: Ref): MemoryImage {
    const image = this.#planes.images.get(formatRef(ref))
    if (image === undefined) throw notFound(ref)
    return image
  }

  /** Images by tag: names by digest are the same images again. */
  #tags(): MemoryImage[] {
    return [...this.#planes.images]
      .filter(([name]) => !name.includes('@'))
      .map(([, image]) => image)
  }

  async #take(id: string): Promise<Buffer> {
    const path = this.uploads.get(id)
    if (path === undefined) throw new AppError('ERR_UPLOAD_NOT_FOUND', `no upload ${id}`)
    this.uploads.delete(id)
    const bytes = await readFile(path).catch(() => Buffer.alloc(0))
    await rm(path, { force: true })
    return bytes
  }
}

function recordOf(image: MemoryImage, ref: Ref): Image {
  const digest = imageDigest(image)
  return {
    ref: formatRef(ref),
    domain: ref.domain,
    name: ref.name,
    ...(ref.tag === undefined ? {} : { tag: ref.tag }),
    digest,
    logicalBytes: image.devices.reduce((sum, device) => sum + device.length, 0),
    sizeBytes: image.devices.reduce((sum, device) => sum + device.length, 0),
    devices: image.devices.map((device) => ({
      sizeBytes: device.length,
      digest: digestOf(device),
      extents: 1,
    })),
    origin: { kind: 'test' },
    filesystem: image.files.size > 0 ? 'erofs' : 'unknown',
    inodes: image.files.size,
    nbdExport: `${ref.domain}/${ref.name}@${digest}`,
  }
}

export function notFound(ref: Ref): AppError {
  return new AppError('ERR_IMAGE_NOT_FOUND', `no image named '${formatRef(ref)}'`, {
    hint: 'GET /v1/images lists them',
  })
}
