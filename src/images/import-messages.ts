/** What the server and its import process say to each other. Everything is plain data. */
import type { Digest, ErrorRecord } from '../core/index.ts'
import type { ImportDevice, ImportSummary } from './import/import-erofs.ts'
import type { ImportProgress } from './import/progress.ts'

export interface ImportWork {
  readonly work: 'import'
  readonly dataDir: string
  readonly domain: string
  readonly format: 'erofs'
  /** The primary first, then extra devices in slot order. */
  readonly devices: readonly ImportDevice[]
}

/** An uploaded file: `blob` stores it as a blob of the domain, `digest` only says what it is. */
export interface FileWork {
  readonly work: 'blob' | 'digest'
  readonly dataDir: string
  readonly domain: string
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

export type ImportProcessWork = ImportWork | FileWork

/** The one message that the process takes. It is cancelled by SIGTERM. */
export type ToImportProcess = { readonly type: 'start' } & ImportProcessWork

export type FromImportProcess =
  | ({ readonly type: 'progress' } & ImportProgress)
  /** Of an ImportWork an ImportSummary, of a FileWork a FileReport. */
  | { readonly type: 'done'; readonly report: ImportSummary | FileReport }
  | { readonly type: 'failed'; readonly error: ErrorRecord }
