// oxlint-disable node/no-sync -- runs in the import process, where a blocking call is the cheapest one
/**
 * Finds a chunk's place among all blobs of a domain (docs/adr/0004-chunk-index.md). Derived from the
 * blobs' index files and never trusted further than they are: the folder may be deleted at any time.
 * Sorted runs on disk, a filter and one word per block of each in memory. Synchronous: for the import
 * process. One process at a time changes the folder; others read what is there.
 */
import * as fs from 'node:fs'
import * as path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { LRUCache } from 'lru-cache'

import type { Digest } from '../core/index.ts'
import { AppError, digestToRaw, isAppError } from '../core/index.ts'
import type { BlobTable } from './chunk-index-merge.ts'
import { digestsIn, foldTables, mergeRuns, openBlobTable, pickTier } from './chunk-index-merge.ts'
import type { BlockCache, FoundChunk } from './chunk-run.ts'
import { ChunkRun, removeRun } from './chunk-run.ts'
import { DirectoryLock } from './directory-lock.ts'
import { writeError } from './errors.ts'
import { LOCK_FILE } from './layout.ts'
import { stagingName } from './local-engine.ts'
import type { StoreLogger } from './store-logger.ts'

export interface ChunkQuestion {
  /** 32 bytes. */
  readonly rawDigest: Buffer
  /** Bytes of the chunk. */
  readonly length: number
}

/** What the index is derived from. */
export interface ChunkIndexSources {
  /** Every blob of the domain. */
  blobs(): AsyncIterable<Digest>
  /** The local file of a blob's index. */
  indexPath(blob: Digest): string
}

export interface ChunkIndexOptions {
  readonly folder: string
  readonly sources: ChunkIndexSources
  readonly logger: StoreLogger
  /** How long to wait for another process that changes the folder. */
  readonly lockTimeoutMs?: number
  /** Blocks of 4 KiB kept after a lookup. */
  readonly cachedBlocks?: number
}

export interface ChunkIndexStats {
  readonly runs: number
  /** Records in all runs; a chunk stored twice may count twice. */
  readonly records: number
  /** Filters and fences, bytes. */
  readonly memoryBytes: number
  /** Since open: filters asked, of these passed, of these found. */
  readonly asked: number
  readonly passed: number
  readonly found: number
}

const RUN_SUFFIX = '.run'
const NEW_SUFFIX = '.new'
/** 8 MiB: chunks of one file tend to be asked for again soon, and sorted batches stay in few blocks. */
const DEFAULT_CACHED_BLOCKS = 2048
/** Longer than any merge but the largest; an import that waits longer goes on with what is there. */
const DEFAULT_LOCK_TIMEOUT_MS = 30_000
const LOCK_POLL_MS = 50
/** Blobs folded in one go: each is an open file and a buffer of 112 KiB. */
const FOLD_BATCH = 64

export class ChunkIndex implements AsyncDisposable {
  readonly #folder: string
  readonly #sources: ChunkIndexSources
  readonly #logger: StoreLogger
  readonly #lockTimeoutMs: number
  readonly #cache: BlockCache
  #runs: ChunkRun[] = []
  #asked = 0
  #passed = 0
  #found = 0

  private constructor(options: ChunkIndexOptions) {
    this.#folder = options.folder
    this.#sources = options.sources
    this.#logger = options.logger
    this.#lockTimeoutMs = options.lockTimeoutMs ?? DEFAULT_LOCK_TIMEOUT_MS
    this.#cache = new LRUCache({ max: options.cachedBlocks ?? DEFAULT_CACHED_BLOCKS })
  }

