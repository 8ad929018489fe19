/**
 * Bytes of a reply on loan. Whoever gets a lease releases it exactly when the bytes are no longer needed;
 * further releases do nothing. A lease never released holds its frames for the life of the process.
 */
import type { PagePlan } from './page-plan.ts'

export interface Lease extends Disposable {
  /** The reply's bytes in order. The list and what it names are valid until `release`, and not to be written to. */
  readonly parts: readonly Uint8Array[]
  /** Sum of the parts. */
  readonly byteLength: number
  /** Bytes of the frames that the lease keeps from being evicted; 0 if it has a copy. */
  readonly pinnedBytes: number
  release(): void
}

/** Frames' own memory, pinned page by page for this lease. */
export class PinnedLease implements Lease {
  readonly parts: readonly Uint8Array[]
  readonly byteLength: number
  readonly pinnedBytes: number
  readonly #unpin: (plan: PagePlan) => void
  #plan: PagePlan | undefined

  /**
   * @param plan whose frames are pinned and whose parts are filled in; the lease's own until it gives it to `unpin`
   * @param frameSize bytes
   */
  constructor(plan: PagePlan, frameSize: number, unpin: (plan: PagePlan) => void) {
    this.parts = plan.parts
    this.byteLength = plan.byteLength
    this.pinnedBytes = plan.pages * frameSize
    this.#plan = plan
    this.#unpin = unpin
  }

  release(): void {
    const plan = this.#plan
    if (plan === undefined) return
    this.#plan = undefined
    this.#unpin(plan)
  }

  [Symbol.dispose](): void {
    this.release()
  }
}

/** A copy: for replies put together from small pieces of many pages, which would hold all of them. */
export class CopiedLease implements Lease {
  readonly parts: readonly Uint8Array[]
  readonly byteLength: number
  readonly pinnedBytes = 0

  constructor(bytes: Uint8Array) {
    this.parts = [bytes]
    this.byteLength = bytes.byteLength
  }

  release(): void {
    // Memory of its own: the garbage collector's.
  }

  [Symbol.dispose](): void {
    this.release()
  }
}
