/**
 * The flattened view of an image: its devices at their unified addresses, zeros between them. One disk,
 * as Linux 6.4 and later mount it (fs/erofs/super.c: erofs_scan_devices). It knows addresses only.
 */
import type { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { ImageRecord } from './image-record.ts'
import type { PieceVisitor, RangeMap } from './range-map.ts'

/** A device and the byte where it starts in the flattened view. */
export interface PlacedDevice {
  readonly offset: number
  readonly map: RangeMap
}

interface Segment {
  readonly start: number
  readonly end: number
  readonly map: RangeMap
}

export class FlattenedMap implements RangeMap {
  readonly size: number
  /** Ascending and disjoint. */
  readonly #segments: readonly Segment[]

  /** A device ends where the next one starts, whatever its size. */
  constructor(devices: readonly PlacedDevice[]) {
    const sorted = devices.toSorted((a, b) => a.offset - b.offset)
    this.#segments = sorted.map(({ offset, map }, index) => ({
      start: offset,
      end: Math.min(offset + map.size, sorted[index + 1]?.offset ?? Infinity),
      map,
    }))
    this.size = this.#segments.at(-1)?.end ?? 0
  }

  mapRange(offset: number, length: number, out: RunList): void {
    checkRange(this.size, offset, length)
    const end = offset + length
    let at = offset
    for (let index = 0; at < end; index++) {
      const segment = this.#segments[index]
      if (segment === undefined) return
      if (segment.end <= at) continue
      const gap = Math.min(segment.start, end) - at
      if (gap > 0) {
        out.pushZeros(gap)
        at += gap
      }
      const stop = Math.min(segment.end, end)
      if (stop > at) segment.map.mapRange(at - segment.start, stop - at, out)
      at = Math.max(at, stop)
    }
  }

  visitRange(offset: number, length: number, visitor: PieceVisitor): void {
    checkRange(this.size, offset, length)
    const end = offset + length
    let at = offset
    for (const segment of this.#segments) {
      if (at >= end) return
      if (segment.end <= at) continue
      const gap = Math.min(segment.start, end) - at
      if (gap > 0) {
        visitor.zeros(gap)
        at += gap
      }
      const stop = Math.min(segment.end, end)
      if (stop > at) segment.map.visitRange(at - segment.start, stop - at, visitor)
      at = Math.max(at, stop)
    }
  }
}

/** Where a device of a record starts in the flattened view; undefined when it is not in it. */
export function flattenedOffset(record: ImageRecord, device: number): number | undefined {
  return device === 0 ? 0 : record.devices[device]?.unifiedOffset
}

/** Bytes of the flattened view of a record: the end of the device that starts last. */
export function flattenedSize(record: ImageRecord): number {
  let start = -1
  let end = 0
  for (const [index, device] of record.devices.entries()) {
    const offset = flattenedOffset(record, index)
    if (offset === undefined || offset < start) continue
    start = offset
    end = offset + device.size
  }
  return end
}
