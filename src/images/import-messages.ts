/** What the server and its import process say to each other. Everything is JSON. */
import type { ErrorRecord } from '../core/index.ts'
import type { ImportDevice, ImportOutcome } from './import/import-erofs.ts'
import type { ImportProgress } from './import/progress.ts'

export interface ImportTask {
  readonly dataDir: string
  readonly domain: string
  readonly format: 'erofs'
  /** The primary first, then extra devices in slot order. */
  readonly devices: readonly ImportDevice[]
}

export type ToImportProcess =
  | ({ readonly type: 'start' } & ImportTask)
  /** Answered with `failed` and ERR_ABORTED once everything unfinished is removed. */
  | { readonly type: 'cancel' }

export type FromImportProcess =
  | ({ readonly type: 'progress' } & ImportProgress)
  | { readonly type: 'done'; readonly outcome: ImportOutcome }
  | { readonly type: 'failed'; readonly error: ErrorRecord }
