/**
 * The device table and what an address means: turns (device id, byte, length) of the format into ranges of
 * the devices that the caller really holds. Does no I/O beyond reading the table once, at open.
 */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import { erofsError } from './errors.ts'
import type { ExtentList } from './extent-list.ts'
import { DEVT_SLOT, DEVT_SLOT_SIZE, DEVT_TAG_SIZE } from './layout.ts'
import { TWO_TO_32, viewOf } from './little-endian.ts'
import { hasIncompat } from './features.ts'
import type { Superblock } from './superblock.ts'

export interface DeviceSlot {
  /** Free text without its NUL padding: a blob's digest, an image's UUID, or empty. */
  readonly tag: Uint8Array
  /** 0 when the writer did not say (mkfs 1.5). */
  readonly blocks: number
  /** First block in the unified address space; 0 when the writer gave none. */
  readonly uniaddr: number
}

/**
 * `flattened`: everything on one device, at unified addresses (Linux 6.4). `separate`: one device each, in
 * slot order. `single`: there is no device table.
 */
export type Addressing = 'single' | 'flattened' | 'separate'

/** @throws ERR_EROFS_BAD_DEVICE_TABLE when the table is not inside the primary device. */
export async function readDeviceTable(
  source: ByteSource,
  sb: Superblock,
  options?: ReadOptions,
): Promise<readonly DeviceSlot[]> {
  const length = sb.extraDevices * DEVT_SLOT_SIZE
  if (length === 0) return []
  if (sb.deviceTableOffset + length > source.size) {
    throw erofsError(
      'ERR_EROFS_BAD_DEVICE_TABLE',
      `device table of ${sb.extraDevices} slots at byte ${sb.deviceTableOffset} ` +
        `runs over the end of the image at ${source.size}`,
    )
  }
  const bytes = await source.read(sb.deviceTableOffset, length, options)
  const wide = hasIncompat(sb.features, '48BIT')
  return Array.from({ length: sb.extraDevices }, (_, index) =>
    decodeDeviceSlot(bytes.subarray(index * DEVT_SLOT_SIZE, (index + 1) * DEVT_SLOT_SIZE), wide),
  )
}

export function decodeDeviceSlot(bytes: Uint8Array, wide: boolean): DeviceSlot {
  const view = viewOf(bytes)
  const tag = bytes.subarray(DEVT_SLOT.tag, DEVT_SLOT.tag + DEVT_TAG_SIZE)
  const nul = tag.indexOf(0)
  const high = (off: number): number => (wide ? view.getUint16(off, true) * TWO_TO_32 : 0)
  return {
    tag: tag.slice(0, nul < 0 ? tag.length : nul),
    blocks: view.getUint32(DEVT_SLOT.blocks_lo, true) + high(DEVT_SLOT.blocks_hi),
    uniaddr: view.getUint32(DEVT_SLOT.uniaddr_lo, true) + high(DEVT_SLOT.uniaddr_hi),
  }
}

interface UnifiedRange {
  /** Bytes in the unified address space. */
  readonly start: number
  readonly end: number
  readonly device: number
}

export interface DeviceAddressesInput {
  readonly sb: Superblock
  readonly slots: readonly DeviceSlot[]
  readonly addressing: Addressing
  /** Bytes. */
  readonly primarySize: number
  /** Bytes of each extra device in slot order, where the caller knows them. */
  readonly extraSizes: readonly number[] | undefined
}

/** fs/erofs/super.c: erofs_init_device; fs/erofs/data.c: erofs_map_dev. */
export class DeviceAddresses {
  readonly addressing: Addressing
  readonly #blockSize: number
  readonly #slots: readonly DeviceSlot[]
  readonly #idMask: number
  /** Bytes of each device; Infinity where nobody says. */
  readonly #sizes: readonly number[]
  /** Sorted and disjoint. Empty unless separate. */
  readonly #unified: readonly UnifiedRange[]

