/**
 * The control plane: what main does for front ends. It owns refs (every change bumps the epoch before it is
 * acknowledged), hands uploads to import processes, and puts the reports together from the counters.
 */
import type { KeeperClient } from '../cache/index.ts'
import type { Digest, Ref } from '../core/index.ts'
import { AppError, formatRef, isDomain } from '../core/index.ts'
import type { ImportDevice, ImportSummary } from '../images/index.ts'
import type { RefRecord, Store } from '../store/index.ts'
import type { Catalogue } from './catalogue.ts'
import type { BlobDescriptor } from './data-plane.ts'
import type { Preconditions } from './http/conditional.ts'
import { checkPreconditions, imageEtag } from './http/conditional.ts'
import type { DiskUsage, Image, ImageList, Job, Sharing, Stats } from './http/index.ts'
import type { ImportProcesses } from './import-processes.ts'
import type { Jobs } from './jobs.ts'
import type { ControlPlane, ImportRequest } from './planes.ts'
import type { Reports } from './reports.ts'
import type { TagCheck } from './tags.ts'
import { pointTag, removeTag } from './tags.ts'
import type { ParkedDevice, Uploads } from './uploads.ts'

export interface MainControlPlaneOptions {
  readonly store: Store
  readonly keeper: KeeperClient
  readonly catalogue: Catalogue
  readonly jobs: Jobs
  readonly processes: ImportProcesses
  readonly uploads: Uploads
  readonly reports: Reports
  /** Int32 in shared memory; workers compare it. */
  readonly epoch: Int32Array
}

/** What a process says of an upload that it hashed or stored. */
interface BlobResult {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly created: boolean
}

export class MainControlPlane implements ControlPlane {
  readonly #options: MainControlPlaneOptions
  #state: 'starting' | 'ready' | 'draining' = 'starting'

  constructor(options: MainControlPlaneOptions) {
    this.#options = options
  }

  listening(): void {
    this.#state = 'ready'
  }

  drain(): void {
    this.#state = 'draining'
  }

