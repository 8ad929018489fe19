/** Which bytes of which blobs the maps of an image refer to. Pure; one range set for each blob. */
import type { Digest } from '../core/index.ts'
import type { DeviceMap } from '../store/index.ts'
import { EXTENT, EXTENT_WORDS } from '../store/index.ts'
import { RangeSet } from './range-set.ts'

const TWO_32 = 0x1_0000_0000

export type BlobUsage = Map<Digest, RangeSet>

/** Adds what a map refers to. */
export function addUsage(usage: BlobUsage, map: DeviceMap): void {
  const sets = map.blobs.map(({ digest }) => {
    const known = usage.get(digest)
    if (known !== undefined) return known
    const set = new RangeSet()
    usage.set(digest, set)
    return set
  })
  const words = map.extents
  const startOf = (index: number): number => {
    if (index === map.extentCount) return map.size
    const word = index * EXTENT_WORDS
    return (words[word + EXTENT.deviceHigh] ?? 0) * TWO_32 + (words[word + EXTENT.deviceLow] ?? 0)
  }
  for (let index = 0; index < map.extentCount; index++) {
    const word = index * EXTENT_WORDS
    const set = sets[(words[word + EXTENT.source] ?? 0) - 1]
    if (set === undefined) continue
    const from = (words[word + EXTENT.blobHigh] ?? 0) * TWO_32 + (words[word + EXTENT.blobLow] ?? 0)
    set.add(from, from + startOf(index + 1) - startOf(index))
  }
}

/** Device bytes of a map that are zeros of no blob. */
export function zeroBytesOf(map: DeviceMap): number {
  const words = map.extents
  let sum = 0
  let end = map.size
  for (let index = map.extentCount - 1; index >= 0; index--) {
    const word = index * EXTENT_WORDS
    const start =
      (words[word + EXTENT.deviceHigh] ?? 0) * TWO_32 + (words[word + EXTENT.deviceLow] ?? 0)
    if (words[word + EXTENT.source] === 0) sum += end - start
    end = start
  }
  return sum
}
