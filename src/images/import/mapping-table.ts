/**
 * Where every device byte of an import ends up: rows (import address, length, source, offset in the
 * source), 28 bytes each, neighbours that continue each other joined. Bytes without a row are zeros.
 */
import { MapBuilder } from '../../store/index.ts'
import { Float64Column, rowsInOrder, Uint32Column } from './columns.ts'
import type { DeviceSpan } from './metadata-cuts.ts'

export class MappingTable {
  readonly #address = new Float64Column()
  readonly #length = new Float64Column()
  readonly #source = new Uint32Column()
  readonly #offset = new Float64Column()

  get rows(): number {
    return this.#address.length
  }

  /** The bytes at `address` are those at `offset` of a source. No byte may be mapped twice. */
  add(address: number, length: number, source: number, offset: number): void {
    if (this.endsAt(address, source, offset)) {
      const last = this.rows - 1
      this.#length.set(last, this.#length.at(last) + length)
      return
    }
    this.#address.push(address)
    this.#length.push(length)
    this.#source.push(source)
    this.#offset.push(offset)
  }

  /** True when the row added last ends at `address` and at `offset` of `source`. */
  endsAt(address: number, source: number, offset: number): boolean {
    const last = this.rows - 1
    const lastLength = this.#length.at(last)
    return (
      this.#source.at(last) === source &&
      this.#address.at(last) + lastLength === address &&
      this.#offset.at(last) + lastLength === offset
    )
  }

  /** Bytes mapped to sources from `firstSource` on, by source. */
  bytesBySource(firstSource: number): Map<number, number> {
    const bytes = new Map<number, number>()
    for (let row = 0; row < this.rows; row++) {
      const source = this.#source.at(row)
      if (source < firstSource) continue
      bytes.set(source, (bytes.get(source) ?? 0) + this.#length.at(row))
    }
    return bytes
  }

  /**
   * The map of each device, with sources 1 to `sources`. Addresses outside of all devices must not have
   * been mapped.
   */
  build(devices: readonly DeviceSpan[], sources: number): MapBuilder[] {
    const order = rowsInOrder(this.#address.view())
    let at = 0
    return devices.map((device) => {
      const builder = new MapBuilder()
      for (let source = 0; source < sources; source++) builder.addSource()
      for (; at < order.length; at++) {
        const row = order[at] ?? 0
        const offset = this.#address.at(row) - device.base
        if (offset >= device.size) break
        builder.addZeros(offset - builder.size)
        builder.addPiece(this.#length.at(row), this.#source.at(row), this.#offset.at(row))
      }
      builder.addZeros(device.size - builder.size)
      return builder
    })
  }
}
