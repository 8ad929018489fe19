/**
 * Imports a tar archive: lays its tree out as an EROFS image whose files are read from the archive itself, and stores
 * that like any other image. The image is never written as a whole.
 */
import type { ImportSummary } from '../import/store-image.ts'
import { ArchiveFile } from './archive-file.ts'
import type { TreeImport } from './build-tree.ts'
import { TreeBuild } from './build-tree.ts'

export interface ImportTarOptions extends TreeImport {
  /** The archive, in the store's uploads: plain or compressed. */
  readonly path: string
}

/** @throws ERR_IMPORT_ARCHIVE, and as TreeBuild: nothing is visible then */
export async function importTar(options: ImportTarOptions): Promise<ImportSummary> {
  const { path, store, onProgress, signal } = options
  const domain = store.domain(options.domain)
  await using archive = await ArchiveFile.open({ path, domain, onProgress, signal })
  const build = new TreeBuild(options, { whiteouts: false })
  await build.addLayer(archive.file)
  return await build.store({ origin: { format: 'tar' } })
}
