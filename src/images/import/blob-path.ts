/** Where a blob's bytes are on this machine: import works on local files only. */
import type { Digest } from '../../core/index.ts'
import { AppError } from '../../core/index.ts'
import type { DomainStore, Store } from '../../store/index.ts'
import { blobKey } from '../../store/layout.ts'

/** @throws ERR_STORE_BLOB_MISSING */
export async function blobPath(store: Store, domain: DomainStore, digest: Digest): Promise<string> {
  const path = store.engine.localPath(blobKey(domain.name, digest))
  if (path !== undefined && (await domain.blobs.head(digest)) !== undefined) return path
  throw new AppError('ERR_STORE_BLOB_MISSING', `domain ${domain.name} has no blob ${digest}`)
}
