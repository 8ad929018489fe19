/**
 * The two clocks of a negotiation, as of a chess game: the client's runs while the server waits for it, and stands
 * still while the provider opens, describes or lists exports, which has a time of its own. A slow provider costs no
 * client its handshake, and a provider that hangs is not waited for. It sets no timer: the connection has it
 * looked at now and then.
 */
import { NbdError } from './errors.ts'
import type { NbdLimits } from './limits.ts'

export class HandshakeClock {
  readonly #providerMs: number
  readonly #now: () => number
  #clientDeadline: number
  #provider: { readonly deadline: number; readonly onTimeout: () => void } | undefined

  /** `now` is performance.now() outside of tests. */
  constructor(
    limits: Pick<NbdLimits, 'handshakeMs' | 'providerMs'>,
    now: () => number = () => performance.now(),
  ) {
    this.#now = now
    this.#clientDeadline = now() + limits.handshakeMs
    this.#providerMs = limits.providerMs
  }

  /** True when the client's time is over. Gives up the provider when its time is. */
  check(now: number): boolean {
    if (this.#provider === undefined) return now > this.#clientDeadline
    if (now > this.#provider.deadline) this.#provider.onTimeout()
    return false
  }

  /**
   * Waits for the provider; the client's clock stands still meanwhile. What comes after the time is over is given
   * to `discard`, which must not throw.
   * @throws ERR_NBD_PROVIDER_TIMEOUT, and what the provider throws in time
   */
  async provider<T>(work: Promise<T>, discard: (late: T) => void = ignore): Promise<T> {
    const started = this.#now()
    const timeout = Promise.withResolvers<never>()
    let givenUp = false
    this.#provider = {
      deadline: started + this.#providerMs,
      onTimeout: () => {
        givenUp = true
        const what = `the provider of exports gave no answer in ${this.#providerMs} ms`
        timeout.reject(new NbdError('ERR_NBD_PROVIDER_TIMEOUT', what))
      },
    }
    try {
      return await Promise.race([work, timeout.promise])
    } finally {
      this.#provider = undefined
      this.#clientDeadline += this.#now() - started
      if (givenUp) void discardLate(work, discard)
    }
  }

  /** The items of `source`, with the provider's time for each of them. */
  async *each<T>(source: AsyncIterable<T>): AsyncGenerator<T> {
    const iterator = source[Symbol.asyncIterator]()
    try {
      for (;;) {
        const next = await this.provider(iterator.next())
        if (next.done === true) return
        yield next.value
      }
    } finally {
      // Not waited for: a generator that hangs in next() does not come to its return().
      void end(iterator)
    }
  }
}

/** Its failure changes nothing any more: the client was answered, and the timeout reported. */
async function discardLate<T>(work: Promise<T>, discard: (late: T) => void): Promise<void> {
  let late
  try {
    late = await work
  } catch {
    return
  }
  discard(late)
}

/** What a source fails with when nobody wants more of it is of no interest. */
async function end(iterator: AsyncIterator<unknown>): Promise<void> {
  try {
    await iterator.return?.()
  } catch {
    return
  }
}

function ignore(): void {}
