/**
 * How long readers pause for what they have read. Clients that ask again at once fill the machine, and whatever else is
 * to happen beside them comes to a stand: imports work at the lowest priority, and a new connection waits behind all
 * that the others have asked for. So readers press until the images that come and go take longer than they should, and
 * leave so much room from then on that they do not. They never stop.
 */

/** An image comes, is read, goes, and is read again within this. */
const TURN_MS = 4000
/** Looked at so often while it takes longer. */
const LOOK_MS = 1000
const SLOWER = 1.15
const FASTER = 0.85
/** Milliseconds of pause for a MiB read: the first that is felt, and the longest, with which 500 clients read 15 MiB/s. */
const FIRST_MS = 500
const LONGEST_MS = 32_000

export class Pace {
  readonly #onTurn: (ms: number) => void
  #msPerMib = 0

  /** @param onTurn hears how long each turn took */
  constructor(onTurn: (ms: number) => void) {
    this.#onTurn = onTurn
  }

  /** Milliseconds that a reader pauses for a MiB. */
  get msPerMib(): number {
    return this.#msPerMib
  }

  /** Runs the turn of one image, and adapts to how long it takes. */
  async turn<T>(work: () => Promise<T>): Promise<T> {
    const began = performance.now()
    const watching = setInterval(() => {
      if (performance.now() - began > TURN_MS) this.#slower()
    }, LOOK_MS)
    try {
      return await work()
    } finally {
      clearInterval(watching)
      const ms = performance.now() - began
      if (ms < TURN_MS) this.#msPerMib *= FASTER
      this.#onTurn(ms)
    }
  }

  #slower(): void {
    this.#msPerMib = Math.min(LONGEST_MS, Math.max(FIRST_MS, this.#msPerMib * SLOWER))
  }
}
