/**
 * A device's address map as the read path uses it: a binary search over the decoded map, which stays
 * where it is (shared memory), and a walk from there. It neither loads maps nor reads bytes.
 */
import type { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { DeviceMap } from '../store/index.ts'
import { EXTENT, EXTENT_WORDS } from '../store/index.ts'
import type { PieceVisitor, RangeMap, ViewBlob } from './range-map.ts'

const TWO_32 = 0x1_0000_0000
/**
 * Extents of one stride, 1,280 bytes of the map. The first starts of all strides are kept in memory of their
 * own, 0.6 % of the map: they stay in the processor's cache, where a million extents do not.
 */
const STRIDE = 64

export class AddressMap implements RangeMap {
  readonly size: number
  readonly extentCount: number
  readonly #words: Uint32Array
  /** By source number − 1, as in the map's own blob table. */
  readonly #blobs: readonly ViewBlob[]
  readonly #blobNos: Uint32Array
  readonly #ordinalBases: Float64Array
  /** Where every STRIDE-th extent starts. */
  readonly #strides: Float64Array

  /**
   * @param map validated: its extents ascend, start at 0 and lie inside their blobs
   * @param blobs for each entry of `map.blobs`, in order
   */
  constructor(map: DeviceMap, blobs: readonly ViewBlob[]) {
    if (blobs.length !== map.blobs.length) {
      throw new RangeError(`${blobs.length} blobs for a map of ${map.blobs.length}`)
    }
    this.size = map.size
    this.extentCount = map.extentCount
    this.#words = map.extents
    this.#blobs = blobs
    this.#blobNos = Uint32Array.from(blobs, (blob) => blob.blobNo)
    this.#ordinalBases = Float64Array.from(blobs, (blob) => blob.ordinalBase)
    this.#strides = new Float64Array(Math.ceil(map.extentCount / STRIDE))
    for (let stride = 0; stride < this.#strides.length; stride++) {
      this.#strides[stride] = this.#startOf(stride * STRIDE)
    }
  }

  mapRange(offset: number, length: number, out: RunList): void {
    checkRange(this.size, offset, length)
    const words = this.#words
    const end = offset + length
    let index = this.#extentAt(offset)
    for (let at = offset; at < end; index++) {
      const word = index * EXTENT_WORDS
      const stop = Math.min(end, this.#startOf(index + 1))
      const source = words[word + EXTENT.source] ?? 0
      if (source === 0) {
        out.pushZeros(stop - at)
      } else {
        const from =
          (words[word + EXTENT.blobHigh] ?? 0) * TWO_32 +
          (words[word + EXTENT.blobLow] ?? 0) +
          (at - this.#startOf(index))
        out.push(
          this.#blobNos[source - 1] ?? 0,
          from,
          stop - at,
          this.#ordinalBases[source - 1] ?? 0,
        )
      }
      at = stop
    }
  }

  visitRange(offset: number, length: number, visitor: PieceVisitor): void {
    checkRange(this.size, offset, length)
    const words = this.#words
    const end = offset + length
    let index = this.#extentAt(offset)
    for (let at = offset; at < end; index++) {
      const word = index * EXTENT_WORDS
      const stop = Math.min(end, this.#startOf(index + 1))
      const blob = this.#blobs[(words[word + EXTENT.source] ?? 0) - 1]
      if (blob === undefined) {
        visitor.zeros(stop - at)
      } else {
        const from =
          (words[word + EXTENT.blobHigh] ?? 0) * TWO_32 + (words[word + EXTENT.blobLow] ?? 0)
        visitor.piece(blob, from + (at - this.#startOf(index)), stop - at)
      }
      at = stop
    }
  }

  /** Device offset where an extent starts; the device's size after the last one. */
  #startOf(index: number): number {
    if (index >= this.extentCount) return this.size
    const word = index * EXTENT_WORDS
    return (
      (this.#words[word + EXTENT.deviceHigh] ?? 0) * TWO_32 +
      (this.#words[word + EXTENT.deviceLow] ?? 0)
    )
  }

  /** The last extent that starts at or before `offset`. */
  #extentAt(offset: number): number {
    const strides = this.#strides
    let from = 0
    let to = strides.length
    while (to - from > 1) {
      const middle = (from + to) >>> 1
      if ((strides[middle] ?? Infinity) > offset) to = middle
      else from = middle
    }
    from *= STRIDE
    to = Math.min(from + STRIDE, this.extentCount)
    while (to - from > 1) {
      const middle = (from + to) >>> 1
      if (this.#startOf(middle) > offset) to = middle
      else from = middle
    }
    return from
  }
}
