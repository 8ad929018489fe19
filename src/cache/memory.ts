/**
 * The cache's shared memory, made once and handed to every thread by structured clone: arena, frame table,
 * index, counters and a few control words. It states the bounds; what happens in the memory is not its concern.
 */
import { randomBytes } from 'node:crypto'

import {
  AppError,
  type CounterMemory,
  createCounterMemory,
  formatSize,
  MIB,
} from '../core/index.ts'
import { allocateSegment, Arena, MAX_SEGMENT_BYTES } from './arena.ts'
import { CACHE_COUNTER_COLUMNS } from './counters.ts'
import { FRAME_WORDS } from './frame-table.ts'
import { indexSlots, PageIndex } from './page-index.ts'
import { createSampleRings } from './sample-ring.ts'

export const FRAME_SIZES = [16_384, 32_768, 65_536] as const
export type FrameSize = (typeof FRAME_SIZES)[number]

/** docs/adr/0003 has the measurement. */
export const DEFAULT_FRAME_SIZE: FrameSize = 16_384

export const MIN_CACHE_BYTES = 64 * MIB
/** With fewer frames a read that crosses a page border could wait for itself. */
const MIN_FRAMES = 8
/** A connection may hold this part of the frames, so that 64 stalled clients are needed to stop the cache. */
const PIN_BUDGET_PART = 64
const MIN_PIN_BUDGET_FRAMES = 4
/** A flood of misses leaves the rest of the frames to the pages that are in memory. */
const DEMAND_PART = 4
/** Twice what a fill thread has at hand: a tiny cache keeps it busy. */
const MIN_DEMAND_FRAMES = 64
/** Pages that nobody waits for take at most this part of the frames at a time. */
const BACKGROUND_PART = 8
/** One grant is one message; beyond this a read is streamed whatever the cache's size. */
const MAX_PIN_BUDGET_BYTES = 8 * MIB

/** Words of the control memory. */
export const CONTROL = {
  EPOCH: 0,
  /** Readers put one hit of this many into their sample ring; 0: none. Set by the keeper for its policy. */
  SAMPLE_EVERY: 1,
} as const
const CONTROL_WORDS = 16

export interface CacheOptions {
  /** Bytes of page frames; rounded down to whole frames. The tables come on top: 40 to 48 bytes a frame. */
  readonly cacheBytes: number
  readonly frameSize?: FrameSize
  /** Counter rows for readers: one per thread that has a PageReader. */
  readonly threads: number
  /** Permits less than 64 MiB. For tests. */
  readonly allowTiny?: boolean
  /** Bytes of an arena segment, a power of two. For tests; at most and by default 4 GiB. */
  readonly segmentBytes?: number
}

/** Structured-cloneable. */
export interface CacheMemory {
  readonly frameSize: FrameSize
  readonly frames: number
  readonly framesPerSegment: number
  readonly segments: readonly SharedArrayBuffer[]
  readonly table: SharedArrayBuffer
  readonly index: SharedArrayBuffer
  readonly indexSeed: number
  readonly control: SharedArrayBuffer
  /** One ring per reader. */
  readonly samples: SharedArrayBuffer
  /** Row 0 is the keeper's. */
  readonly counters: CounterMemory
  /** Frames that one reply may hold pinned. */
  readonly pinBudgetFrames: number
  /** Frames that may be waiting for their pages because somebody asked for these. */
  readonly demandFrames: number
  /** Frames that readahead and prefetch may be filling. */
  readonly backgroundFrames: number
}

/** @throws ERR_CACHE_TOO_SMALL below 64 MiB without `allowTiny`, and below 8 frames always */
export function createCacheMemory(options: CacheOptions): CacheMemory {
  const { cacheBytes, frameSize = DEFAULT_FRAME_SIZE, threads } = options
  const frames = Math.floor(cacheBytes / frameSize)
  const least = options.allowTiny === true ? MIN_FRAMES * frameSize : MIN_CACHE_BYTES
  if (!(cacheBytes >= least)) {
    throw new AppError(
      'ERR_CACHE_TOO_SMALL',
      `a cache of ${formatSize(cacheBytes)} is too small, expected at least ${formatSize(least)}`,
    )
  }
  const segmentBytes = Math.min(options.segmentBytes ?? MAX_SEGMENT_BYTES, MAX_SEGMENT_BYTES)
  const framesPerSegment = segmentBytes / frameSize
  const segments: SharedArrayBuffer[] = []
  for (let first = 0; first < frames; first += framesPerSegment) {
    segments.push(allocateSegment(Math.min(framesPerSegment, frames - first) * frameSize))
  }
  return {
    frameSize,
    frames,
    framesPerSegment,
    segments,
    table: new SharedArrayBuffer(frames * FRAME_WORDS * 4),
    index: new SharedArrayBuffer(indexSlots(frames) * 4),
    indexSeed: randomBytes(4).readInt32LE(),
    control: new SharedArrayBuffer(CONTROL_WORDS * 4),
    samples: createSampleRings(threads),
    counters: createCounterMemory(threads + 1, CACHE_COUNTER_COLUMNS),
    pinBudgetFrames: pinBudgetFrames(frames, frameSize),
    demandFrames: Math.max(Math.ceil(frames / DEMAND_PART), MIN_DEMAND_FRAMES),
    backgroundFrames: Math.ceil(frames / BACKGROUND_PART),
  }
}

function pinBudgetFrames(frames: number, frameSize: number): number {
  const part = Math.max(Math.floor(frames / PIN_BUDGET_PART), MIN_PIN_BUDGET_FRAMES)
  return Math.min(part, MAX_PIN_BUDGET_BYTES / frameSize)
}

/** One thread's typed views of the memory. */
export interface CacheViews {
  readonly arena: Arena
  readonly table: Int32Array
  readonly index: PageIndex
  readonly control: Int32Array
}

export function openCacheMemory(memory: CacheMemory): CacheViews {
  const table = new Int32Array(memory.table)
  return {
    arena: new Arena(memory.segments, memory.frameSize, memory.framesPerSegment),
    table,
    index: new PageIndex(new Int32Array(memory.index), table, memory.indexSeed),
    control: new Int32Array(memory.control),
  }
}
