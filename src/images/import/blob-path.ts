/** Where a blob's bytes are on this machine: import works on local files only. */
import type { Digest } from '../../core/index.ts'
import { AppError } from '../../core/index.ts'
import type { DomainStore } from '../../store/index.ts'

/** @throws ERR_STORE_BLOB_MISSING */
export async function blobPath(domain: DomainStore, digest: Digest): Promise<string> {
  const path = await domain.blobs.localPath(digest)
  if (path !== undefined) return path
  throw new AppError('ERR_STORE_BLOB_MISSING', `domain ${domain.name} has no blob ${digest}`)
}
