/**
 * What fuzzing must not leave behind, whatever the images were: open files, memory that stays reachable, and a
 * process that once needed far more than a healthy image does. Compares with a baseline taken after a warm-up.
 */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'

import { heldBytes, settledBytes } from '../collect-garbage.ts'

/** What a process in use may grow by; a buffer of 64 KiB leaked once in a hundred images would be more. */
const MAX_GROWTH_BYTES = 24 * 2 ** 20
/** Above the baseline at any moment: garbage that is not collected yet, of images of 1 MiB. */
const MAX_PEAK_BYTES = 512 * 2 ** 20

export class Leftovers {
  readonly #files = openFiles()
  readonly #held = heldBytes()
  readonly #resident = process.memoryUsage.rss()

  /** Descriptors that were not open at the baseline. Call it when everything is disposed of. */
  assertNoFiles(): void {
    const files = openFiles()
    assert.ok(files <= this.#files, `${files} open files, ${this.#files} before`)
  }

  /** @returns figures for evidence */
  async assertNone(): Promise<{ readonly grownBytes: number; readonly peakBytes: number }> {
    this.assertNoFiles()
    const grownBytes = (await settledBytes()) - this.#held
    assert.ok(grownBytes < MAX_GROWTH_BYTES, `${grownBytes} bytes more are reachable`)
    const peakBytes = Math.max(0, process.resourceUsage().maxRSS * 1024 - this.#resident)
    assert.ok(peakBytes < MAX_PEAK_BYTES, `${peakBytes} bytes above the start at the peak`)
    return { grownBytes, peakBytes }
  }
}

function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}
