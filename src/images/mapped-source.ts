/**
 * A range map as a ByteSource over the page cache: how the EROFS reader reads the metadata of an image
 * that is served. A range in memory costs a copy and no wait.
 */
import type { PageReader, ReadContext } from '../cache/index.ts'
import { RunList } from '../cache/index.ts'
import type { ByteSource, ReadOptions } from '../core/index.ts'
import { checkRange } from '../core/index.ts'
import { NoReadahead } from './bounded-readahead.ts'
import type { ReadIdentity } from './mapped-handle.ts'
import type { RangeMap } from './range-map.ts'

export class MappedSource implements ByteSource {
  readonly size: number
  readonly #map: RangeMap
  readonly #reader: PageReader
  readonly #context: ReadContext
  readonly #runs = new RunList()

  constructor(map: RangeMap, reader: PageReader, identity: ReadIdentity) {
    this.size = map.size
    this.#map = map
    this.#reader = reader
    this.#context = { ...identity, stream: new NoReadahead() }
  }

  /** @throws ERR_CACHE_* */
  async read(offset: number, length: number, options: ReadOptions = {}): Promise<Uint8Array> {
    checkRange(this.size, offset, length)
    const bytes = Buffer.allocUnsafe(length) // overwritten below, or not returned
    if (this.#reader.copyInto(this.#runsOf(offset, length), this.#context, bytes, 0)) return bytes
    let at = 0
    for await (const lease of this.#pieces(offset, length, options)) {
      try {
        for (const part of lease.parts) {
          bytes.set(part, at)
          at += part.byteLength
        }
      } finally {
        lease.release()
      }
    }
    return bytes
  }

  async *#pieces(offset: number, length: number, options: ReadOptions) {
    const runs = this.#runsOf(offset, length)
    if (length <= this.#reader.pinBudgetBytes) {
      yield await this.#reader.read(runs, this.#context, options)
    } else {
      yield* this.#reader.stream(runs, this.#context, options)
    }
  }

  #runsOf(offset: number, length: number): RunList {
    this.#runs.clear()
    this.#map.mapRange(offset, length, this.#runs)
    return this.#runs
  }
}
