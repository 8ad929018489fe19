/**
 * The two faces that front ends (HTTP, NBD, command line) see. The data plane lives in each data worker
 * and reads through the shared page cache; the control plane lives in the main thread, owns refs and jobs,
 * and is reached from workers by messages. Front ends know these interfaces only, so each can be tested
 * against an implementation in memory.
 */
import type { WantedImage } from '../oci/index.ts'
import type { Digest, Ref } from '../core/index.ts'
import type { DataHandle, ImageView } from '../images/index.ts'
import type { Preconditions } from './http/conditional.ts'
import type { DiskUsage, Image, ImageList, Job, Sharing, Stats } from './http/schemas.ts'

export interface DataPlane {
  /**
   * Opens what a reference names now; the view keeps its image until closed, whatever happens to the tag.
   * @throws ERR_IMAGE_NOT_FOUND
   */
  openImage(ref: Ref, options?: { signal?: AbortSignal }): Promise<ImageView>
  /** A blob's bytes. @throws ERR_BLOB_NOT_FOUND */
  openBlob(domain: string, digest: Digest, options?: { signal?: AbortSignal }): Promise<BlobView>
}

export interface BlobView extends Disposable {
  readonly digest: Digest
  readonly size: number
  /** A handle for one reader: it carries the state of readahead. */
  open(): DataHandle
}

export interface StagedUpload {
  /** Path inside the store's upload area, made by `beginUpload`. */
  readonly path: string
  readonly sizeBytes: number
}

export const IMPORT_FORMATS = ['erofs', 'tar', 'oci-archive', 'docker-archive'] as const
export type ImportFormat = (typeof IMPORT_FORMATS)[number]

export interface ImportRequest {
  readonly ref: Ref
  readonly format: ImportFormat
  readonly upload: StagedUpload
  /** Blobs uploaded before, in slot order: of the format erofs only. */
  readonly devices: readonly Digest[]
  /** Which image of an archive. */
  readonly wanted?: WantedImage
  /** Of the tag, when it is set at the end. */
  readonly preconditions?: Preconditions
}

export interface ControlPlane {
  domains(): Promise<string[]>
  images(query: { domain?: string; cursor?: string; limit?: number }): Promise<ImageList>
  image(ref: Ref): Promise<Image>
  /**
   * Makes `ref` name the image that `from` names, if the preconditions hold for what it names at that moment.
   * @throws ERR_IMAGE_NOT_FOUND, ERR_REF_CONFLICT, ERR_HTTP_PRECONDITION_FAILED
   */
  tag(ref: Ref, from: Ref, preconditions?: Preconditions): Promise<Image>
  /**
   * Removes the tag, if the preconditions hold; the image stays readable by digest until it is collected.
   * @throws ERR_IMAGE_NOT_FOUND, ERR_REF_CONFLICT, ERR_HTTP_PRECONDITION_FAILED
   */
  remove(ref: Ref, preconditions?: Preconditions): Promise<void>
  /**
   * Admits an upload of the announced size (undefined: unknown) before its body is read.
   * @throws ERR_STORE_FULL (507), ERR_UPLOADS_EXHAUSTED (503)
   */
  beginUpload(
    domain: string,
    sizeBytes: number | undefined,
  ): Promise<{ id: string; path: string; limitBytes: number }>
  /** Gives the space of an upload back (failed or aborted bodies). */
  abortUpload(id: string): Promise<void>
  /**
   * Hashes a staged upload and publishes it as a blob of the domain; with `park`, keeps it under its digest
   * for a coming import instead, which takes it as a device.
   * @throws ERR_STORE_DIGEST_MISMATCH
   */
  finishBlob(
    domain: string,
    id: string,
    options?: { expected?: Digest; park?: boolean },
  ): Promise<{ digest: Digest; sizeBytes: number; created: boolean }>
  /** Starts an import of staged uploads; the job owns them from here on. */
  startImport(
    domain: string,
    uploadId: string,
    request: Omit<ImportRequest, 'upload'>,
  ): Promise<Job>
  jobs(): Promise<Job[]>
  /** @throws ERR_JOB_NOT_FOUND */
  job(id: string, options?: { waitMs?: number }): Promise<Job>
  cancelJob(id: string): Promise<Job>
  diskUsage(query: { domain?: string }): Promise<DiskUsage>
  sharing(query: { domain?: string }): Promise<Sharing>
  resetSharing(): Promise<Sharing>
  stats(): Promise<Stats>
  /** Names of failed readiness checks; empty when ready. */
  readiness(): Promise<{ name: string; ok: boolean; reason?: string }[]>
}
