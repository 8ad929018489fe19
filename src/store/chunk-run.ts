/**
 * One run of the chunk index: an immutable file of sorted chunk records, of which only the filter, one
 * word per block and the list of covered blobs are in memory. Which runs exist and when they are merged
 * is chunk-index.ts.
 */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'

import type { LRUCache } from 'lru-cache'

import type { Digest } from '../core/index.ts'
import { DIGEST_BYTES, digestFromRaw, rawDigestOf } from '../core/index.ts'
import { ChunkFilter, filterBlocks } from './chunk-filter.ts'
import type { ChunkRecord } from './chunk-record.ts'
import { CHUNK_ENTRY_BYTES, decodeChunkEntry } from './chunk-record.ts'
import {
  BLOCK_CHECK_AT,
  RECORDS_PER_BLOCK,
  RUN_BLOCK_BYTES,
  RUN_HEADER_BYTES,
  RUN_RECORD_BYTES,
  blockCheck,
  decodeRunHeader,
  encodeRunHeader,
  isBlockIntact,
  runDigest,
  runLayout,
} from './chunk-run-codec.ts'
import { corrupt, errnoOf, readError } from './errors.ts'
import type { SortedCursor } from './sorted-records.ts'
import { compareDigests, mergeSorted } from './sorted-records.ts'
import { SpoolFile, readFully } from './spool-file.ts'

/** Blocks that were read and checked, shared by all runs; keys are `runId * 2^32 + block`. */
export type BlockCache = LRUCache<number, Buffer>

export interface FoundChunk {
  readonly blob: Digest
  readonly record: ChunkRecord
}

/** Blocks of one read while a run is merged: 256 KiB. */
const CURSOR_BLOCKS = 64
const TWO_32 = 0x1_0000_0000
let nextRunId = 0

export class ChunkRun implements Disposable {
  readonly path: string
  readonly recordCount: number
  /** Raw digests, ascending, of the blobs whose chunks are all in this run; the place is the number. */
  readonly blobs: Buffer
  #fences: Uint32Array
  #filter: ChunkFilter
  readonly #id = nextRunId++
  readonly #cache: BlockCache | undefined
  #fd: number

  private constructor(path: string, fd: number, cache: BlockCache | undefined) {
    this.path = path
    this.#fd = fd
    this.#cache = cache
    const headerBytes = Buffer.alloc(RUN_HEADER_BYTES)
    readFully(fd, headerBytes, 0, path)
    const header = decodeRunHeader(headerBytes, fs.fstatSync(fd).size, path)
    const layout = runLayout(header)
    // Own memory, aligned for words: what of the run stays resident.
    const tail = Buffer.from(new ArrayBuffer(layout.tailBytes))
    readFully(fd, tail, layout.tailOffset, path)
    if (!runDigest(headerBytes, rawDigestOf(tail)).equals(header.digest)) {
      throw corrupt(path, 'its tail does not have the digest it starts with')
    }
    this.recordCount = header.recordCount
    this.blobs = tail.subarray(0, layout.fencesAt)
    this.#fences = new Uint32Array(tail.buffer, layout.fencesAt, layout.blockCount)
    this.#filter = new ChunkFilter(new Uint32Array(tail.buffer, layout.filterAt))
  }

  /** @throws ERR_STORE_CORRUPT, ERR_STORE_READ_FAILED */
  static open(path: string, cache?: BlockCache): ChunkRun {
    let fd: number
    try {
      fd = fs.openSync(path, 'r')
    } catch (error) {
      throw readError(error, path)
    }
    try {
      return new ChunkRun(path, fd, cache)
    } catch (error) {
      fs.closeSync(fd)
      throw error
    }
  }

  get blobCount(): number {
    return this.blobs.byteLength / DIGEST_BYTES
  }

  /** Bytes of memory that grow with the number of chunks: filter and fences. */
  get memoryBytes(): number {
    return this.#filter.words.byteLength + this.#fences.byteLength
  }

  blob(index: number): Digest {
    const at = index * DIGEST_BYTES
    if (!(at < this.blobs.byteLength)) throw corrupt(this.path, `a record names blob ${index}`)
    return digestFromRaw(this.blobs.subarray(at, at + DIGEST_BYTES))
  }

