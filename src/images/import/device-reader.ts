/**
 * The bytes of the devices that are imported, laid one after the other in one space of import addresses and
 * read in large pieces. Devices never touch there, so that nothing continues from one into the next. Runs in
 * the import process, where synchronous reads are the fastest ones. What the bytes mean is not known here.
 */
import { createHash } from 'node:crypto'

import type { ByteSource, Digest } from '../../core/index.ts'
import { checkRange, KIB, MIB } from '../../core/index.ts'
import { imageError } from '../errors.ts'
import { SourceFile } from './source-file.ts'
import type { DeviceSpan } from './metadata-cuts.ts'
import { FIXED_PIECE_BYTES } from './metadata-cuts.ts'

/** Large enough that the cost of a system call does not show, small enough to stay in the L2/L3 cache. */
const DATA_WINDOW_BYTES = MIB
/** Tails and records lie close together: a window of their own keeps the data window in place. */
const SMALL_WINDOW_BYTES = 256 * KIB
const SMALL_READ_BYTES = 4 * KIB

/** The bytes of one device, wherever they are. Reads are synchronous. */
export interface DeviceBytes extends Disposable {
  /** Bytes. */
  readonly size: number
  /** Fills `target` from `position`; the range lies inside the device. @throws ERR_IMPORT_SOURCE */
  read(target: Buffer, position: number): void
}

interface OpenDevice extends DeviceSpan {
  readonly bytes: DeviceBytes
}

interface Window {
  readonly bytes: Buffer
  /** Import address of its first byte. */
  start: number
  length: number
}

export class DeviceReader implements Disposable {
  readonly devices: readonly DeviceSpan[]
  readonly #open: readonly OpenDevice[]
  readonly #data: Window = newWindow(DATA_WINDOW_BYTES)
  readonly #small: Window = newWindow(SMALL_WINDOW_BYTES)

  private constructor(open: readonly OpenDevice[]) {
    this.#open = open
    this.devices = open
  }

  /** @throws ERR_IMPORT_SOURCE, ERR_IMPORT_EMPTY */
  static open(paths: readonly string[]): DeviceReader {
    const files: SourceFile[] = []
    try {
      for (const path of paths) files.push(SourceFile.open(path))
      return DeviceReader.of(files)
    } catch (error) {
      for (const file of files) file[Symbol.dispose]()
      throw error
    }
  }

  /** Owns the devices once it is there. @throws ERR_IMPORT_EMPTY */
  static of(devices: readonly DeviceBytes[]): DeviceReader {
    let base = 0
    const open = devices.map((bytes, index) => {
      const { size } = bytes
      if (size === 0) throw imageError('ERR_IMPORT_EMPTY', `device ${index} has no bytes`)
      const device = { bytes, base, size }
      base += (Math.ceil(size / FIXED_PIECE_BYTES) + 1) * FIXED_PIECE_BYTES
      return device
    })
    return new DeviceReader(open)
  }

  /** Bytes of all devices. */
  get totalSize(): number {
    return this.#open.reduce((sum, device) => sum + device.size, 0)
  }

  /** sha256 of a device. Yields the bytes of each step. */
  *digest(index: number): Generator<number, Digest, void> {
    const device = this.#device(index)
    const hasher = createHash('sha256')
    const buffer = Buffer.allocUnsafe(DATA_WINDOW_BYTES) // overwritten by every read before it is used
    for (let at = 0; at < device.size;) {
      const length = Math.min(buffer.length, device.size - at)
      device.bytes.read(buffer.subarray(0, length), at)
      hasher.update(buffer.subarray(0, length))
      at += length
      yield length
    }
    return `sha256:${hasher.digest('hex')}`
  }

  /** The bytes at an import address, in memory that the next call may overwrite. At most 1 MiB, inside one device. */
  view(address: number, length: number): Buffer {
    if (length > DATA_WINDOW_BYTES) throw new RangeError(`view of ${length} bytes`)
    for (const window of [this.#data, this.#small]) {
      const offset = address - window.start
      if (offset >= 0 && offset + length <= window.length) {
        return window.bytes.subarray(offset, offset + length)
      }
    }
    const window = length <= SMALL_READ_BYTES ? this.#small : this.#data
    this.#fill(window, address, length)
    return window.bytes.subarray(0, length)
  }

  /** Copies the bytes at an import address. */
  copy(address: number, target: Buffer): void {
    this.view(address, target.length).copy(target)
  }

  /** A device as the EROFS reader wants it; the reader brings its own windows where it reads much. */
  source(index: number): ByteSource {
    const device = this.#device(index)
    return {
      size: device.size,
      read(offset, length) {
        checkRange(device.size, offset, length)
        const bytes = Buffer.allocUnsafeSlow(length) // overwritten by the read
        device.bytes.read(bytes, offset)
        return Promise.resolve(bytes)
      },
    }
  }

  [Symbol.dispose](): void {
    for (const device of this.#open) device.bytes[Symbol.dispose]()
  }

  #fill(window: Window, address: number, length: number): void {
    const device = this.#open.findLast((one) => one.base <= address)
    const offset = address - (device?.base ?? 0)
    if (device === undefined || offset + length > device.size) {
      throw new RangeError(`import address ${address}+${length} is on no device`)
    }
    window.length = 0
    const filled = Math.min(window.bytes.length, device.size - offset)
    device.bytes.read(window.bytes.subarray(0, filled), offset)
    window.start = address
    window.length = filled
  }

  #device(index: number): OpenDevice {
    const device = this.#open[index]
    if (device === undefined) throw new RangeError(`device ${index}`)
    return device
  }
}

function newWindow(size: number): Window {
  return { bytes: Buffer.allocUnsafeSlow(size), start: 0, length: 0 }
}