  /** What a reference names now. @throws ERR_IMAGE_NOT_FOUND */
  async resolve(ref: Ref): Promise<Digest> {
    return (await this.#options.catalogue.resolve(ref)).digest
  }

  /** @throws ERR_BLOB_NOT_FOUND */
  async openBlob(domain: string, digest: Digest): Promise<BlobDescriptor> {
    const head = await this.#options.store.domain(domain).blobs.head(digest)
    if (!head) throw new AppError('ERR_BLOB_NOT_FOUND', `no blob ${digest} in domain '${domain}'`)
    const [opened] = await this.#options.keeper.openBlobs([{ domain, digest, size: head.size }])
    if (!opened) throw new TypeError(`the keeper gave blob ${digest} no number`)
    return { size: head.size, ...opened }
  }

  async domains(): Promise<string[]> {
    return [...(await this.#options.store.domains())]
  }

  images(query: { domain?: string; cursor?: string; limit?: number }): Promise<ImageList> {
    return this.#options.catalogue.list(query)
  }

  image(ref: Ref): Promise<Image> {
    return this.#options.catalogue.describe(ref)
  }

  async tag(ref: Ref, from: Ref, preconditions?: Preconditions): Promise<Image> {
    if (ref.domain !== from.domain) {
      throw new AppError(
        'ERR_INVALID_ARGUMENT',
        `${formatRef(from)} is of another domain than ${formatRef(ref)}`,
        {
          hint: 'nothing is shared between domains: import the image there',
        },
      )
    }
    const { catalogue } = this.#options
    const { digest } = await catalogue.resolve(from)
    // A tag is moved only when the answer is known: a failure has moved nothing.
    const image = await catalogue.describeAs(ref, digest)
    const { updatedAt } = await this.#point(ref, digest, preconditions)
    return { ...image, updatedAt }
  }

  async remove(ref: Ref, preconditions?: Preconditions): Promise<void> {
    const { tag, domain, name } = ref
    if (tag === undefined) {
      throw new AppError(
        'ERR_INVALID_ARGUMENT',
        `${formatRef(ref)} is a digest: remove the tags that name it`,
      )
    }
    const { refs } = this.#options.store.domain(domain)
    try {
      if (await removeTag(refs, name, tag, checkOf(preconditions))) return
    } finally {
      this.#bump()
    }
    throw new AppError('ERR_IMAGE_NOT_FOUND', `no image '${formatRef(ref)}'`)
  }

  async beginUpload(domain: string, sizeBytes: number | undefined) {
    if (!isDomain(domain)) throw new AppError('ERR_REF_INVALID', `'${domain}' is not a domain`)
    this.#refuseWhenDraining()
    const upload = await this.#options.uploads.begin(domain, sizeBytes)
    return { id: upload.id, path: upload.staged.path, limitBytes: upload.limitBytes }
  }

  abortUpload(id: string): Promise<void> {
    return this.#options.uploads.abort(id)
  }

  async finishBlob(
    domain: string,
    id: string,
    options: { expected?: Digest; park?: boolean } = {},
  ) {
    const { processes, uploads } = this.#options
    const upload = uploads.take(domain, id)
    let parked = false
    try {
      const type = options.park === true ? 'digest' : 'blob'
      const { path } = upload.staged
      const work = { ...this.#work(domain), work: type, path, expected: options.expected }
      const blob = await processes.run<BlobResult>(work)
      if (options.park === true) {
        parked = true
        await uploads.park(upload, blob.digest)
      }
      if (blob.created) this.#bump()
      return blob
    } finally {
      if (!parked) await upload.staged[Symbol.asyncDispose]()
    }
  }

  async startImport(
    domain: string,
    uploadId: string,
    request: Omit<ImportRequest, 'upload'>,
  ): Promise<Job> {
    const { uploads, jobs } = this.#options
    const primary = uploads.take(domain, uploadId)
    try {
      this.#checkImport(domain, request.ref)
    } catch (error) {
      await primary.staged[Symbol.asyncDispose]()
      throw error
    }
    const parked = new Map<Digest, ParkedDevice>()
    for (const digest of new Set(request.devices)) {
      const times = request.devices.filter((other) => other === digest).length
      const device = uploads.takeParked(domain, digest, times)
      if (device !== undefined) parked.set(digest, device)
    }
    const devices: ImportDevice[] = [
      { path: primary.staged.path },
      ...request.devices.map((digest) => {
        const device = parked.get(digest)
        return device === undefined ? { digest } : { path: device.path }
      }),
    ]
    const work = workOf(request, devices)
    const job = jobs.add<ImportSummary>({
      ref: formatRef(request.ref),
      start: { ...this.#work(domain), ...work },
      publish: async (summary) => {
        const { sharedWith, notes } = summary
        const report = {
          ...summary,
          ref: formatRef(request.ref),
          sharedWith: [...sharedWith],
          notes: [...notes],
        }
        await this.#point(request.ref, report.digest, request.preconditions)
        return report
      },
      cleanup: async () => {
        for (const upload of [primary.staged, ...parked.values()]) {
          await upload[Symbol.asyncDispose]()
        }
      },
    })
    return job
  }

  jobs(): Promise<Job[]> {
    return Promise.resolve(this.#options.jobs.list())
  }

  job(id: string, options: { waitMs?: number } = {}): Promise<Job> {
    return this.#options.jobs.get(id, options.waitMs)
  }

  cancelJob(id: string): Promise<Job> {
    return this.#options.jobs.cancel(id)
  }

  diskUsage(query: { domain?: string }): Promise<DiskUsage> {
    return this.#options.reports.diskUsage(query.domain)
  }

  sharing(query: { domain?: string }): Promise<Sharing> {
    return this.#options.reports.sharing(query.domain)
  }

  async resetSharing(): Promise<Sharing> {
    await this.#options.reports.resetEpoch()
    return this.#options.reports.sharing(undefined)
  }

  stats(): Promise<Stats> {
    return this.#options.reports.stats()
  }

  async readiness(): Promise<{ name: string; ok: boolean; reason?: string }[]> {
    const store = await this.#options.store.freeBytes().then(
      () => undefined,
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    )
    return [
      { name: 'store', ok: store === undefined, ...(store === undefined ? {} : { reason: store }) },
      {
        name: 'listeners',
        ok: this.#state !== 'starting',
        ...(this.#state === 'starting' ? { reason: 'not bound yet' } : {}),
      },
      {
        name: 'serving',
        ok: this.#state !== 'draining',
        ...(this.#state === 'draining' ? { reason: 'draining' } : {}),
      },
    ]
  }

  #work(domain: string) {
    return { dataDir: this.#options.store.dataDir, domain }
  }

  /** Makes a tag name an image. @throws ERR_REF_CONFLICT, ERR_HTTP_PRECONDITION_FAILED */
  async #point(ref: Ref, image: Digest, preconditions?: Preconditions): Promise<RefRecord> {
    const { tag, domain, name } = ref
    if (tag === undefined)
      throw new AppError('ERR_REF_INVALID', `${formatRef(ref)} is a digest, expected a tag`)
    try {
      const { refs } = this.#options.store.domain(domain)
      return await pointTag(refs, name, tag, image, checkOf(preconditions))
    } finally {
      this.#bump()
    }
  }

  /** An import whose result could not be published is refused before its work. @throws ERR_SERVER_BUSY, ERR_REF_INVALID */
  #checkImport(domain: string, ref: Ref): void {
    this.#refuseWhenDraining()
    if (ref.domain === domain && ref.tag !== undefined) return
    throw new AppError(
      'ERR_REF_INVALID',
      `${formatRef(ref)} cannot be imported into domain '${domain}', expected a tag of it`,
    )
  }

  #refuseWhenDraining(): void {
    if (this.#state === 'draining') throw new AppError('ERR_SERVER_BUSY', 'the server is stopping')
  }

  /**
   * After this, no worker uses a resolution and no report a list from before the change. Called also when a
   * change has failed: it may have been made before it did.
   */
  #bump(): void {
    Atomics.add(this.#options.epoch, 0, 1)
    this.#options.catalogue.changed()
  }
}

/** What the import process is told to do. @param devices the upload first */
function workOf(
  { format, wanted = {} }: Omit<ImportRequest, 'upload'>,
  devices: readonly ImportDevice[],
): Readonly<Record<string, unknown>> {
  const [upload] = devices
  switch (format) {
    case 'erofs':
      return { work: 'import-erofs', devices }
    case 'tar':
      return { work: 'import-tar', ...upload }
    case 'oci-archive':
    case 'docker-archive':
      return { work: 'import-oci', ...upload, wanted }
  }
}

function checkOf(preconditions: Preconditions = {}): TagCheck {
  return (current) =>
    checkPreconditions(preconditions, current === undefined ? undefined : imageEtag(current))
}
