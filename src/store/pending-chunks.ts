/**
 * The chunks of a blob that is being written: found again while the import goes on, and at the end
 * handed out in the order of their digests. A table of fixed size in memory; when it is full it becomes
 * a sorted run in the uploads folder, so that memory does not grow with the image.
 */
import type { ChunkRecord } from './chunk-record.ts'
import {
  CHUNK_ENTRY_BYTES,
  decodeChunkEntry,
  digestPrefix,
  encodeChunkEntry,
} from './chunk-record.ts'
import { ChunkRun, removeRun, writeRun } from './chunk-run.ts'
import type { SortedCursor } from './sorted-records.ts'
import { compareDigests } from './sorted-records.ts'

/** 7 MiB of entries: 8 GiB of new 64 KiB chunks before the first run is written. */
const DEFAULT_TABLE_ENTRIES = 128 * 1024
/** Slots per entry: chains stay short. */
const SLOTS_PER_ENTRY = 2
/** A lookup may ask each run; beyond this they are merged into one. */
const MAX_RUNS = 16
/** Pending runs are of one blob whose digest is not known yet. */
const NO_DIGEST = Buffer.alloc(32)
const ONE_BLOB = new Uint32Array(1)

export class PendingChunks implements Disposable {
  readonly #path: string
  readonly #capacity: number
  readonly #entries: Buffer
  /** Entry number + 1, or 0. */
  readonly #slots: Uint32Array
  readonly #runs: ChunkRun[] = []
  #inTable = 0
  #spilled = 0
  #runNumber = 0

  /** @param path runs are files with this path as prefix */
  constructor(path: string, tableEntries = DEFAULT_TABLE_ENTRIES) {
    this.#path = path
    this.#capacity = tableEntries
    this.#entries = Buffer.allocUnsafe(tableEntries * CHUNK_ENTRY_BYTES)
    this.#slots = new Uint32Array(tableEntries * SLOTS_PER_ENTRY)
  }

  get count(): number {
    return this.#spilled + this.#inTable
  }

  /** @returns false when the chunk was there already @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  add(rawDigest: Buffer, record: ChunkRecord): boolean {
    if (this.find(rawDigest) !== undefined) return false
    if (this.#inTable === this.#capacity) this.#spill()
    const at = this.#inTable * CHUNK_ENTRY_BYTES
    encodeChunkEntry(this.#entries, at, rawDigest, record)
    this.#slots[this.#slotOf(rawDigest)] = ++this.#inTable
    return true
  }

  find(rawDigest: Buffer): ChunkRecord | undefined {
    const entry = this.#slots[this.#slotOf(rawDigest)] ?? 0
    if (entry > 0) return decodeChunkEntry(this.#entries, (entry - 1) * CHUNK_ENTRY_BYTES)
    for (const run of this.#runs) {
      if (!run.mayHave(rawDigest)) continue
      const found = run.find(rawDigest)
      if (found !== undefined) return found.record
    }
    return undefined
  }

  /** Cursors that together give every chunk; the last use of this object but disposing it. */
  cursors(): SortedCursor[] {
    return [...this.#runs.map((run) => run.cursor(ONE_BLOB)), this.#tableCursor()]
  }

  [Symbol.dispose](): void {
    for (const run of this.#runs.splice(0)) discard(run)
  }

  #spill(): void {
    const cursors: SortedCursor[] = [this.#tableCursor()]
    const merged = this.#runs.length === MAX_RUNS ? this.#runs.splice(0) : []
    try {
      for (const run of merged) cursors.push(run.cursor(ONE_BLOB))
      const path = `${this.#path}.run${this.#runNumber++}`
      const count = merged.reduce((sum, run) => sum + run.recordCount, this.#inTable)
      writeRun(path, cursors, count, NO_DIGEST)
      this.#runs.push(ChunkRun.open(path))
    } finally {
      for (const run of merged) discard(run)
    }
    this.#spilled += this.#inTable
    this.#inTable = 0
    this.#slots.fill(0)
  }

  #tableCursor(): SortedCursor {
    const entries = this.#entries
    const prefixes = Float64Array.from({ length: this.#inTable }, (_, index) =>
      digestPrefix(entries, index * CHUNK_ENTRY_BYTES),
    )
    const order = Uint32Array.from(prefixes.keys()).toSorted((a, b) => {
      const difference = (prefixes[a] ?? 0) - (prefixes[b] ?? 0)
      if (difference !== 0) return difference
      return compareDigests(entries, a * CHUNK_ENTRY_BYTES, entries, b * CHUNK_ENTRY_BYTES)
    })
    return new TableOrderCursor(entries, order)
  }

  /** The slot that holds the digest, or the free one where it belongs. */
  #slotOf(rawDigest: Buffer): number {
    const slots = this.#slots.length
    for (let slot = rawDigest.readUInt32LE(8) % slots; ; slot = (slot + 1) % slots) {
      const entry = this.#slots[slot] ?? 0
      if (entry === 0) return slot
      const at = (entry - 1) * CHUNK_ENTRY_BYTES
      if (compareDigests(this.#entries, at, rawDigest, 0) === 0) return slot
    }
  }
}

class TableOrderCursor implements SortedCursor {
  readonly bytes: Buffer
  readonly blob = 0
  readonly #order: Uint32Array
  #next = 0
  at = 0

  constructor(bytes: Buffer, order: Uint32Array) {
    this.bytes = bytes
    this.#order = order
  }

  advance(): boolean {
    const entry = this.#order[this.#next++]
    if (entry === undefined) return false
    this.at = entry * CHUNK_ENTRY_BYTES
    return true
  }
}

function discard(run: ChunkRun): void {
  run[Symbol.dispose]()
  removeRun(run.path)
}
