/**
 * Opens a data directory as a store and hands out its domains. The one place that knows that the engine
 * is a local directory.
 */
import * as os from 'node:os'
import * as path from 'node:path'

import { AppError } from '../core/index.ts'
import { openAsMember, openAsOwner } from './data-directory.ts'
import type { DirectoryLock } from './directory-lock.ts'
import { DomainStore } from './domain-store.ts'
import { DOMAINS } from './layout.ts'
import { LocalEngine } from './local-engine.ts'
import type { StepHook } from './publication.ts'
import { SpaceLedger } from './space-ledger.ts'
import type { StorageEngine } from './storage-engine.ts'
import type { StoreLogger } from './store-logger.ts'
import { SILENT_LOGGER } from './store-logger.ts'

export interface StoreOptions {
  readonly dataDir: string
  /**
   * `owner` takes the directory's lock, sweeps unfinished work and may change refs. `member` is a process
   * that the owner has started (import): it takes no lock and changes no refs.
   */
  readonly mode: 'owner' | 'member'
  readonly logger?: StoreLogger
  /** Free space that uploads must leave. */
  readonly reservedFreeBytes?: number
  /** Called after each step that changes the disk; for crash tests. */
  readonly afterStep?: StepHook
}

export class Store implements AsyncDisposable {
  readonly dataDir: string
  readonly engine: StorageEngine
  readonly #lock: DirectoryLock | undefined
  readonly #logger: StoreLogger
  readonly #space: SpaceLedger

  constructor(options: StoreOptions, dataDir: string, lock: DirectoryLock | undefined) {
    this.dataDir = dataDir
    this.#lock = lock
    this.#logger = options.logger ?? SILENT_LOGGER
    const engine = new LocalEngine({
      dataDir,
      changesRefs: options.mode === 'owner',
      ...(options.afterStep === undefined ? {} : { afterStep: options.afterStep }),
    })
    this.engine = engine
    this.#space = new SpaceLedger(() => engine.freeBytes(), options.reservedFreeBytes)
  }

  /** A domain, whether it holds anything yet or not. @throws ERR_STORE_KEY_INVALID */
  domain(name: string): DomainStore {
    const { engine, dataDir } = this
    return new DomainStore(name, { engine, dataDir, space: this.#space, logger: this.#logger })
  }

  /** Names of the domains that hold anything, sorted. */
  async domains(): Promise<readonly string[]> {
    return await this.engine.listGroups(`${DOMAINS}/`)
  }

  /** Bytes that the file system would still take. */
  async freeBytes(): Promise<number | undefined> {
    return await this.engine.freeBytes()
  }

  async close(): Promise<void> {
    await this.engine[Symbol.asyncDispose]()
    this.#lock?.[Symbol.dispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/**
 * Opens the store in a directory; as owner, makes it if it is missing or empty.
 *
 * @throws ERR_STORE_LOCKED, ERR_STORE_FORMAT, ERR_STORE_UNSUPPORTED, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  if (os.endianness() !== 'LE') {
    throw new AppError('ERR_STORE_UNSUPPORTED', 'maps are used as they are: little-endian only')
  }
  const dataDir = path.resolve(options.dataDir)
  if (options.mode === 'owner') return new Store(options, dataDir, await openAsOwner(dataDir))
  await openAsMember(dataDir)
  return new Store(options, dataDir, undefined)
}
