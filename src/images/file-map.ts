/**
 * A file's bytes as ranges of devices, worked out once from its extents: flat arrays, 20 bytes a run. The
 * devices' own maps do the rest, so a file is read without a promise or an allocation.
 */
import type { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { FileExtent } from '../erofs/index.ts'
import type { PieceVisitor, RangeMap } from './range-map.ts'

const RUN_BYTES = 20
/** Of an object with its arrays; measured, rounded up. */
const OVERHEAD_BYTES = 512
const HOLE = 0xffff_ffff

export class FileMap implements RangeMap {
  readonly size: number
  readonly #devices: readonly RangeMap[]
  /** Offset in the file where each run starts. */
  readonly #starts: Float64Array
  /** Index into #devices, or HOLE. */
  readonly #device: Uint32Array
  readonly #deviceOffset: Float64Array

  /** @param extents in order, covering the file without a gap, inside their devices */
  constructor(extents: readonly FileExtent[], devices: readonly RangeMap[]) {
    this.#devices = devices
    this.#starts = new Float64Array(extents.length)
    this.#device = new Uint32Array(extents.length)
    this.#deviceOffset = new Float64Array(extents.length)
    let size = 0
    for (const [run, extent] of extents.entries()) {
      this.#starts[run] = size
      this.#device[run] = extent.kind === 'data' ? extent.device : HOLE
      this.#deviceOffset[run] = extent.kind === 'data' ? extent.deviceOffset : 0
      size += extent.length
    }
    this.size = size
  }

  get memoryBytes(): number {
    return OVERHEAD_BYTES + this.#starts.length * RUN_BYTES
  }

  mapRange(offset: number, length: number, out: RunList): void {
    checkRange(this.size, offset, length)
    const end = offset + length
    let run = this.#runAt(offset)
    for (let at = offset; at < end; run++) {
      const stop = Math.min(end, this.#starts[run + 1] ?? this.size)
      const device = this.#devices[this.#device[run] ?? HOLE]
      const from = (this.#deviceOffset[run] ?? 0) + (at - (this.#starts[run] ?? 0))
      if (device === undefined) out.pushZeros(stop - at)
      else device.mapRange(from, stop - at, out)
      at = stop
    }
  }

  visitRange(offset: number, length: number, visitor: PieceVisitor): void {
    checkRange(this.size, offset, length)
    const end = offset + length
    let run = this.#runAt(offset)
    for (let at = offset; at < end; run++) {
      const stop = Math.min(end, this.#starts[run + 1] ?? this.size)
      const device = this.#devices[this.#device[run] ?? HOLE]
      const from = (this.#deviceOffset[run] ?? 0) + (at - (this.#starts[run] ?? 0))
      if (device === undefined) visitor.zeros(stop - at)
      else device.visitRange(from, stop - at, visitor)
      at = stop
    }
  }

  /** The last run that starts at or before `offset`. */
  #runAt(offset: number): number {
    let from = 0
    let to = this.#starts.length
    while (to - from > 1) {
      const middle = (from + to) >>> 1
      if ((this.#starts[middle] ?? Infinity) > offset) to = middle
      else from = middle
    }
    return from
  }
}
