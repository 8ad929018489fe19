// oxlint-disable node/no-sync -- runs in the import process, where a blocking call is the cheapest one
/**
 * How runs of the chunk index come to be: from the index files of blobs, and from each other. Decides
 * nothing about when (chunk-index.ts does).
 */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'

import type { Digest } from '../core/index.ts'
import { DIGEST_BYTES, digestToRaw } from '../core/index.ts'
import type { BlobIndexHeader } from './blob-index-codec.ts'
import {
  BLOB_INDEX,
  BLOB_INDEX_HEADER_BYTES,
  decodeBlobIndexHeader,
  layoutOf,
} from './blob-index-codec.ts'
import { CHUNK_ENTRY_BYTES, checkChunkInside, decodeChunkEntry } from './chunk-record.ts'
import type { ChunkRun } from './chunk-run.ts'
import { findDigest, writeRun } from './chunk-run.ts'
import { corrupt, readError } from './errors.ts'
import type { SortedCursor } from './sorted-records.ts'
import { TableCursor, compareDigests } from './sorted-records.ts'
import { SPOOL_BUFFER_BYTES, readFully } from './spool-file.ts'

/** Runs of one tier that are merged into one of the next: few to ask, each record rewritten log4 times. */
const TIER_WIDTH = 4
/** Runs up to this are tier 0: one small import must not rewrite a large run. */
const TIER_0_RECORDS = 4096

/** An open index file of a blob that is whole. */
export interface BlobTable extends Disposable {
  readonly header: BlobIndexHeader
  readonly fd: number
  readonly path: string
}

/**
 * Opens a blob's index file and checks all of it, digest and every entry: what is folded in is trusted
 * from then on.
 *
 * @throws ERR_STORE_CORRUPT, ERR_STORE_READ_FAILED
 */
export function openBlobTable(path: string, blob: Digest): BlobTable {
  let fd: number
  try {
    fd = fs.openSync(path, 'r')
  } catch (error) {
    throw readError(error, path)
  }
  try {
    const fileSize = fs.fstatSync(fd).size
    const head = Buffer.alloc(Math.min(BLOB_INDEX_HEADER_BYTES, fileSize))
    readFully(fd, head, 0, path)
    const header = decodeBlobIndexHeader(head, blob, fileSize)
    checkDigest(fd, head.subarray(0, DIGEST_BYTES), fileSize, path)
    checkEntries(fd, header, path)
    return { header, fd, path, [Symbol.dispose]: () => fs.closeSync(fd) }
  } catch (error) {
    fs.closeSync(fd)
    throw error
  }
}

/** Writes one run of several blobs' chunk tables. Errors as `writeRun`. */
export function foldTables(path: string, tables: readonly BlobTable[]): void {
  const blobs = sortDigests(tables.map((table) => digestToRaw(table.header.blob)))
  const cursors = tables.map((table): SortedCursor => {
    const { header, fd } = table
    const number = findDigest(blobs, digestToRaw(header.blob))
    return new TableCursor(
      fd,
      layoutOf(header).chunkTableOffset,
      header.chunkCount,
      number,
      table.path,
    )
  })
  const count = tables.reduce((sum, table) => sum + table.header.chunkCount, 0)
  writeRun(path, cursors, count, blobs)
}

/** Writes one run that holds what all of `runs` hold. Errors as `writeRun`. */
export function mergeRuns(path: string, runs: readonly ChunkRun[]): void {
  const all: Buffer[] = []
  for (const run of runs) all.push(...digestsIn(run.blobs))
  const blobs = sortDigests(all)
  const cursors = runs.map((run) =>
    run.cursor(Uint32Array.from(digestsIn(run.blobs), (raw) => findDigest(blobs, raw))),
  )
  const count = runs.reduce((sum, run) => sum + run.recordCount, 0)
  for (const run of runs) run.shed()
  writeRun(path, cursors, count, blobs)
}

/** Runs to merge now: those of the lowest tier that is full; empty when none is. */
export function pickTier(runs: readonly ChunkRun[]): ChunkRun[] {
  const tiers = Map.groupBy(runs, (run) => tierOf(run.recordCount))
  const full = [...tiers].filter(([, members]) => members.length >= TIER_WIDTH)
  return full.toSorted(([a], [b]) => a - b)[0]?.[1] ?? []
}

/** The digests of a list, 32 bytes each. */
export function digestsIn(list: Buffer): Buffer[] {
  return Array.from({ length: list.byteLength / DIGEST_BYTES }, (_, index) =>
    list.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES),
  )
}

function tierOf(records: number): number {
  const size = Math.max(1, records / TIER_0_RECORDS)
  return Math.floor(Math.log(size) / Math.log(TIER_WIDTH))
}

/** Ascending, each once. */
function sortDigests(digests: readonly Buffer[]): Buffer {
  const sorted = digests.toSorted((a, b) => compareDigests(a, 0, b, 0))
  return Buffer.concat(sorted.filter((raw, index) => sorted[index + 1]?.equals(raw) !== true))
}

function checkDigest(fd: number, expected: Buffer, fileSize: number, path: string): void {
  const digest = createHash('sha256')
  const buffer = Buffer.allocUnsafe(SPOOL_BUFFER_BYTES)
  for (let at: number = BLOB_INDEX.magic; at < fileSize; at += buffer.byteLength) {
    const piece = buffer.subarray(0, Math.min(buffer.byteLength, fileSize - at))
    readFully(fd, piece, at, path)
    digest.update(piece)
  }
  if (!digest.digest().equals(expected)) {
    throw corrupt(path, 'its bytes do not have the digest it starts with')
  }
}

function checkEntries(fd: number, header: BlobIndexHeader, path: string): void {
  const { chunkCount, region1Length, size } = header
  const cursor = new TableCursor(fd, layoutOf(header).chunkTableOffset, chunkCount, 0, path)
  const last = Buffer.alloc(CHUNK_ENTRY_BYTES)
  for (let index = 0; cursor.advance(); index++) {
    checkChunkInside(decodeChunkEntry(cursor.bytes, cursor.at), region1Length, size, path)
    if (index > 0 && compareDigests(last, 0, cursor.bytes, cursor.at) >= 0) {
      throw corrupt(path, `entry ${index} of its chunk table does not ascend`)
    }
    cursor.bytes.copy(last, 0, cursor.at, cursor.at + CHUNK_ENTRY_BYTES)
  }
}
