/**
 * How front ends read bytes, whatever they belong to: a device, a flattened view, a file inside an image,
 * or a blob. One handle serves one reader (a connection or a request), because it carries the state of
 * readahead and the identity that hits are accounted to.
 */
import type { Lease } from '../cache/index.ts'

export interface DataHandle extends Disposable {
  /** Bytes. */
  readonly size: number
  /** Replies above this many bytes must go through `stream`. */
  readonly pinBudgetBytes: number
  /**
   * Copies [offset, offset + length) when every page of it is in memory, else returns false. No promise,
   * no allocation. The range must lie inside [0, size).
   */
  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean
  /** The cache's own memory, pinned, when all of it is there; the caller releases. */
  tryRead(offset: number, length: number): Lease | undefined
  /** As tryRead, waiting for what is missing. @throws ERR_CACHE_* */
  read(offset: number, length: number, options?: { signal?: AbortSignal }): Promise<Lease>
  /** In pieces that fit the pin budget, after every page was found good. */
  stream(offset: number, length: number, options?: { signal?: AbortSignal }): AsyncIterable<Lease>
  /** Starts filling, returns at once. A hint: what is above the reader's budget for hints is dropped. */
  prefetch(offset: number, length: number): void
}
