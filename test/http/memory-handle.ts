/** Bytes in a Buffer behind the handle that front ends read through, with everything counted. */
import { AppError } from '../../src/core/index.ts'
import type { Lease } from '../../src/cache/index.ts'
import type { DataHandle } from '../../src/images/index.ts'

export const FRAME_BYTES = 16 * 1024

/** What happened to the bytes: tests assert that everything borrowed was given back. */
export class Ledger {
  leases = 0
  released = 0
  doubleReleases = 0
  /** Handles that were read or disposed after they had been disposed. */
  misuses = 0
  handles = 0
  handlesClosed = 0
  views = 0
  viewsClosed = 0
  copies = 0
  reads: { offset: number; length: number }[] = []
  /** Reads that were told to stop. */
  aborted = 0

  get heldLeases(): number {
    return this.leases - this.released
  }

  get open(): number {
    return this.handles - this.handlesClosed + (this.views - this.viewsClosed)
  }
}

/** How bytes behave: as in memory by default. */
export interface Weather {
  /** Nothing is in memory: tryRead and readInto find nothing. */
  cold: boolean
  /** Awaited before a cold read is answered. */
  gate: ((signal: AbortSignal | undefined) => Promise<void>) | undefined
  /** Awaited before a blob is opened. */
  openGate: (() => Promise<void>) | undefined
  /** Thrown by cold reads at or behind this offset. */
  failAt: number | undefined
  pinBudgetBytes: number
}

export class MemoryHandle implements DataHandle {
  readonly size: number
  readonly #bytes: Buffer
  readonly #ledger: Ledger
  readonly #weather: Weather
  #open = true

  constructor(bytes: Buffer, ledger: Ledger, weather: Weather) {
    this.size = bytes.length
    this.#bytes = bytes
    this.#ledger = ledger
    this.#weather = weather
    ledger.handles++
  }

  get pinBudgetBytes(): number {
    return this.#weather.pinBudgetBytes
  }

  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean {
    this.#check(offset, length)
    if (this.#weather.cold) return false
    this.#ledger.copies++
    this.#bytes.copy(target, targetOffset, offset, offset + length)
    return true
  }

  tryRead(offset: number, length: number): Lease | undefined {
    this.#check(offset, length)
    return this.#weather.cold ? undefined : this.#lease(offset, length)
  }

  async read(offset: number, length: number, options?: { signal?: AbortSignal }): Promise<Lease> {
    this.#check(offset, length)
    await this.#settle(offset, length, options?.signal)
    return this.#lease(offset, length)
  }

  async *stream(
    offset: number,
    length: number,
    options?: { signal?: AbortSignal },
  ): AsyncGenerator<Lease> {
    this.#check(offset, length)
    for (let at = offset; at < offset + length; at += this.pinBudgetBytes) {
      const piece = Math.min(this.pinBudgetBytes, offset + length - at)
      await this.#settle(at, piece, options?.signal)
      yield this.#lease(at, piece)
    }
  }

  prefetch(): void {
    // Everything is here already.
  }

  [Symbol.dispose](): void {
    if (!this.#open) this.#ledger.misuses++
    this.#open = false
    this.#ledger.handlesClosed++
  }

  async #settle(offset: number, length: number, signal: AbortSignal | undefined): Promise<void> {
    this.#ledger.reads.push({ offset, length })
    if (this.#weather.cold) await this.#weather.gate?.(signal)
    if (signal?.aborted === true) {
      this.#ledger.aborted++
      throw new AppError('ERR_ABORTED', 'the read was cancelled')
    }
    const { failAt } = this.#weather
    if (failAt !== undefined && offset + length > failAt) {
      throw new AppError('ERR_CACHE_PAGE_CORRUPT', `page at ${failAt} does not have its digest`)
    }
  }

  #lease(offset: number, length: number): Lease {
    const parts: Buffer[] = []
    for (let at = offset; at < offset + length;) {
      const end = Math.min(offset + length, (Math.floor(at / FRAME_BYTES) + 1) * FRAME_BYTES)
      parts.push(this.#bytes.subarray(at, end))
      at = end
    }
    this.#ledger.leases++
    let held = true
    const release = (): void => {
      if (!held) this.#ledger.doubleReleases++
      else this.#ledger.released++
      held = false
    }
    return { parts, byteLength: length, pinnedBytes: length, release, [Symbol.dispose]: release }
  }

  #check(offset: number, length: number): void {
    if (!this.#open) this.#ledger.misuses++
    if (offset < 0 || length < 1 || offset + length > this.size) {
      throw new RangeError(`range ${offset}+${length} is outside of ${this.size} bytes`)
    }
  }
}
