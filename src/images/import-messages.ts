/** What the server and its import process say to each other. Everything is plain data. */
import type { Digest, ErrorRecord } from '../core/index.ts'
import type { WantedImage } from '../oci/index.ts'
import type { ImportDevice } from './import/import-erofs.ts'
import type { ImportSummary } from './import/store-image.ts'
import type { ImportProgress } from './import/progress.ts'

interface DomainWork {
  readonly dataDir: string
  readonly domain: string
}

export interface ImportErofsWork extends DomainWork {
  readonly work: 'import-erofs'
  /** The primary first, then extra devices in slot order. */
  readonly devices: readonly ImportDevice[]
}

export interface ImportTarWork extends DomainWork {
  readonly work: 'import-tar'
  /** The archive. */
  readonly path: string
}

export interface ImportOciWork extends DomainWork {
  readonly work: 'import-oci'
  /** The archive. */
  readonly path: string
  readonly wanted: WantedImage
}

/** An uploaded file: `blob` stores it as a blob of the domain, `digest` only says what it is. */
export interface FileWork extends DomainWork {
  readonly work: 'blob' | 'digest'
  readonly path: string
  /** What the bytes must hash to. */
  readonly expected?: Digest
}

export interface FileReport {
  readonly digest: Digest
  readonly sizeBytes: number
  /** False when the domain had a blob of these bytes, and for `digest`. */
  readonly created: boolean
}

export type ImportProcessWork = ImportErofsWork | ImportTarWork | ImportOciWork | FileWork

/** The one message that the process takes. It is cancelled by SIGTERM. */
export type ToImportProcess = { readonly type: 'start' } & ImportProcessWork

export type FromImportProcess =
  | ({ readonly type: 'progress' } & ImportProgress)
  /** Of a FileWork a FileReport, of all others an ImportSummary. */
  | { readonly type: 'done'; readonly report: ImportSummary | FileReport }
  | { readonly type: 'failed'; readonly error: ErrorRecord }
