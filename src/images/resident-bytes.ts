/**
 * How much of an image is in memory: the pages that its maps touch, compared with the pages that the cache
 * says are resident. Pure: both are given.
 */
import type { Digest } from '../core/index.ts'
import type { DeviceMap } from '../store/index.ts'
import type { BlobUsage } from './blob-usage.ts'
import { addUsage } from './blob-usage.ts'
import { RangeSet } from './range-set.ts'

/** Pages of each blob that an image refers to, as ranges of page numbers. */
export type ImagePages = ReadonlyMap<Digest, RangeSet>

export function imagePages(maps: readonly DeviceMap[], frameSize: number): ImagePages {
  const usage: BlobUsage = new Map()
  for (const map of maps) addUsage(usage, map)
  const pages = new Map<Digest, RangeSet>()
  for (const [blob, ranges] of usage) {
    const set = new RangeSet()
    for (let index = 0; index < ranges.count; index++) {
      set.add(Math.floor(ranges.start(index) / frameSize), Math.ceil(ranges.end(index) / frameSize))
    }
    pages.set(blob, set)
  }
  return pages
}

/**
 * Whole frames of the image that are in memory, in bytes.
 * @param residentPages the pages of a blob that are in memory, ascending
 */
export function residentBytes(
  pages: ImagePages,
  residentPages: (blob: Digest) => ArrayLike<number>,
  frameSize: number,
): number {
  let frames = 0
  for (const [blob, ranges] of pages) {
    const resident = residentPages(blob)
    let range = 0
    for (let index = 0; index < resident.length && range < ranges.count;) {
      const page = resident[index] ?? Infinity
      if (page >= ranges.end(range)) {
        range++
        continue
      }
      if (page >= ranges.start(range)) frames++
      index++
    }
  }
  return frames * frameSize
}
