/** Waiting for a state that the server reaches by itself, where no event of it can be seen from outside. */
import { setTimeout as wait } from 'node:timers/promises'

const LIMIT_MS = 10_000

/** Resolves when `condition` holds; fails with the condition's text when it does not come to hold. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + LIMIT_MS
  while (!condition()) {
    if (performance.now() > deadline)
      throw new Error(`did not come to hold: ${condition.toString()}`)
    await wait(1)
  }
}
