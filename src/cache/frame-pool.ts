/**
 * The keeper's supply of frames: never used, freed, or taken from a page by the policy. The only code that
 * claims frames and removes pages. A frame it hands out is owned by the keeper (EVICTING set, no key).
 */
import type { BlobTable } from './blob-table.ts'
import {
  CACHE_COUNTER,
  count,
  DOMAIN_COUNTER,
  domainColumn,
  EVICTION_REASONS,
  type EvictionReason,
} from './counters.ts'
import type { EpochLedger } from './epoch-ledger.ts'
import { FRAME, recordOf } from './frame-table.ts'
import type { PageIndex } from './page-index.ts'
import { claim, claimUnused } from './pin-protocol.ts'
import type { CachePolicy } from './policy.ts'
import type { SampleReader } from './sample-ring.ts'

export interface FramePoolParts {
  readonly frames: number
  readonly frameSize: number
  readonly table: Int32Array
  readonly index: PageIndex
  readonly policy: CachePolicy
  readonly samples: SampleReader
  readonly blobs: BlobTable
  readonly ledger: EpochLedger
  readonly counters: Float64Array
}

export class FramePool {
  readonly #parts: FramePoolParts
  readonly #table: Int32Array
  readonly #canEvict: (frame: number) => boolean
  readonly #onSample: (blobNo: number, pageNo: number) => void
  /** Frames from here on have never held a page; their records are not even touched. */
  #unused = 0
  /** Head of the list through the PAGE words of free frames, + 1; 0: empty. */
  #free = 0

  constructor(parts: FramePoolParts) {
    this.#parts = parts
    this.#table = parts.table
    this.#onSample = (blobNo, pageNo) => parts.policy.onSample(blobNo, pageNo)
    this.#canEvict = (frame) => this.#holdsPage(frame) && claim(this.#table, recordOf(frame))
  }

  /** An owned frame, or -1 if every frame is pinned or being filled. */
  take(): number {
    if (this.#free !== 0) {
      const frame = this.#free - 1
      this.#free = this.#table[recordOf(frame) + FRAME.PAGE] ?? 0
      return frame
    }
    if (this.#unused < this.#parts.frames) {
      const frame = this.#unused++
      claimUnused(this.#table, recordOf(frame))
      return frame
    }
    const { policy, samples } = this.#parts
    if (policy.sampleEvery > 0) samples.drain(this.#onSample)
    const frame = policy.nextVictim(this.#canEvict)
    if (frame >= 0) this.#removePage(frame, 'capacity')
    return frame
  }

  /** Takes back an owned frame without a key. */
  free(frame: number): void {
    const record = recordOf(frame)
    Atomics.store(this.#table, record + FRAME.BLOB, 0)
    Atomics.store(this.#table, record + FRAME.FILLER, 0)
    Atomics.store(this.#table, record + FRAME.PAGE, this.#free)
    this.#free = frame + 1
  }

  /** Evicts the frame's page and frees the frame. False: pinned, being filled, or empty. */
  evict(frame: number, reason: EvictionReason): boolean {
    if (!this.#canEvict(frame)) return false
    this.#removePage(frame, reason)
    this.free(frame)
    return true
  }

  /** Frames that may hold a page: 0 to this, exclusive. */
  get used(): number {
    return this.#unused
  }

  #holdsPage(frame: number): boolean {
    return this.#table[recordOf(frame) + FRAME.BLOB] !== 0
  }

  #removePage(frame: number, reason: EvictionReason): void {
    const { blobs, ledger, counters, index, frameSize } = this.#parts
    const record = recordOf(frame)
    const word = (column: number) => this.#table[record + column] ?? 0
    index.remove(frame)
    const blob = blobs.get(word(FRAME.BLOB))
    if (blob !== undefined) {
      ledger.onEvict(blob, word(FRAME.PAGE) >>> 0, word(FRAME.VALID), word(FRAME.FILLER))
      count(counters, domainColumn(blob.domainNo) + DOMAIN_COUNTER.RESIDENT_BYTES, -frameSize)
    }
    Atomics.store(this.#table, record + FRAME.BLOB, 0)
    Atomics.store(this.#table, record + FRAME.FILLER, 0)
    const reasonNo = EVICTION_REASONS.indexOf(reason)
    count(counters, CACHE_COUNTER.EVICTIONS + reasonNo)
    count(counters, CACHE_COUNTER.EVICTED_BYTES + reasonNo, frameSize)
    count(counters, CACHE_COUNTER.RESIDENT_FRAMES, -1)
    if (word(FRAME.READAHEAD) !== 0) count(counters, CACHE_COUNTER.READAHEAD_WASTED)
  }
}