  /**
   * Opens the index of a domain and brings it up to date: damaged runs and runs of deleted blobs are
   * dropped, blobs that no run covers are folded in. While another process changes the folder for longer
   * than `lockTimeoutMs`, it is used as it is: chunks that are not found are stored once more.
   *
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_STORE_READ_FAILED
   */
  static async open(options: ChunkIndexOptions): Promise<ChunkIndex> {
    const index = new ChunkIndex(options)
    try {
      await index.#exclusively(() => index.#reconcile())
      return index
    } catch (error) {
      await index[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Where a chunk is stored; undefined when it is not (or, after damage that was logged, not known to be). */
  lookup(rawDigest: Buffer, length: number): FoundChunk | undefined {
    for (const run of this.#runs) {
      this.#asked++
      if (!run.mayHave(rawDigest)) continue
      this.#passed++
      const found = this.#findIn(run, rawDigest)
      if (found?.record.length !== length) continue
      this.#found++
      return found
    }
    return undefined
  }

  /** Many lookups in the order of the digests, so that neighbours share a block; answers in the order of the questions. */
  lookupAll(questions: readonly ChunkQuestion[]): (FoundChunk | undefined)[] {
    const order = [...questions.entries()].toSorted(([, a], [, b]) =>
      a.rawDigest.compare(b.rawDigest),
    )
    const answers: (FoundChunk | undefined)[] = Array.from({ length: questions.length })
    for (const [place, question] of order) {
      answers[place] = this.lookup(question.rawDigest, question.length)
    }
    return answers
  }

  /** Folds in a blob that was just stored, and what other processes have added meanwhile. */
  async addBlob(blob: Digest): Promise<void> {
    await this.#exclusively(() => {
      this.#refresh(true)
      const raw = digestToRaw(blob)
      if (this.#runs.every((run) => run.blobNumber(raw) < 0)) this.#fold([blob])
      this.#mergeTiers()
    })
  }

  stats(): ChunkIndexStats {
    const sum = (of: (run: ChunkRun) => number) =>
      this.#runs.reduce((total, run) => total + of(run), 0)
    return {
      runs: this.#runs.length,
      records: sum((run) => run.recordCount),
      memoryBytes: sum((run) => run.memoryBytes),
      asked: this.#asked,
      passed: this.#passed,
      found: this.#found,
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const run of this.#runs.splice(0)) run[Symbol.dispose]()
    this.#cache.clear()
    return Promise.resolve()
  }

  /** Runs `action` as the only process that changes the folder; without the lock, only looks what is there. */
  async #exclusively(action: () => void | Promise<void>): Promise<void> {
    try {
      fs.mkdirSync(this.#folder, { recursive: true })
    } catch (error) {
      throw writeError(error, this.#folder)
    }
    const deadline = performance.now() + this.#lockTimeoutMs
    for (;;) {
      using lock = DirectoryLock.acquire(path.join(this.#folder, LOCK_FILE))
      if (lock !== undefined) {
        await action()
        return
      }
      if (performance.now() >= deadline) break
      await delay(LOCK_POLL_MS)
    }
    this.#logger.warn(
      { event: 'store.index.busy', folder: this.#folder, waitedMs: this.#lockTimeoutMs },
      'the chunk index is being changed by another process: going on without its newest chunks',
    )
    this.#refresh(false)
  }

  async #reconcile(): Promise<void> {
    this.#refresh(true)
    const present = this.#runs.map((run) => new Uint8Array(run.blobCount))
    let uncovered: Digest[] = []
    for await (const blob of this.#sources.blobs()) {
      const raw = digestToRaw(blob)
      let covered = false
      for (const [index, run] of this.#runs.entries()) {
        const number = run.blobNumber(raw)
        const marks = present[index]
        if (number < 0 || marks === undefined) continue
        marks[number] = 1
        covered = true
      }
      if (!covered) uncovered.push(blob)
      if (uncovered.length < FOLD_BATCH) continue
      // New runs come after those that are marked.
      this.#fold(uncovered)
      uncovered = []
    }
    const stale = this.#runs.filter((_, index) => present[index]?.includes(0) === true)
    for (const [index, run] of this.#runs.entries()) {
      if (!stale.includes(run)) continue
      const left = digestsIn(run.blobs).filter((_, number) => present[index]?.[number] === 1)
      const lost = left.filter((raw) => !this.#coveredBeside(raw, stale))
      for (const raw of lost) uncovered.push(`sha256:${raw.toString('hex')}`)
    }
    for (const run of stale) this.#drop(run, 'it names blobs that were deleted')
    this.#dropRepeated()
    for (let at = 0; at < uncovered.length; at += FOLD_BATCH) {
      this.#fold([...new Set(uncovered.slice(at, at + FOLD_BATCH))])
    }
    this.#mergeTiers()
  }

  #coveredBeside(raw: Buffer, stale: readonly ChunkRun[]): boolean {
    return this.#runs.some((run) => !stale.includes(run) && run.blobNumber(raw) >= 0)
  }

  /** A crash between a merge and the removal of its inputs leaves runs whose blobs another covers. */
  #dropRepeated(): void {
    for (const run of this.#runs.toSorted((a, b) => a.blobCount - b.blobCount)) {
      const repeated = this.#runs.some(
        (other) => other !== run && digestsIn(run.blobs).every((raw) => other.blobNumber(raw) >= 0),
      )
      if (repeated) this.#drop(run, 'another run covers its blobs')
    }
  }

  /** Makes the open runs those of the folder. */
  #refresh(locked: boolean): void {
    const names = fs.readdirSync(this.#folder)
    const paths = names.filter((name) => name.endsWith(RUN_SUFFIX)).map((name) => this.#path(name))
    const open = new Map(this.#runs.map((run) => [run.path, run]))
    for (const run of this.#runs) if (!paths.includes(run.path)) run[Symbol.dispose]()
    this.#runs = []
    for (const file of paths) {
      try {
        this.#runs.push(open.get(file) ?? ChunkRun.open(file, this.#cache))
      } catch (error) {
        this.#logDropped(file, error)
        if (locked) removeRun(file)
      }
    }
    if (!locked) return
    for (const name of names) {
      if (name.endsWith(NEW_SUFFIX)) fs.rmSync(this.#path(name), { force: true })
    }
  }

  /** Adds a run of these blobs. One whose index is damaged is left out: its chunks are not found. */
  #fold(blobs: readonly Digest[]): void {
    const tables: BlobTable[] = []
    try {
      for (const blob of blobs) {
        try {
          tables.push(openBlobTable(this.#sources.indexPath(blob), blob))
        } catch (error) {
          this.#logger.warn(
            { event: 'store.index.blob_skipped', blob, err: error },
            'the chunks of a blob cannot be shared: its index is damaged',
          )
        }
      }
      if (tables.length > 0) this.#create((file) => foldTables(file, tables))
    } finally {
      for (const table of tables) table[Symbol.dispose]()
    }
  }

  #mergeTiers(): void {
    for (let inputs = pickTier(this.#runs); inputs.length > 0; inputs = pickTier(this.#runs)) {
      const merging = inputs
      try {
        this.#create((file) => mergeRuns(file, merging))
        for (const run of merging) this.#remove(run)
      } catch (error) {
        // The inputs have given up their filters: they are opened again, or dropped when damaged.
        const before = this.#runs.length
        for (const run of merging) this.#reopen(run)
        const damaged = isAppError(error) && error.code === 'ERR_STORE_CORRUPT'
        if (!damaged || this.#runs.length === before) throw error
      }
    }
  }

  #create(write: (file: string) => void): void {
    const name = stagingName()
    write(this.#path(name + NEW_SUFFIX))
    const file = this.#path(name + RUN_SUFFIX)
    try {
      fs.renameSync(this.#path(name + NEW_SUFFIX), file)
    } catch (error) {
      throw writeError(error, file)
    }
    this.#runs.push(ChunkRun.open(file, this.#cache))
  }

  #reopen(run: ChunkRun): void {
    this.#runs = this.#runs.filter((other) => other !== run)
    run[Symbol.dispose]()
    try {
      const again = ChunkRun.open(run.path, this.#cache)
      this.#runs.push(again)
      again.verify()
    } catch (error) {
      const damaged = this.#runs.find((other) => other.path === run.path) ?? run
      this.#drop(damaged, error)
    }
  }

  /** A damaged run is dropped: what it covered is folded in again at the next open. */
  #findIn(run: ChunkRun, rawDigest: Buffer): FoundChunk | undefined {
    try {
      return run.find(rawDigest)
    } catch (error) {
      if (!(error instanceof AppError)) throw error
      this.#drop(run, error)
      return undefined
    }
  }

  #drop(run: ChunkRun, reason: unknown): void {
    this.#logDropped(run.path, reason)
    this.#remove(run)
  }

  #logDropped(file: string, reason: unknown): void {
    const why = typeof reason === 'string' ? { reason } : { err: reason }
    this.#logger.warn(
      { event: 'store.index.run_dropped', run: file, ...why },
      'a run of the chunk index was dropped: it is made again from the blobs',
    )
  }

  #remove(run: ChunkRun): void {
    this.#runs = this.#runs.filter((other) => other !== run)
    run[Symbol.dispose]()
    removeRun(run.path)
  }

  #path(name: string): string {
    return path.join(this.#folder, name)
  }
}
