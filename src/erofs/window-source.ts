/**
 * A ByteSource that reads another one in aligned windows and keeps the last few: for passes over metadata,
 * whose many small reads lie close together. Not a cache for serving; its memory is fixed.
 */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import { checkRange } from '../core/index.ts'

/** Large enough for a thousand inodes, small enough that metadata mixed with data wastes little. */
const WINDOW_SIZE = 64 * 1024
/** A walk moves in a few places at once: inodes, directory blocks, chunk tables, shared xattrs. */
const WINDOW_COUNT = 16

export class WindowSource implements ByteSource {
  readonly size: number
  readonly #source: ByteSource
  /** By window number, least recently used first. */
  readonly #windows = new Map<number, Uint8Array>()

  /** Holds at most 1 MiB of `source`. */
  constructor(source: ByteSource) {
    this.size = source.size
    this.#source = source
  }

  async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    checkRange(this.size, offset, length)
    const first = Math.floor(offset / WINDOW_SIZE)
    const last = Math.floor((offset + Math.max(length, 1) - 1) / WINDOW_SIZE)
    if (last - first > 1) return this.#source.read(offset, length, options)
    const start = offset - first * WINDOW_SIZE
    const head = this.#windows.get(first) ?? (await this.#load(first, options))
    this.#touch(first, head)
    if (first === last) return head.subarray(start, start + length)
    const tail = this.#windows.get(last) ?? (await this.#load(last, options))
    this.#touch(last, tail)
    const joined = new Uint8Array(length)
    joined.set(head.subarray(start))
    joined.set(tail.subarray(0, length - (WINDOW_SIZE - start)), WINDOW_SIZE - start)
    return joined
  }

  async #load(number: number, options?: ReadOptions): Promise<Uint8Array> {
    const start = number * WINDOW_SIZE
    return this.#source.read(start, Math.min(WINDOW_SIZE, this.size - start), options)
  }

  #touch(number: number, window: Uint8Array): void {
    this.#windows.delete(number)
    this.#windows.set(number, window)
    for (const oldest of this.#windows.keys()) {
      if (this.#windows.size <= WINDOW_COUNT) return
      this.#windows.delete(oldest)
    }
  }
}
