/**
 * Where pages come from: what a store has to offer to be cached. The cache checks every byte it gets from here.
 */
import type { BlobKey } from './blob-table.ts'

/** The unit of page digests, whatever the frame size: a frame holds 1, 2 or 4. */
export const DIGEST_PAGE_BYTES = 16_384

export interface PageSource {
  /** Called once per fill thread before the blob's first page is read. */
  openBlob?(blob: BlobKey): void | Promise<void>
  /**
   * A page that came from here does not have its digest. What the source keeps of the blob (open files, digests)
   * may be of bytes that have been replaced since: the next read must look anew.
   */
  suspectBlob?(blob: BlobKey): void
  /** The blob will not be read again. */
  closeBlob?(blob: BlobKey): void | Promise<void>
  /**
   * Reads exactly `length` bytes from `offset` into the start of `target`. `target` is a whole frame, aligned to
   * the machine's pages, and its size is a multiple of them: an O_DIRECT read may overwrite all of it.
   * `offset` is a multiple of the frame size; `length` is less than the frame at the end of the blob only.
   */
  readPage(blob: BlobKey, offset: number, target: Buffer, length: number): void | Promise<void>
  /**
   * Like `readPage` for pages that follow each other in the blob: `length` bytes over all targets. The cache
   * calls it for two or more targets, when it is there: one system call instead of many.
   */
  readPages?(
    blob: BlobKey,
    offset: number,
    targets: readonly Buffer[],
    length: number,
  ): void | Promise<void>
  /**
   * The sha256 digests of `count` 16 KiB pages from page number `firstDigest`, 32 bytes each. The last page of a
   * blob may be short: its digest is of its own bytes, without padding.
   */
  pageDigests(blob: BlobKey, firstDigest: number, count: number): Uint8Array | Promise<Uint8Array>
}
