/** Everything that is stored of one domain, by kind. Nothing here reaches another domain. */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

import type { Digest } from '../core/index.ts'
import { BlobStore } from './blob-store.ts'
import { ChunkIndex } from './chunk-index.ts'
import { namesIn } from './data-directory.ts'
import { corrupt, writeError } from './errors.ts'
import { DOMAINS, INDEX, UPLOADS, blobIndexKey, blobsPrefix, domainPrefix } from './layout.ts'
import { isStagedBy, stagingName } from './local-engine.ts'
import { ManifestStore } from './manifest-store.ts'
import { MapStore } from './map-store.ts'
import { RefStore } from './ref-store.ts'
import { SpoolFile } from './spool-file.ts'
import type { SpaceLedger } from './space-ledger.ts'
import { StagedUpload } from './staged-upload.ts'
import type { StorageEngine } from './storage-engine.ts'
import type { StoreLogger } from './store-logger.ts'

export interface DomainStoreOptions {
  readonly engine: StorageEngine
  readonly dataDir: string
  readonly space: SpaceLedger
  readonly logger: StoreLogger
}

export class DomainStore {
  readonly name: string
  readonly blobs: BlobStore
  readonly maps: MapStore
  readonly manifests: ManifestStore
  readonly refs: RefStore
  readonly #options: DomainStoreOptions

  /** @throws ERR_STORE_KEY_INVALID when `name` is no domain */
  constructor(name: string, options: DomainStoreOptions) {
    domainPrefix(name)
    const { engine, logger } = options
    this.name = name
    this.blobs = new BlobStore(engine, name)
    this.maps = new MapStore(engine, name, logger)
    this.manifests = new ManifestStore(engine, name)
    this.refs = new RefStore(engine, name, logger)
    this.#options = options
  }

  /** Opens the domain's chunk index and brings it up to date. For the import process; dispose of it. Errors as `ChunkIndex.open`. */
  async chunkIndex(): Promise<ChunkIndex> {
    const { engine, dataDir, logger } = this.#options
    return await ChunkIndex.open({
      folder: path.join(dataDir, DOMAINS, this.name, INDEX),
      logger,
      sources: {
        blobs: () => this.#blobDigests(),
        indexPath: (blob) => {
          const file = engine.localPath(blobIndexKey(this.name, blob))
          if (file === undefined) throw corrupt(`blob ${blob}`, 'its index is not on this machine')
          return file
        },
      },
    })
  }

  /**
   * Sets space aside and opens a file for an upload. Dispose of it when the import is done.
   *
   * @param bytes announced size: more is refused; undefined: half of what is available
   * @throws ERR_STORE_FULL before anything is received
   */
  async stageUpload(bytes: number | undefined): Promise<StagedUpload> {
    const { engine, space } = this.#options
    const { bytes: maxBytes, release } =
      bytes === undefined
        ? await space.promiseShare()
        : { bytes, release: await space.promise(bytes) }
    let folder: string
    try {
      folder = await engine.stagingFolder(`${blobsPrefix(this.name)}upload`)
    } catch (error) {
      release()
      throw error
    }
    return await StagedUpload.create(path.join(folder, stagingName()), maxBytes, release)
  }

  /** A file for what an import puts together before it is stored. Dispose of it. @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  async createSpool(): Promise<SpoolFile> {
    const folder = await this.#options.engine.stagingFolder(`${blobsPrefix(this.name)}upload`)
    return new SpoolFile(path.join(folder, stagingName()))
  }

  /**
   * Removes what a process staged here and left, because it was killed. Only of a process that has ended.
   *
   * @throws ERR_STORE_WRITE_FAILED
   */
  async removeStagedBy(pid: number): Promise<void> {
    const folder = path.join(this.#options.dataDir, DOMAINS, this.name, UPLOADS)
    try {
      for (const name of await namesIn(folder)) {
        if (isStagedBy(name, pid)) await fs.rm(path.join(folder, name), { force: true })
      }
    } catch (error) {
      throw writeError(error, folder)
    }
  }

  async *#blobDigests(): AsyncGenerator<Digest> {
    for await (const page of this.blobs.list()) for (const { digest } of page) yield digest
  }
}