  /** @throws ERR_EROFS_BAD_DEVICE_TABLE when unified ranges overlap. */
  constructor(input: DeviceAddressesInput) {
    const { sb, slots, addressing } = input
    this.addressing = addressing
    this.#blockSize = sb.blockSize
    this.#slots = slots
    this.#idMask = 2 ** Math.ceil(Math.log2(slots.length + 1)) - 1
    this.#sizes = [
      input.primarySize,
      ...slots.map((slot, index) => input.extraSizes?.[index] ?? declaredSize(slot, sb.blockSize)),
    ]
    const unified = unifiedRanges(slots, sb.blockSize)
    this.#unified = addressing === 'separate' ? unified : []
  }

  /** Upper bits of a stored device id belong to other users of the field (Nydus). */
  maskDeviceId(stored: number): number {
    return stored & this.#idMask
  }

  /**
   * Adds where [start, start + length) of device `id` really lies.
   * @throws ERR_EROFS_OUT_OF_BOUNDS, ERR_EROFS_BAD_CHUNK_TABLE for an id without slot,
   * ERR_EROFS_DEVICE_UNAVAILABLE in a flattened image that the slot's device is not a part of
   */
  place(list: ExtentList, id: number, start: number, length: number): void {
    if (id === 0) this.#placeUnified(list, start, length)
    else this.#placeExtra(list, id, start, length)
  }

  /** Adds a range of the primary device as it is: metadata is never redirected. */
  placeMetadata(list: ExtentList, start: number, length: number): void {
    this.#add(list, 0, start, length)
  }

  #placeExtra(list: ExtentList, id: number, start: number, length: number): void {
    const slot = this.#slots[id - 1]
    if (slot === undefined) {
      throw erofsError(
        'ERR_EROFS_BAD_CHUNK_TABLE',
        `a chunk lies on device ${id}, the image has ${this.#slots.length} extra devices`,
      )
    }
    if (this.addressing === 'separate') {
      this.#add(list, id, start, length)
      return
    }
    const deviceStart = slot.uniaddr * this.#blockSize
    if (deviceStart === 0 || deviceStart >= (this.#sizes[0] ?? 0)) {
      throw erofsError(
        'ERR_EROFS_DEVICE_UNAVAILABLE',
        `a chunk lies on device ${id}, which was not given and is not part of device 0`,
      )
    }
    this.#add(list, 0, deviceStart + start, length)
  }

  #placeUnified(list: ExtentList, start: number, length: number): void {
    let position = start
    const end = start + length
    for (let index = this.#firstRangeAfter(start); position < end; index++) {
      const range = this.#unified[index]
      const gapEnd = Math.min(end, range?.start ?? Infinity)
      if (gapEnd > position) this.#add(list, 0, position, gapEnd - position)
      position = Math.max(position, gapEnd)
      if (range === undefined || position >= end) return
      const rangeEnd = Math.min(end, range.end)
      this.#add(list, range.device, position - range.start, rangeEnd - position)
      position = rangeEnd
    }
  }

  /** Index of the first unified range that ends after `position`. */
  #firstRangeAfter(position: number): number {
    let low = 0
    let high = this.#unified.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#unified[middle]?.end ?? Infinity) > position) high = middle
      else low = middle + 1
    }
    return low
  }

  #add(list: ExtentList, device: number, start: number, length: number): void {
    const size = this.#sizes[device] ?? 0
    if (start + length > size) {
      throw erofsError(
        'ERR_EROFS_OUT_OF_BOUNDS',
        `data at byte ${start}, ${length} long, runs over the end of device ${device} at ${size}`,
      )
    }
    list.addData(device, start, length)
  }
}

function declaredSize(slot: DeviceSlot, blockSize: number): number {
  return slot.blocks === 0 ? Infinity : slot.blocks * blockSize
}

function unifiedRanges(slots: readonly DeviceSlot[], blockSize: number): UnifiedRange[] {
  const ranges = slots
    .map((slot, index) => ({
      start: slot.uniaddr * blockSize,
      end: (slot.uniaddr + slot.blocks) * blockSize,
      device: index + 1,
    }))
    .filter((range) => range.start !== 0 && range.end > range.start)
    .toSorted((a, b) => a.start - b.start)
  for (const [index, range] of ranges.entries()) {
    const next = ranges[index + 1]
    if (next !== undefined && next.start < range.end) {
      throw erofsError(
        'ERR_EROFS_BAD_DEVICE_TABLE',
        `devices ${range.device} and ${next.device} overlap in the unified address space`,
      )
    }
  }
  return ranges
}
