/**
 * Where the bytes of one chunk lie on the devices, and which of them the chunk's file owns. One object is
 * filled again for every chunk, so that cutting allocates nothing per chunk.
 */
import type { DataExtents } from './data-extents.ts'
import type { MappingTable } from './mapping-table.ts'

export class ChunkParts {
  readonly #address: Float64Array
  readonly #length: Float64Array
  /** Offset in the chunk. */
  readonly #offset: Float64Array
  /** Import address of the first owned byte of the part; the part's end when it owns none. */
  readonly #owned: Float64Array
  #count = 0
  #chunkLength = 0
  #ownedBytes = 0

  /** @param maxParts the most that a chunk can have: its bytes over the smallest block */
  constructor(maxParts: number) {
    this.#address = new Float64Array(maxParts)
    this.#length = new Float64Array(maxParts)
    this.#offset = new Float64Array(maxParts)
    this.#owned = new Float64Array(maxParts)
  }

  /** Bytes of the chunk, holes included. */
  get length(): number {
    return this.#chunkLength
  }

  /** Device bytes that the chunk's file owns. */
  get ownedBytes(): number {
    return this.#ownedBytes
  }

  /** The import address of all of the chunk's bytes when they lie in one piece, otherwise −1. */
  get onlyAddress(): number {
    return this.#count === 1 && this.#length[0] === this.#chunkLength
      ? (this.#address[0] ?? -1)
      : -1
  }

  /**
   * Takes the chunk [start, start + length) of a file whose rows are [row, endRow), ascending by logical
   * offset.
   *
   * @returns the first row that reaches beyond the chunk
   */
  take(extents: DataExtents, row: number, endRow: number, start: number, length: number): number {
    this.#count = 0
    this.#chunkLength = length
    this.#ownedBytes = 0
    const end = start + length
    let at = row
    for (; at < endRow; at++) {
      const logical = extents.logical.at(at)
      if (logical >= end) break
      const rowEnd = logical + extents.length.at(at)
      const from = Math.max(logical, start)
      const to = Math.min(rowEnd, end)
      if (to > from) {
        const address = extents.address.at(at) + (from - logical)
        this.#push(address, to - from, from - start, extents.ownedFrom(at))
      }
      if (rowEnd > end) break
    }
    return at
  }

  /** Copies the chunk's bytes; holes become zeros. `read` copies device bytes. */
  gather(target: Buffer, read: (address: number, target: Buffer) => void): void {
    let filled = 0
    for (let part = 0; part < this.#count; part++) {
      const offset = this.#offset[part] ?? 0
      const end = offset + (this.#length[part] ?? 0)
      if (offset > filled) target.fill(0, filled, offset)
      read(this.#address[part] ?? 0, target.subarray(offset, end))
      filled = end
    }
    target.fill(0, filled, this.#chunkLength)
  }

  /** Says that the chunk's bytes [from, to) are those at `sourceOffset` of a source, for all that is owned. */
  map(
    mappings: MappingTable,
    from: number,
    to: number,
    source: number,
    sourceOffset: number,
  ): void {
    this.visitOwned(from, to, (address, length, offset) => {
      mappings.add(address, length, source, sourceOffset + (offset - from))
    })
  }

  /** Owned device bytes of the chunk's range [from, to): address, length, offset in the chunk. */
  visitOwned(
    from: number,
    to: number,
    visit: (address: number, length: number, offset: number) => void,
  ): void {
    for (let part = 0; part < this.#count; part++) {
      const address = this.#address[part] ?? 0
      const shift = (this.#offset[part] ?? 0) - address
      const first = Math.max(this.#owned[part] ?? 0, from - shift)
      const end = Math.min(address + (this.#length[part] ?? 0), to - shift)
      if (end > first) visit(first, end - first, first + shift)
    }
  }

  /** The address of the range [from, to) when one part holds and owns all of it, otherwise −1. */
  ownedAddress(from: number, to: number): number {
    let found = -1
    this.visitOwned(from, to, (address, length) => {
      if (length === to - from) found = address
    })
    return found
  }

  /** Whether any byte of the range [from, to) is owned. */
  ownsAny(from: number, to: number): boolean {
    let found = false
    this.visitOwned(from, to, () => {
      found = true
    })
    return found
  }

  #push(address: number, length: number, offset: number, ownedFrom: number): void {
    const part = this.#count++
    const end = address + length
    const owned = Math.min(Math.max(ownedFrom, address), end)
    this.#address[part] = address
    this.#length[part] = length
    this.#offset[part] = offset
    this.#owned[part] = owned
    this.#ownedBytes += end - owned
  }
}
