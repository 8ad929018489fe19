/**
 * How device bytes that are not file data are cut into pieces: at the borders of inode records,
 * directory blocks and tails that the survey found, and at 4 KiB blocks; where there is no border for a
 * whole window of 64 KiB, that window is one piece. Only numbers: nothing is read here.
 */
import { KIB } from '../../core/index.ts'
import { Float64Column, upperBound } from './columns.ts'

/** Metadata is read in such blocks by every client, so a piece never crosses one. */
export const METADATA_BLOCK_BYTES = 4 * KIB
/** Bytes without structure: images that cannot be parsed, and the data of compressed files. */
export const FIXED_PIECE_BYTES = 64 * KIB

/** `packed`: goes to region 2 in device order. `block`: its whole blocks go to region 1. */
export type PieceKind = 'packed' | 'block'

export class CutPoints {
  readonly #points = new Float64Column()
  #sorted: Float64Array | undefined

  /** An import address where a piece must end and the next one start. */
  add(address: number): void {
    this.#points.push(address)
    this.#sorted = undefined
  }

  get sorted(): Float64Array {
    this.#sorted ??= this.#points.view().toSorted()
    return this.#sorted
  }
}

/** A device's place among the import addresses. */
export interface DeviceSpan {
  /** A multiple of FIXED_PIECE_BYTES, so that addresses and device offsets have the same block borders. */
  readonly base: number
  /** Bytes. */
  readonly size: number
}

/** Cuts [from, to) of one device and calls `visit` with each piece, ascending, without a gap. */
export function cutIntoPieces(
  from: number,
  to: number,
  device: DeviceSpan,
  points: CutPoints,
  visit: (address: number, length: number, kind: PieceKind) => void,
): void {
  const sorted = points.sorted
  let next = upperBound(sorted, from)
  let at = from
  while (at < to) {
    while ((sorted[next] ?? Infinity) <= at) next++
    const border = sorted[next] ?? Infinity
    const window = Math.min(at + FIXED_PIECE_BYTES, device.base + device.size)
    if (at % FIXED_PIECE_BYTES === 0 && window <= Math.min(to, border)) {
      visit(at, window - at, 'block')
      at = window
      continue
    }
    const blockEnd = (Math.floor(at / METADATA_BLOCK_BYTES) + 1) * METADATA_BLOCK_BYTES
    const end = Math.min(to, border, blockEnd)
    visit(at, end - at, 'packed')
    at = end
  }
}
