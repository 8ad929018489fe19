/**
 * A device that was laid out and not written: metadata from a spool file, file data from the archives that it
 * came in, zeros between. It is read as if it were a file, so that what it becomes in the store is checked like any
 * other image.
 */
import { rowsInOrder, Float64Column, Uint32Column, upperBound } from '../import/columns.ts'
import type { DeviceBytes } from '../import/device-reader.ts'
import type { SourceFile } from '../import/source-file.ts'

export class BuiltDevice implements DeviceBytes {
  readonly size: number
  readonly #sources: SourceFile[] = []
  readonly #start = new Float64Column()
  readonly #length = new Float64Column()
  readonly #source = new Uint32Column()
  readonly #offset = new Float64Column()
  /** Rows in the order of their starts, once reading begins. */
  #order: Uint32Array | undefined
  #starts = new Float64Array(0)

  constructor(size: number) {
    this.size = size
  }

  /** Bytes of the device are those of a source. No byte of the device may be given twice. */
  add(start: number, length: number, source: SourceFile, offset: number): void {
    if (this.#sources.at(-1) !== source) this.#sources.push(source)
    this.#start.push(start)
    this.#length.push(length)
    this.#source.push(this.#sources.length - 1)
    this.#offset.push(offset)
  }

  read(target: Buffer, position: number): void {
    const order = this.#sorted()
    const end = position + target.length
    let at = position
    for (
      let index = Math.max(0, upperBound(this.#starts, position) - 1);
      index < order.length;
      index++
    ) {
      const row = order[index] ?? 0
      const start = this.#start.at(row)
      if (start >= end) break
      const from = Math.max(at, start)
      const to = Math.min(end, start + this.#length.at(row))
      if (to <= from) continue
      target.fill(0, at - position, from - position)
      const source = this.#sources[this.#source.at(row)]
      source?.read(
        target.subarray(from - position, to - position),
        this.#offset.at(row) + (from - start),
      )
      at = to
    }
    target.fill(0, at - position)
  }

  /** The sources are their owners'. */
  [Symbol.dispose](): void {
    this.#sources.length = 0
  }

  #sorted(): Uint32Array {
    if (this.#order === undefined) {
      this.#order = rowsInOrder(this.#start.view())
      this.#starts = Float64Array.from(this.#order, (row) => this.#start.at(row))
    }
    return this.#order
  }
}
