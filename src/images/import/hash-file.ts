/** An uploaded file that is not cut: hashed, and stored as a blob if asked. For the import process. */
import { createReadStream } from 'node:fs'

import type { Digest } from '../../core/index.ts'
import { AppError, IMPORT_CALL_BYTES } from '../../core/index.ts'
import type { Store } from '../../store/index.ts'
import type { FileReport } from '../import-messages.ts'
import { DeviceReader } from './device-reader.ts'
import type { ImportProgress } from './progress.ts'
import { ProgressMeter } from './progress.ts'

export interface FileOptions {
  readonly store: Store
  readonly domain: string
  readonly path: string
  readonly expected?: Digest
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: ImportProgress) => void
}

/** @throws ERR_STORE_DIGEST_MISMATCH, ERR_IMPORT_SOURCE, ERR_IMPORT_EMPTY, ERR_ABORTED */
export async function digestFile(options: FileOptions): Promise<FileReport> {
  using reader = DeviceReader.open([options.path])
  const meter = new ProgressMeter(reader.totalSize, options.onProgress, options.signal)
  meter.enter('reading')
  const digest = await meter.run(reader.digest(0))
  if (options.expected !== undefined && options.expected !== digest) {
    throw new AppError(
      'ERR_STORE_DIGEST_MISMATCH',
      `the uploaded bytes are ${digest}, expected ${options.expected}`,
    )
  }
  return { digest, sizeBytes: reader.totalSize, created: false }
}

/** @throws what `BlobStore.putStream` throws */
export async function storeFile(options: FileOptions): Promise<FileReport> {
  const { store, domain, path, expected, signal } = options
  const { digest, size, created } = await store
    .domain(domain)
    .blobs.putStream(createReadStream(path, { highWaterMark: IMPORT_CALL_BYTES }), {
      ...(expected === undefined ? {} : { digest: expected }),
      ...(signal === undefined ? {} : { signal }),
    })
  return { digest, sizeBytes: size, created }
}
