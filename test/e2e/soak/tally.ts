/**
 * What the soak's clients have seen: how much was compared and what differed. Only the first differences and
 * errors are kept in words; all are counted.
 */

/** Enough to see a pattern; a server that serves garbage would give millions. */
const MAX_TOLD = 20

/** Plain data: it crosses a process boundary. */
export interface TallyReport {
  readonly requests: number
  readonly comparedBytes: number
  readonly differences: number
  readonly errors: number
  /** The first differences and errors. */
  readonly told: readonly string[]
  readonly imports: number
  readonly tagMoves: number
  /** Images of which the last tag went while clients had them open. */
  readonly removals: number
  /** Requests that were answered while the server worked at an import. */
  readonly besideImports: number
  /** How long each image took: imported, tagged, read, removed, read again. */
  readonly turnMs: readonly number[]
  /** Bytes compared over a connection whose image had no tag any more. */
  readonly comparedAfterRemoval: number
}

export class Tally {
  requests = 0
  comparedBytes = 0
  differences = 0
  errors = 0
  imports = 0
  tagMoves = 0
  removals = 0
  besideImports = 0
  readonly turnMs: number[] = []
  comparedAfterRemoval = 0
  readonly #told: string[] = []

  #importing = 0

  /** A request was answered. */
  answered(): void {
    this.requests++
    if (this.#importing > 0) this.besideImports++
  }

  /** Waits for an import, and counts it. */
  async importing<T>(work: Promise<T>): Promise<T> {
    this.#importing++
    try {
      const done = await work
      this.imports++
      return done
    } finally {
      this.#importing--
    }
  }

  /** Compares bytes that a server sent with those of its source at `offset`. */
  compare(what: string, got: Buffer, source: Buffer, offset: number): void {
    this.comparedBytes += got.length
    if (source.compare(got, 0, got.length, offset, offset + got.length) === 0) return
    this.differences++
    const first = got.findIndex((byte, i) => byte !== source[offset + i])
    this.#tell(`${what}: ${got.length} bytes at ${offset} differ from byte ${offset + first} on`)
  }

  /** Something else than bytes is not as it must be. */
  differs(what: string): void {
    this.differences++
    this.#tell(what)
  }

  failed(what: string, error: unknown): void {
    this.errors++
    this.#tell(`${what}: ${error instanceof Error ? error.message : String(error)}`)
  }

  report(): TallyReport {
    const { requests, comparedBytes, differences, errors, imports } = this
    const { tagMoves, removals, besideImports, turnMs, comparedAfterRemoval } = this
    return {
      requests,
      comparedBytes,
      differences,
      errors,
      told: this.#told,
      imports,
      tagMoves,
      removals,
      besideImports,
      turnMs,
      comparedAfterRemoval,
    }
  }

  #tell(text: string): void {
    if (this.#told.length < MAX_TOLD) this.#told.push(text)
  }
}
