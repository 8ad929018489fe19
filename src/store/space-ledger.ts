/** Says whether so many bytes may still be promised: free space less a reserve less what was promised already. */
import { AppError, MIB, formatSize } from '../core/index.ts'
import { FULL_HINT } from './errors.ts'

/** Left for what is not announced: maps, records, refs, index runs. */
export const RESERVED_FREE_BYTES = 64 * MIB

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
    // Counted before the question, so that two callers cannot both have the last bytes.
    this.#promised += bytes
    let given = false
    const release = (): void => {
      if (given) return
      given = true
      this.#promised -= bytes
    }
    let free: number | undefined
    try {
      free = await this.#freeBytes()
    } catch (error) {
      release()
      throw error
    }
    const available = (free ?? Infinity) - this.#reserve - (this.#promised - bytes)
    if (bytes <= available) return release
    release()
    throw new AppError(
      'ERR_STORE_FULL',
      `${formatSize(bytes)} do not fit: ${formatSize(Math.max(0, available))} are available`,
      {
        hint: FULL_HINT,
        details: { needed: bytes, available },
      },
    )
  }
}
