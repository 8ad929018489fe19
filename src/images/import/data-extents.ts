/**
 * Which device bytes are file data, and which file owns them: one row for every run of device bytes that
 * a regular file refers to, 28 bytes each. Files may refer to the same bytes (mkfs stores equal files
 * once) and, in damaged images, to overlapping ones; `claim` settles the owner of every byte. Only numbers:
 * nothing is read here.
 */
import { Float64Column, rowsInOrder, Uint32Column } from './columns.ts'

/** Half-open ranges of addresses, ascending and disjoint. */
export interface Intervals {
  readonly starts: Float64Array
  readonly ends: Float64Array
}

export class DataExtents {
  /** Import address of the first byte. */
  readonly address = new Float64Column()
  readonly length = new Float64Column()
  /** Offset in the file. */
  readonly logical = new Float64Column()
  /**
   * The row owns [owned, address + length): the bytes that no row before it claimed. Filled by `claim`.
   */
  #owned: Float64Array = new Float64Array(0)
  /** Of each file: its first row, and its size. */
  readonly firstRow = new Uint32Column()
  readonly fileSize = new Float64Column()

  get files(): number {
    return this.firstRow.length
  }

  get rows(): number {
    return this.address.length
  }

  /** Starts the rows of the next file. */
  beginFile(sizeBytes: number): void {
    this.firstRow.push(this.rows)
    this.fileSize.push(sizeBytes)
  }

  /** A run of the file begun last, in the order of the file. */
  add(address: number, length: number, logical: number): void {
    const last = this.rows - 1
    const sameFile = last >= this.firstRow.at(this.files - 1)
    const end = this.address.at(last) + this.length.at(last)
    const logicalEnd = this.logical.at(last) + this.length.at(last)
    if (sameFile && end === address && logicalEnd === logical) {
      this.length.set(last, this.length.at(last) + length)
      return
    }
    this.address.push(address)
    this.length.push(length)
    this.logical.push(logical)
  }

  /** Row after the last one of a file. */
  endRow(file: number): number {
    return file + 1 < this.files ? this.firstRow.at(file + 1) : this.rows
  }

  /** Files that have bytes on a device, in the order of their first byte there: reading them reads forward. */
  filesInDeviceOrder(): Uint32Array {
    const keys = new Float64Array(this.files)
    for (let file = 0; file < this.files; file++) {
      const row = this.firstRow.at(file)
      keys[file] = row < this.endRow(file) ? this.address.at(row) : Infinity
    }
    const order = rowsInOrder(keys)
    let used = order.length
    while (used > 0 && keys[order[used - 1] ?? 0] === Infinity) used--
    return order.subarray(0, used)
  }

  /**
   * Settles the owners, in the order of addresses: the first row that reaches a byte owns it. Bytes of
   * `taken` are owned by nobody.
   *
   * @returns what file data covers, `taken` included
   */
  claim(taken: Intervals): Intervals {
    const owned = new Float64Array(this.rows)
    const starts = new Float64Column()
    const ends = new Float64Column()
    let takenAt = 0
    let end = 0
    const cover = (from: number, to: number): void => {
      if (starts.length > 0 && ends.at(ends.length - 1) >= from) {
        ends.set(ends.length - 1, Math.max(to, ends.at(ends.length - 1)))
      } else {
        starts.push(from)
        ends.push(to)
      }
      end = Math.max(end, to)
    }
    const coverTakenUpTo = (address: number): void => {
      while (takenAt < taken.starts.length && (taken.starts[takenAt] ?? 0) <= address) {
        cover(taken.starts[takenAt] ?? 0, taken.ends[takenAt] ?? 0)
        takenAt++
      }
    }
    for (const row of rowsInOrder(this.address.view())) {
      const from = this.address.at(row)
      const to = from + this.length.at(row)
      coverTakenUpTo(from)
      owned[row] = Math.min(Math.max(from, end), to)
      if ((owned[row] ?? to) < to) cover(owned[row] ?? to, to)
    }
    coverTakenUpTo(Infinity)
    this.#owned = owned
    return { starts: starts.view(), ends: ends.view() }
  }

  /** First address of the row that it owns; the row's end when it owns nothing. */
  ownedFrom(row: number): number {
    return this.#owned[row] ?? Infinity
  }
}
