/**
 * A DataHandle over a file whose map is too large to be kept whole: windows of it are worked out when
 * they are needed and kept in the thread's cache. A read inside a window that is there is as fast as any other.
 */
import type { Lease, PageReader, ReadContext } from '../cache/index.ts'
import { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { Inode } from '../erofs/index.ts'
import { BoundedReadahead } from './bounded-readahead.ts'
import type { DataHandle } from './data-handle.ts'
import type { ImageFiles } from './image-files.ts'
import type { ReadIdentity } from './mapped-handle.ts'

export class WindowedHandle implements DataHandle {
  readonly size: number
  readonly #files: ImageFiles
  readonly #inode: Inode
  readonly #windowBytes: number
  readonly #reader: PageReader
  readonly #readahead = new BoundedReadahead()
  readonly #context: ReadContext
  readonly #runs = new RunList()

  constructor(files: ImageFiles, inode: Inode, reader: PageReader, identity: ReadIdentity) {
    this.size = inode.size
    this.#files = files
    this.#inode = inode
    this.#windowBytes = files.windowBytes(inode)
    this.#reader = reader
    this.#context = { ...identity, stream: this.#readahead }
  }

  get pinBudgetBytes(): number {
    return this.#reader.pinBudgetBytes
  }

  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean {
    if (!this.#mapCached(offset, length)) return false
    return this.#reader.copyInto(this.#runs, this.#context, target, targetOffset)
  }

  tryRead(offset: number, length: number): Lease | undefined {
    if (!this.#mapCached(offset, length)) return undefined
    return this.#reader.tryRead(this.#runs, this.#context)
  }

  async read(
    offset: number,
    length: number,
    options: { signal?: AbortSignal } = {},
  ): Promise<Lease> {
    const runs = await this.#map(offset, length, options.signal)
    return this.#reader.read(runs, this.#context, options)
  }

  /** Window by window: every page of a window is found good before its first piece. */
  async *stream(
    offset: number,
    length: number,
    options: { signal?: AbortSignal } = {},
  ): AsyncGenerator<Lease, void, void> {
    checkRange(this.size, offset, length)
    const end = offset + length
    for (let at = offset; at < end;) {
      const windowEnd = (Math.floor(at / this.#windowBytes) + 1) * this.#windowBytes
      const stop = Math.min(end, windowEnd)
      const runs = await this.#map(at, stop - at, options.signal)
      yield* this.#reader.stream(runs, this.#context, options)
      at = stop
    }
  }

  /** Only what can be mapped without waiting: it is a hint. */
  prefetch(offset: number, length: number): void {
    checkRange(this.size, offset, length)
    const useful = Math.min(length, this.#reader.prefetchBudgetBytes)
    if (useful > 0 && this.#mapCached(offset, useful)) {
      this.#reader.prefetch(this.#runs, this.#context)
    }
  }

  [Symbol.dispose](): void {
    this.#runs.clear()
  }

  /** Fills #runs; false when a window is missing. */
  #mapCached(offset: number, length: number): boolean {
    checkRange(this.size, offset, length)
    this.#readahead.bytesBehind = this.size - offset - length
    this.#runs.clear()
    const end = offset + length
    for (let at = offset; at < end;) {
      const window = Math.floor(at / this.#windowBytes)
      const map = this.#files.cachedWindow(this.#inode, window)
      if (map === undefined) return false
      const start = window * this.#windowBytes
      const stop = Math.min(end, start + map.size)
      map.mapRange(at - start, stop - at, this.#runs)
      at = stop
    }
    return true
  }

  /** A list of its own: other reads of the handle may come while windows are worked out. */
  async #map(offset: number, length: number, signal: AbortSignal | undefined): Promise<RunList> {
    checkRange(this.size, offset, length)
    const runs = new RunList()
    const end = offset + length
    for (let at = offset; at < end;) {
      const window = Math.floor(at / this.#windowBytes)
      const map = await this.#files.window(this.#inode, window, signal)
      const start = window * this.#windowBytes
      const stop = Math.min(end, start + map.size)
      map.mapRange(at - start, stop - at, runs)
      at = stop
    }
    this.#readahead.bytesBehind = this.size - end
    return runs
  }
}
