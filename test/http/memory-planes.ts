/**
 * The two planes over Buffers: a real implementation of the interfaces that front ends see, with every
 * lease and every open view counted, and with reads that can be made cold, slow or broken. Not a mock: it
 * answers any request, and tests look at what it counted.
 */
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'

import type { Digest, Ref } from '../../src/core/index.ts'
import { AppError, digestOf, formatRef } from '../../src/core/index.ts'
import type { DataHandle, FileStatus, ImageView } from '../../src/images/index.ts'
import type { Lease } from '../../src/cache/index.ts'
import type { BlobView, ControlPlane, DataPlane } from '../../src/server/planes.ts'
import type {
  DiskUsage,
  Image,
  ImageList,
  ImportReport,
  Job,
  Sharing,
  Stats,
} from '../../src/server/http/schemas.ts'

import '../../src/images/errors.ts'
import '../../src/server/errors.ts'
import '../../src/store/errors.ts'
import '../../src/cache/errors.ts'

export const FRAME_BYTES = 16 * 1024
const STARTED = '2026-01-02T03:04:05Z'

/** What happened to the bytes: tests assert that everything borrowed was given back. */
export class Ledger {
  leases = 0
  released = 0
  doubleReleases = 0
  handles = 0
  handlesClosed = 0
  views = 0
  viewsClosed = 0
  copies = 0
  reads: { offset: number; length: number }[] = []
  /** Reads that were told to stop. */
  aborted = 0

  get heldLeases(): number {
    return this.leases - this.released
  }

  get open(): number {
    return this.handles - this.handlesClosed + (this.views - this.viewsClosed)
  }
}

/** How bytes behave: as in memory by default. */
export interface Weather {
  /** Nothing is in memory: tryRead and readInto find nothing. */
  cold: boolean
  /** Awaited before a cold read is answered. */
  gate: ((signal: AbortSignal | undefined) => Promise<void>) | undefined
  /** Thrown by cold reads at or behind this offset. */
  failAt: number | undefined
  pinBudgetBytes: number
}

export class MemoryHandle implements DataHandle {
  readonly size: number
  readonly #bytes: Buffer
  readonly #ledger: Ledger
  readonly #weather: Weather
  #open = true

  constructor(bytes: Buffer, ledger: Ledger, weather: Weather) {
    this.size = bytes.length
    this.#bytes = bytes
    this.#ledger = ledger
    this.#weather = weather
    ledger.handles++
  }

  get pinBudgetBytes(): number {
    return this.#weather.pinBudgetBytes
  }

  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean {
    this.#check(offset, length)
    if (this.#weather.cold) return false
    this.#ledger.copies++
    this.#bytes.copy(target, targetOffset, offset, offset + length)
    return true
  }

  tryRead(offset: number, length: number): Lease | undefined {
    this.#check(offset, length)
    return this.#weather.cold ? undefined : this.#lease(offset, length)
  }

  async read(offset: number, length: number, options?: { signal?: AbortSignal }): Promise<Lease> {
    this.#check(offset, length)
    await this.#settle(offset, length, options?.signal)
    return this.#lease(offset, length)
  }

  async *stream(
    offset: number,
    length: number,
    options?: { signal?: AbortSignal },
  ): AsyncGenerator<Lease> {
    this.#check(offset, length)
    for (let at = offset; at < offset + length; at += this.pinBudgetBytes) {
      const piece = Math.min(this.pinBudgetBytes, offset + length - at)
      await this.#settle(at, piece, options?.signal)
      yield this.#lease(at, piece)
    }
  }

  prefetch(): void {
    // Everything is here already.
  }

  [Symbol.dispose](): void {
    if (!this.#open) throw new Error('a handle was disposed twice')
    this.#open = false
    this.#ledger.handlesClosed++
  }

  async #settle(offset: number, length: number, signal: AbortSignal | undefined): Promise<void> {
    this.#ledger.reads.push({ offset, length })
    if (this.#weather.cold) await this.#weather.gate?.(signal)
    if (signal?.aborted === true) {
      this.#ledger.aborted++
      throw new AppError('ERR_ABORTED', 'the read was cancelled')
    }
    const { failAt } = this.#weather
    if (failAt !== undefined && offset + length > failAt) {
      throw new AppError('ERR_CACHE_PAGE_CORRUPT', `page at ${failAt} does not have its digest`)
    }
  }

  #lease(offset: number, length: number): Lease {
    const parts: Buffer[] = []
    for (let at = offset; at < offset + length;) {
      const end = Math.min(offset + length, (Math.floor(at / FRAME_BYTES) + 1) * FRAME_BYTES)
      parts.push(this.#bytes.subarray(at, end))
      at = end
    }
    this.#ledger.leases++
    let held = true
    const release = (): void => {
      if (!held) this.#ledger.doubleReleases++
      else this.#ledger.released++
      held = false
    }
    return { parts, byteLength: length, pinnedBytes: length, release, [Symbol.dispose]: release }
  }

  #check(offset: number, length: number): void {
    if (!this.#open) throw new Error('a disposed handle was read')
    if (offset < 0 || length < 1 || offset + length > this.size) {
      throw new RangeError(`range ${offset}+${length} is outside of ${this.size} bytes`)
    }
  }
}

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

export class MemoryPlanes implements DataPlane {
  readonly ledger = new Ledger()
  readonly weather: Weather = {
    cold: false,
    gate: undefined,
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

  openBlob(domain: string, digest: Digest): Promise<BlobView> {
    const bytes = this.blobs.get(`${domain}/${digest}`)
    if (bytes === undefined) {
      return Promise.reject(new AppError('ERR_BLOB_NOT_FOUND', `no blob ${digest} in ${domain}`))
    }
    this.ledger.views++
    const close = (): void => void this.ledger.viewsClosed++
    return Promise.resolve({
      digest,
      size: bytes.length,
      open: () => new MemoryHandle(bytes, this.ledger, this.weather),
      [Symbol.dispose]: close,
    })
  }
}

class MemoryView {
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

/** Control plane over maps; uploads go to real files. */
export class MemoryControl implements ControlPlane {
  readonly #planes: MemoryPlanes
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

  constructor(planes: MemoryPlanes) {
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

  tag(ref: Ref, from: Ref): Promise<Image> {
    return attempt(() => {
      const image = { ...this.#find(from), ref }
      this.#planes.images.set(formatRef(ref), image)
      return recordOf(image, ref)
    })
  }

  remove(ref: Ref): Promise<void> {
    return attempt(() => {
      this.#find(ref)
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

  async startImport(domain: string, uploadId: string, request: { ref: Ref }): Promise<Job> {
    const bytes = await this.#take(uploadId)
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

function imageDigest(image: MemoryImage): Digest {
  return digestOf(Buffer.from(image.devices.map((device) => digestOf(device)).join(' ')))
}

function notFound(ref: Ref): AppError {
  return new AppError('ERR_IMAGE_NOT_FOUND', `no image named '${formatRef(ref)}'`, {
    hint: 'GET /v1/images lists them',
  })
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

function attempt<T>(run: () => T): Promise<T> {
  return new Promise((resolve) => resolve(run()))
}
