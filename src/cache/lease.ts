/**
 * Bytes of a reply on loan. Whoever gets a lease releases it exactly when the bytes are no longer needed;
 * further releases do nothing. A lease never released holds its frames for the life of the process.
 */
import { recordOf } from './frame-table.ts'
import { unpin } from './pin-protocol.ts'

export interface Lease extends Disposable {
  /** The reply's bytes in order; valid until `release`, and not to be written to. */
  readonly parts: readonly Uint8Array[]
  /** Sum of the parts. */
  readonly byteLength: number
  /** Bytes of the frames that the lease keeps from being evicted; 0 if it has a copy. */
  readonly pinnedBytes: number
  release(): void
}

const NO_FRAMES: readonly number[] = []

/** How many frames a reader's leases hold; counted up by a lease at its making, down by its release. */
export interface HeldFrames {
  count: number
}

/** Frames' own memory. */
export class PinnedLease implements Lease {
  readonly parts: readonly Uint8Array[]
  readonly byteLength: number
  readonly pinnedBytes: number
  readonly #table: Int32Array
  readonly #held: HeldFrames
  #frames: readonly number[]

  /** @param frames each pinned once, for this lease */
  constructor(
    parts: readonly Uint8Array[],
    byteLength: number,
    table: Int32Array,
    frames: readonly number[],
    frameSize: number,
    held: HeldFrames,
  ) {
    this.parts = parts
    this.byteLength = byteLength
    this.pinnedBytes = frames.length * frameSize
    this.#table = table
    this.#frames = frames
    this.#held = held
    held.count += frames.length
  }

  release(): void {
    const frames = this.#frames
    this.#frames = NO_FRAMES
    this.#held.count -= frames.length
    for (const frame of frames) unpin(this.#table, recordOf(frame))
  }

  [Symbol.dispose](): void {
    this.release()
  }
}

/** A copy: for replies put together from more pages than may be pinned. */
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