  /** The number of a blob that this run covers, or -1. */
  blobNumber(rawDigest: Buffer): number {
    return findDigest(this.blobs, rawDigest)
  }

  /** Gives up filter and fences before a merge that replaces this run: only `cursor` works afterwards. */
  shed(): void {
    this.#fences = new Uint32Array(0)
    this.#filter = ChunkFilter.forChunks(0)
  }

  /** Reads every block. @throws ERR_STORE_CORRUPT, ERR_STORE_READ_FAILED */
  verify(): void {
    mergeSorted([this.cursor(new Uint32Array(this.blobCount))], () => undefined)
  }

  /** False: surely not here. */
  mayHave(rawDigest: Buffer): boolean {
    return this.#filter.mayHave(rawDigest, 0)
  }

  /**
   * Reads at most the blocks that can hold the digest: one, but for equal first words.
   *
   * @throws ERR_STORE_CORRUPT, ERR_STORE_READ_FAILED
   */
  find(rawDigest: Buffer): FoundChunk | undefined {
    const word = rawDigest.readUInt32BE(0)
    for (let block = this.#lastBlockFrom(word); block >= 0; block--) {
      const found = this.#findIn(block, rawDigest)
      if (found !== undefined) return found
      // Only a block that starts with the same word can leave the digest in the one before it.
      if ((this.#fences[block] ?? 0) < word) return undefined
    }
    return undefined
  }

  /** A cursor over all records; `blobNumbers[i]` is the number that the merge gives to this run's blob i. */
  cursor(blobNumbers: Uint32Array): SortedCursor {
    return new RunCursor(this.#fd, this.path, this.recordCount, blobNumbers)
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return
    fs.closeSync(this.#fd)
    this.#fd = -1
  }

  /** The last block whose first digest starts with `word` or less; -1 when there is none. */
  #lastBlockFrom(word: number): number {
    let low = 0
    let high = this.#fences.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#fences[middle] ?? 0) <= word) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  #findIn(block: number, rawDigest: Buffer): FoundChunk | undefined {
    const bytes = this.#block(block)
    let low = 0
    let high = Math.min(RECORDS_PER_BLOCK, this.recordCount - block * RECORDS_PER_BLOCK)
    while (low < high) {
      const middle = (low + high) >>> 1
      const at = middle * RUN_RECORD_BYTES
      const order = compareDigests(bytes, at, rawDigest, 0)
      if (order === 0) {
        const blob = this.blob(bytes.readUInt32LE(at + CHUNK_ENTRY_BYTES))
        return { blob, record: decodeChunkEntry(bytes, at) }
      }
      if (order < 0) low = middle + 1
      else high = middle
    }
    return undefined
  }

  #block(block: number): Buffer {
    const key = this.#id * TWO_32 + block
    const cached = this.#cache?.get(key)
    if (cached !== undefined) return cached
    const bytes = Buffer.allocUnsafeSlow(RUN_BLOCK_BYTES)
    readFully(this.#fd, bytes, RUN_BLOCK_BYTES * (1 + block), this.path)
    if (!isBlockIntact(bytes)) throw corrupt(this.path, `block ${block} does not have its check`)
    this.#cache?.set(key, bytes)
    return bytes
  }
}

class RunCursor implements SortedCursor {
  readonly bytes = Buffer.allocUnsafe(CURSOR_BLOCKS * RUN_BLOCK_BYTES)
  readonly #fd: number
  readonly #what: string
  readonly #recordCount: number
  readonly #blobNumbers: Uint32Array
  #next = 0
  at = 0

  constructor(fd: number, what: string, recordCount: number, blobNumbers: Uint32Array) {
    this.#fd = fd
    this.#what = what
    this.#recordCount = recordCount
    this.#blobNumbers = blobNumbers
  }

  get blob(): number {
    const own = this.bytes.readUInt32LE(this.at + CHUNK_ENTRY_BYTES)
    const number = this.#blobNumbers[own]
    if (number === undefined) throw corrupt(this.#what, `a record names blob ${own}`)
    return number
  }

  advance(): boolean {
    if (this.#next === this.#recordCount) return false
    const block = Math.floor(this.#next / RECORDS_PER_BLOCK)
    const record = this.#next % RECORDS_PER_BLOCK
    if (record === 0 && block % CURSOR_BLOCKS === 0) this.#load(block)
    this.at = (block % CURSOR_BLOCKS) * RUN_BLOCK_BYTES + record * RUN_RECORD_BYTES
    this.#next++
    return true
  }

  #load(from: number): void {
    const left = Math.ceil(this.#recordCount / RECORDS_PER_BLOCK) - from
    const count = Math.min(CURSOR_BLOCKS, left)
    const bytes = this.bytes.subarray(0, count * RUN_BLOCK_BYTES)
    readFully(this.#fd, bytes, RUN_BLOCK_BYTES * (1 + from), this.#what)
    for (let block = 0; block < count; block++) {
      const piece = bytes.subarray(block * RUN_BLOCK_BYTES, (block + 1) * RUN_BLOCK_BYTES)
      if (!isBlockIntact(piece)) {
        throw corrupt(this.#what, `block ${from + block} does not have its check`)
      }
    }
  }
}

/**
 * Merges sorted sequences into a new run file at `path`, which must not exist; nothing remains of it
 * when that fails. The file is fsynced: it appears under its final name only whole.
 *
 * @param expected at least the number of records: the filter is made for it
 * @param blobs raw digests, 32 bytes each, ascending
 * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_STORE_CORRUPT (of an input)
 */
export function writeRun(
  path: string,
  cursors: readonly SortedCursor[],
  expected: number,
  blobs: Buffer,
): void {
  const file = new SpoolFile(path)
  try {
    const filter = ChunkFilter.forChunks(expected)
    const fences = new Uint32Array(Math.ceil(expected / RECORDS_PER_BLOCK))
    const block = Buffer.alloc(RUN_BLOCK_BYTES)
    let recordCount = 0
    const endBlock = (): void => {
      blockCheck(block).copy(block, BLOCK_CHECK_AT)
      file.append(block)
      block.fill(0)
    }
    file.append(block)
    mergeSorted(cursors, (bytes, at, blob) => {
      const slot = recordCount % RECORDS_PER_BLOCK
      if (slot === 0) fences[recordCount / RECORDS_PER_BLOCK] = bytes.readUInt32BE(at)
      const to = slot * RUN_RECORD_BYTES
      bytes.copy(block, to, at, at + CHUNK_ENTRY_BYTES)
      block.writeUInt32LE(blob, to + CHUNK_ENTRY_BYTES)
      filter.add(bytes, at)
      recordCount++
      if (slot === RECORDS_PER_BLOCK - 1) endBlock()
    })
    if (recordCount % RECORDS_PER_BLOCK !== 0) endBlock()
    const blockCount = Math.ceil(recordCount / RECORDS_PER_BLOCK)
    const tailDigest = createHash('sha256')
    for (const part of [blobs, asBytes(fences.subarray(0, blockCount)), asBytes(filter.words)]) {
      file.append(part)
      tailDigest.update(part)
    }
    file.flush()
    const header = {
      blobCount: blobs.byteLength / DIGEST_BYTES,
      recordCount,
      filterBlocks: filterBlocks(expected),
    }
    file.overwrite(encodeRunHeader(header, tailDigest.digest()), 0)
    file.sync()
    file.close()
  } catch (error) {
    file[Symbol.dispose]()
    throw error
  }
}

/** The place of a digest among sorted raw digests, or -1. */
export function findDigest(sorted: Buffer, rawDigest: Buffer): number {
  let low = 0
  let high = sorted.byteLength / DIGEST_BYTES
  while (low < high) {
    const middle = (low + high) >>> 1
    const order = compareDigests(sorted, middle * DIGEST_BYTES, rawDigest, 0)
    if (order === 0) return middle
    if (order < 0) low = middle + 1
    else high = middle
  }
  return -1
}

/** Removes a run's file; fine when another process was first. */
export function removeRun(path: string): void {
  try {
    fs.unlinkSync(path)
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw readError(error, path)
  }
}

function asBytes(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}
