/**
 * The bytes of one blob as the devices that are imported have them: an address map turned round, from ranges of
 * the blob to import addresses. It does not know whether the map is right: whoever uses it checks a digest.
 */
import type { Digest } from '../../core/index.ts'
import type { DeviceMap } from '../../store/index.ts'
import { AddressMap } from '../address-map.ts'
import { Float64Column, rowsInOrder } from './columns.ts'
import type { DeviceReader } from './device-reader.ts'

export class SourcePatch {
  readonly #reader: DeviceReader
  /** Runs of the blob in order, which do not overlap. */
  readonly #starts = new Float64Column()
  readonly #lengths = new Float64Column()
  readonly #addresses = new Float64Column()
  #next = 0

  /** @param maps of the reader's devices, in order; undefined: nothing is known of the device */
  constructor(reader: DeviceReader, maps: readonly (DeviceMap | undefined)[], blob: Digest) {
    this.#reader = reader
    const starts = new Float64Column()
    const lengths = new Float64Column()
    const addresses = new Float64Column()
    for (const [device, map] of maps.entries()) {
      if (map === undefined) continue
      let address = reader.devices[device]?.base ?? 0
      const blobs = map.blobs.map((one) => ({ ...one, blobNo: 0, ordinalBase: 0 }))
      new AddressMap(map, blobs).visitRange(0, map.size, {
        piece: ({ digest }, offset, length) => {
          if (digest === blob) {
            starts.push(offset)
            lengths.push(length)
            addresses.push(address)
          }
          address += length
        },
        zeros: (length) => {
          address += length
        },
      })
    }
    let end = 0
    for (const row of rowsInOrder(starts.view())) {
      const start = Math.max(end, starts.at(row))
      const skipped = start - starts.at(row)
      const length = lengths.at(row) - skipped
      if (length <= 0) continue
      this.#starts.push(start)
      this.#lengths.push(length)
      this.#addresses.push(addresses.at(row) + skipped)
      end = start + length
    }
  }

  /**
   * Writes what the devices have of the blob's bytes from `offset` over `target`, at most 1 MiB. Calls go
   * upwards. Yields the bytes of each step.
   */
  *copyInto(offset: number, target: Buffer): Generator<number, void, void> {
    const end = offset + target.length
    for (; this.#next < this.#starts.length; this.#next++) {
      const start = this.#starts.at(this.#next)
      const stop = start + this.#lengths.at(this.#next)
      const from = Math.max(start, offset)
      const to = Math.min(stop, end)
      if (from < to) {
        const address = this.#addresses.at(this.#next) + (from - start)
        this.#reader.copy(address, target.subarray(from - offset, to - offset))
        yield to - from
      }
      // The rest of this run belongs to the next call.
      if (stop > end) return
    }
  }
}
