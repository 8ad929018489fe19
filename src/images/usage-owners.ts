/**
 * Who uses which bytes of one blob, worked out image by image: ascending segments, each used by exactly
 * one image or by several. 20 bytes a segment, whatever the number of images. Pure.
 */
import type { RangeSet } from './range-set.ts'

/** The owner of bytes that more than one image uses. */
const SEVERAL = -1
const NOBODY = -2

interface Segments {
  readonly starts: Float64Array
  readonly ends: Float64Array
  readonly owners: Int32Array
  readonly count: number
}

const NONE: Segments = {
  starts: new Float64Array(0),
  ends: new Float64Array(0),
  owners: new Int32Array(0),
  count: 0,
}

export class UsageOwners {
  #segments: Segments = NONE

  get segments(): number {
    return this.#segments.count
  }

  /** Notes that an image uses these ranges. Call once for each image. @param image its number, from 0 */
  add(ranges: RangeSet, image: number): void {
    this.#segments = merge(this.#segments, ranges, image)
  }

  /** Calls `visit` with the bytes of each segment that one image alone uses. */
  visitUnique(visit: (image: number, bytes: number) => void): void {
    const { starts, ends, owners, count } = this.#segments
    for (let index = 0; index < count; index++) {
      const owner = owners[index] ?? SEVERAL
      if (owner !== SEVERAL) visit(owner, (ends[index] ?? 0) - (starts[index] ?? 0))
    }
  }
}

/** One sweep over both lists: the borders of either are borders of the result. */
function merge(old: Segments, ranges: RangeSet, image: number): Segments {
  const capacity = 2 * old.count + 2 * ranges.count
  const starts = new Float64Array(capacity)
  const ends = new Float64Array(capacity)
  const owners = new Int32Array(capacity)
  let count = 0
  const push = (start: number, end: number, owner: number): void => {
    if (count > 0 && ends[count - 1] === start && owners[count - 1] === owner) {
      ends[count - 1] = end
      return
    }
    starts[count] = start
    ends[count] = end
    owners[count++] = owner
  }
  let a = 0
  let b = 0
  let at = 0
  while (a < old.count || b < ranges.count) {
    const oldStart = a < old.count ? (old.starts[a] ?? Infinity) : Infinity
    const oldEnd = a < old.count ? (old.ends[a] ?? Infinity) : Infinity
    const newStart = b < ranges.count ? ranges.start(b) : Infinity
    const newEnd = b < ranges.count ? ranges.end(b) : Infinity
    const inOld = oldStart <= at
    const inNew = newStart <= at
    const next = Math.min(inOld ? oldEnd : oldStart, inNew ? newEnd : newStart)
    const oldOwner = inOld ? (old.owners[a] ?? SEVERAL) : NOBODY
    if (inOld && inNew) push(at, next, SEVERAL)
    else if (inOld) push(at, next, oldOwner)
    else if (inNew) push(at, next, image)
    at = next
    if (oldEnd <= at) a++
    if (newEnd <= at) b++
  }
  return {
    starts: starts.slice(0, count),
    ends: ends.slice(0, count),
    owners: owners.slice(0, count),
    count,
  }
}
