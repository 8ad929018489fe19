/**
 * What a process may come to hold on to while it does the same kind of work again and again. Heap and buffers are
 * held against bounds of their own: buffers are counted to the byte, while code that is met for the first time is
 * still being compiled into the heap. It looks at memory alone; files, pages and connections have owners who count
 * them.
 */
import assert from 'node:assert/strict'
import { setFlagsFromString } from 'node:v8'

import type { HeldMemory } from './collect-garbage.ts'
import { settledMemory } from './collect-garbage.ts'

// Code that rests is dropped at some collection, 5 MiB at once: as much of a leak would not be seen.
setFlagsFromString('--no-flush-bytecode')

/**
 * Buffers of a process in use, apart from pools: thousands of damaged images left 15 bytes more or less, NBD sessions
 * 25 KiB. One buffer of 64 KiB that is left behind is more.
 */
const BUFFER_BYTES = 48 * 1024
/** Heap: 10 damaged images behind a warm-up left at most 80 KiB, 18 imports 212 KiB, 300 NBD sessions 1 MiB. */
const HEAP_BYTES = 256 * 1024
const CODE_BYTES_EACH = 8 * 1024
/** What tests themselves note of each piece of work: an outcome, an error code, a slot of a growing array. */
const NOTED_BYTES_EACH = 128

export interface GrowthFigures {
  readonly grownHeapBytes: number
  readonly grownBufferBytes: number
}

export interface GrowthLimits {
  /** How often the work was done since the baseline. */
  readonly pieces: number
  /** What code that is met later, and what it learns of types, take of the heap in the end. */
  readonly maxCodeBytes: number
  /** By how much pools for buffers may have grown. */
  readonly pooledBytes?: number
}

export class Growth {
  readonly #before: HeldMemory

  private constructor(before: HeldMemory) {
    this.#before = before
  }

  /** Call it behind a warm-up: when every cache and pool has its size, and most of the code was used. */
  static async sinceNow(): Promise<Growth> {
    return new Growth(await settledMemory())
  }

  async assertBounded(limits: GrowthLimits): Promise<GrowthFigures> {
    const { pieces, maxCodeBytes, pooledBytes = 0 } = limits
    const { heapBytes, bufferBytes } = await settledMemory()
    const grownHeapBytes = heapBytes - this.#before.heapBytes
    const grownBufferBytes = bufferBytes - this.#before.bufferBytes
    const code = Math.min(maxCodeBytes, CODE_BYTES_EACH * pieces)
    const heapBound = HEAP_BYTES + code + NOTED_BYTES_EACH * pieces
    const grown = `in ${pieces} pieces of work: bytes that are reachable grew by`
    assert.ok(grownHeapBytes < heapBound, `${grown} ${grownHeapBytes} (heap), not < ${heapBound}`)
    const bufferBound = BUFFER_BYTES + pooledBytes
    const buffers = `${grown} ${grownBufferBytes} (buffers), not < ${bufferBound}`
    assert.ok(grownBufferBytes < bufferBound, buffers)
    return { grownHeapBytes, grownBufferBytes }
  }
}
