/** Says whether so many bytes may still be promised: free space less a reserve less what was promised already. */
import { AppError, GIB, MIB, formatSize } from '../core/index.ts'
import { FULL_HINT } from './errors.ts'

/** Left for what is not announced: maps, records, refs, index runs. */
export const RESERVED_FREE_BYTES = 64 * MIB

/** Of what is still available, for something whose size nobody knows before its end. */
const UNANNOUNCED_SHARE = 0.5
const MIN_UNANNOUNCED_BYTES = MIB
/** Where nobody can say what is free. */
const MAX_UNANNOUNCED_BYTES = 1024 * GIB

/** Bytes set aside. */
export interface Promised {
  readonly bytes: number
  /** Gives them back, once. */
  readonly release: () => void
}

export class SpaceLedger {
  readonly #freeBytes: () => Promise<number | undefined>
  readonly #reserve: number
  #promised = 0

  constructor(freeBytes: () => Promise<number | undefined>, reserve: number = RESERVED_FREE_BYTES) {
    this.#freeBytes = freeBytes
    this.#reserve = reserve
  }

  /** Bytes promised and not given back. What was written of them counts twice: the answer errs on the safe side. */
  get promised(): number {
    return this.#promised
  }

  /**
   * Sets bytes aside.
   *
   * @returns gives them back, once
   * @throws ERR_STORE_FULL
   */
  async promise(bytes: number): Promise<() => void> {
    return (await this.#promise(() => bytes)).release
  }

  /**
   * Sets half of what is available aside, at least 1 MiB.
   * @throws ERR_STORE_FULL
   */
  async promiseShare(): Promise<Promised> {
    return await this.#promise((available) => {
      const share = Math.floor(Math.max(0, available) * UNANNOUNCED_SHARE)
      return Math.max(MIN_UNANNOUNCED_BYTES, Math.min(share, MAX_UNANNOUNCED_BYTES))
    })
  }

  async #promise(choose: (available: number) => number): Promise<Promised> {
    const free = (await this.#freeBytes()) ?? Infinity
    // From here on nothing waits, so that two callers cannot both have the last bytes.
    const available = free - this.#reserve - this.#promised
    const bytes = choose(available)
    if (bytes <= available) return { bytes, release: this.#setAside(bytes) }
    throw new AppError(
      'ERR_STORE_FULL',
      `${formatSize(bytes)} do not fit: ${formatSize(Math.max(0, available))} are available`,
      {
        hint: FULL_HINT,
        details: { needed: bytes, available },
      },
    )
  }

  #setAside(bytes: number): () => void {
    this.#promised += bytes
    let given = false
    return () => {
      if (given) return
      given = true
      this.#promised -= bytes
    }
  }
}
