/**
 * A DataHandle over a range map: turns a range into runs and asks the page cache. It keeps one reusable run
 * list and the state of its reader's sequence; nothing of the bytes.
 */
import type { Lease, PageReader, ReadContext } from '../cache/index.ts'
import { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { DataHandle } from './data-handle.ts'
import type { RangeMap } from './range-map.ts'
import { BoundedReadahead } from './bounded-readahead.ts'

/** On whose behalf a view reads: what of a ReadContext does not change from handle to handle. */
export type ReadIdentity = Omit<ReadContext, 'stream'>

export class MappedHandle implements DataHandle {
  readonly size: number
  readonly #map: RangeMap
  readonly #reader: PageReader
  readonly #readahead: BoundedReadahead
  readonly #context: ReadContext
  readonly #runs = new RunList()

  constructor(map: RangeMap, reader: PageReader, identity: ReadIdentity) {
    this.size = map.size
    this.#map = map
    this.#reader = reader
    this.#readahead = new BoundedReadahead()
    this.#context = { ...identity, stream: this.#readahead }
  }

  get pinBudgetBytes(): number {
    return this.#reader.pinBudgetBytes
  }

  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean {
    const runs = this.#runsOf(offset, length)
    return this.#reader.copyInto(runs, this.#context, target, targetOffset)
  }

  tryRead(offset: number, length: number): Lease | undefined {
    return this.#reader.tryRead(this.#runsOf(offset, length), this.#context)
  }

  read(offset: number, length: number, options?: { signal?: AbortSignal }): Promise<Lease> {
    return this.#reader.read(this.#runsOf(offset, length), this.#context, options)
  }

  stream(offset: number, length: number, options?: { signal?: AbortSignal }): AsyncIterable<Lease> {
    return this.#reader.stream(this.#runsOf(offset, length), this.#context, options)
  }

  prefetch(offset: number, length: number): void {
    checkRange(this.size, offset, length)
    const useful = Math.min(length, this.#reader.prefetchBudgetBytes)
    if (useful > 0) this.#reader.prefetch(this.#runsOf(offset, useful), this.#context)
  }

  /** Leases are their holders' and stay valid. */
  [Symbol.dispose](): void {
    this.#runs.clear()
  }

  #runsOf(offset: number, length: number): RunList {
    checkRange(this.size, offset, length)
    this.#readahead.bytesBehind = this.size - offset - length
    this.#runs.clear()
    this.#map.mapRange(offset, length, this.#runs)
    return this.#runs
  }
}
