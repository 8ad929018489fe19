/** A blob read by its own address space: the simplest range map. */
import type { RunList } from '../cache/index.ts'
import { checkRange } from '../core/index.ts'
import type { PieceVisitor, RangeMap, ViewBlob } from './range-map.ts'

export class BlobMap implements RangeMap {
  readonly size: number
  readonly #blob: ViewBlob

  constructor(blob: ViewBlob) {
    this.size = blob.size
    this.#blob = blob
  }

  mapRange(offset: number, length: number, out: RunList): void {
    checkRange(this.size, offset, length)
    out.push(this.#blob.blobNo, offset, length, this.#blob.ordinalBase)
  }

  visitRange(offset: number, length: number, visitor: PieceVisitor): void {
    checkRange(this.size, offset, length)
    if (length > 0) visitor.piece(this.#blob, offset, length)
  }
}
