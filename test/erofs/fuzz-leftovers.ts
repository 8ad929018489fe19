/**
 * What fuzzing must not leave behind, whatever the images were: open files, memory that stays reachable, and a
 * process that once needed far more than a healthy image does. Compares with a baseline taken after a warm-up.
 */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'

import type { GrowthFigures, GrowthLimits } from '../growth.ts'
import { Growth } from '../growth.ts'

/** Above the baseline at any moment: garbage that is not collected yet, of images of 1 MiB. */
const MAX_PEAK_BYTES = 512 * 2 ** 20

export class Leftovers {
  readonly #growth: Growth
  readonly #files = openFiles()
  readonly #resident = process.memoryUsage.rss()

  private constructor(growth: Growth) {
    this.#growth = growth
  }

  /** The baseline. Call it when everything that the warm-up used is disposed of. */
  static async sinceNow(): Promise<Leftovers> {
    return new Leftovers(await Growth.sinceNow())
  }

  /** Descriptors that were not open at the baseline. Call it when everything is disposed of. */
  assertNoFiles(): void {
    const files = openFiles()
    assert.ok(files <= this.#files, `${files} open files, ${this.#files} before`)
  }

  /** @returns figures for evidence */
  async assertNone(limits: GrowthLimits): Promise<GrowthFigures & { readonly peakBytes: number }> {
    this.assertNoFiles()
    const grown = await this.#growth.assertBounded(limits)
    const peakBytes = Math.max(0, process.resourceUsage().maxRSS * 1024 - this.#resident)
    assert.ok(peakBytes < MAX_PEAK_BYTES, `${peakBytes} bytes above the start at the peak`)
    return { ...grown, peakBytes }
  }
}

function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}
