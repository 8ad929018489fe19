/**
 * What every view of bytes comes down to: a range of an address space turned into runs of blobs. Shared
 * by devices, flattened views, files and blobs, so that one handle serves all of them.
 */
import type { RunList } from '../cache/index.ts'
import type { Digest } from '../core/index.ts'

/** A blob as a view reads it. */
export interface ViewBlob {
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
  /** The number that the keeper gave the blob. */
  readonly blobNo: number
  /** Ordinal of the blob's page 0 among the pages of the image (accounting of touched pages). */
  readonly ordinalBase: number
}

/** Receives the pieces of a range, in order and without a gap. */
export interface PieceVisitor {
  piece(blob: ViewBlob, blobOffset: number, length: number): void
  zeros(length: number): void
}

export interface RangeMap {
  /** Bytes. */
  readonly size: number
  /**
   * Appends the runs of [offset, offset + length) to `out`. Allocates nothing.
   * @throws RangeError unless the range lies in [0, size)
   */
  mapRange(offset: number, length: number, out: RunList): void
  /** The same for code that is not on the read path: names the blobs. @throws RangeError */
  visitRange(offset: number, length: number, visitor: PieceVisitor): void
}
