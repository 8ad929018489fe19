/**
 * What a reader leaves behind when it has used a page: the look-up's result and bytes in its thread's counters,
 * the use counter for the policy, the readahead mark, the image's touched bit, and the claim of pages that no
 * image was charged for. Called with the page pinned; nothing in it allocates or waits.
 */
import { CACHE_COUNTER, count, DOMAIN_COUNTER, domainColumn, LOOKUP } from './counters.ts'
import { FILLER, FRAME, MAX_USE, unattributed } from './frame-table.ts'
import type { ImageAccounting } from './image-accounting.ts'
import { CONTROL } from './memory.ts'
import { GRANTED } from './messages.ts'
import type { SequentialState } from './readahead.ts'
import type { SampleWriter } from './sample-ring.ts'

/** On whose behalf a read is. One per open handle. */
export interface ReadContext {
  /** 0: no image (a blob read by its digest, prefetch, scrub). */
  readonly imageId: number
  /** From `openBlobs`. */
  readonly domainNo: number
  /** The image's accounting; absent: it is not kept. */
  readonly touched?: ImageAccounting
  readonly stream: SequentialState
}

export class ReadLedger {
  readonly #table: Int32Array
  readonly #control: Int32Array
  readonly #row: Float64Array
  readonly #samples: SampleWriter

  constructor(table: Int32Array, control: Int32Array, row: Float64Array, samples: SampleWriter) {
    this.#table = table
    this.#control = control
    this.#row = row
    this.#samples = samples
  }

  /**
   * @param how GRANTED.x: what the keeper said, RESIDENT if it was not asked
   * @param bytes of the reply that come from the page
   */
  use(record: number, how: number, ordinal: number, bytes: number, context: ReadContext): void {
    const table = this.#table
    const uses = table[record + FRAME.USE] ?? 0
    if (uses < MAX_USE) table[record + FRAME.USE] = uses + 1
    const every = this.#control[CONTROL.SAMPLE_EVERY] ?? 0
    if (every > 0) this.#sample(every, record)
    if (table[record + FRAME.READAHEAD] !== 0) this.#useReadahead(record)
    const { imageId, touched } = context
    const filler = table[record + FRAME.FILLER] ?? 0
    let result: number = LOOKUP.hit
    if (how !== GRANTED.RESIDENT) result = how === GRANTED.FILLED ? LOOKUP.miss : LOOKUP.coalesced
    else if (filler !== imageId && filler > 0 && imageId !== 0) {
      result = LOOKUP.shared_hit
      touched?.countSharedHit(this.#control[CONTROL.EPOCH] ?? 0)
    }
    if (filler < 0 && imageId !== 0) this.#claim(record, imageId, touched)
    if (touched !== undefined) {
      touched.touch(this.#control[CONTROL.EPOCH] ?? 0, ordinal, table[record + FRAME.VALID] ?? 0)
    }
    const domain = domainColumn(context.domainNo)
    count(this.#row, domain + DOMAIN_COUNTER.LOOKUPS + result)
    const source = how === GRANTED.FILLED ? DOMAIN_COUNTER.STORE_BYTES : DOMAIN_COUNTER.MEMORY_BYTES
    count(this.#row, domain + source, bytes)
  }

  /** Zeros of holes come from memory. */
  useZeros(bytes: number, context: ReadContext): void {
    count(this.#row, domainColumn(context.domainNo) + DOMAIN_COUNTER.MEMORY_BYTES, bytes)
  }

  #sample(every: number, record: number): void {
    const blobNo = this.#table[record + FRAME.BLOB] ?? 0
    this.#samples.hit(every, blobNo, this.#table[record + FRAME.PAGE] ?? 0)
  }

  #useReadahead(record: number): void {
    if (Atomics.exchange(this.#table, record + FRAME.READAHEAD, 0) !== 0) {
      count(this.#row, CACHE_COUNTER.READAHEAD_USED)
    }
  }

  /**
   * The page was brought in for no image: this one becomes its filler, and is charged if nobody was in this
   * epoch. The epoch is part of the compared value, so a claim that a reset overtakes either fails or counts
   * in the epoch that the page belongs to.
   */
  #claim(record: number, imageId: number, touched: ImageAccounting | undefined): void {
    const at = record + FRAME.FILLER
    const table = this.#table
    if (Atomics.compareExchange(table, at, FILLER.ACCOUNTED, imageId) === FILLER.ACCOUNTED) return
    if (touched === undefined) return
    const epoch = Atomics.load(this.#control, CONTROL.EPOCH)
    const mark = unattributed(epoch)
    if (Atomics.compareExchange(table, at, mark, imageId) === mark) {
      touched.add(epoch, table[record + FRAME.VALID] ?? 0)
    }
  }
}
