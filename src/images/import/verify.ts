/**
 * The last check before an import becomes visible: reads each device back through its new map, from the
 * blobs as they are on disk, and compares the sha256. Synchronous: for the import process.
 */
import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'

import type { Digest } from '../../core/index.ts'
import { IMPORT_CALL_BYTES, MIB } from '../../core/index.ts'
import type { DeviceMap } from '../../store/index.ts'
import { AddressMap } from '../address-map.ts'
import type { PieceVisitor, ViewBlob } from '../range-map.ts'

const BUFFER_BYTES = MIB
/** Between two steps the process may say how far it is, and may be stopped. */
const STEP_BYTES = 16 * MIB
/** File handles of blobs kept open: a device of many generations refers to many blobs. */
const MAX_OPEN_BLOBS = 64

/** sha256 of the bytes that the map gives; undefined when some cannot be read. Yields the bytes of each step. */
export function* digestThroughMap(
  map: DeviceMap,
  pathOf: (blob: Digest) => string,
): Generator<number, Digest | undefined, void> {
  using blobs = new OpenBlobs(pathOf)
  const visitor = new HashingVisitor(blobs)
  const address = new AddressMap(
    map,
    map.blobs.map((blob) => ({ ...blob, blobNo: 1, ordinalBase: 0 })),
  )
  for (let at = 0; at < address.size; at += STEP_BYTES) {
    const length = Math.min(STEP_BYTES, address.size - at)
    address.visitRange(at, length, visitor)
    if (blobs.unreadable) return undefined
    yield length
  }
  return visitor.digest()
}

/** Gathers the pieces in one buffer, so that small ones are not hashed one by one. */
class HashingVisitor implements PieceVisitor {
  readonly #hash = createHash('sha256')
  readonly #buffer = Buffer.alloc(BUFFER_BYTES)
  readonly #blobs: OpenBlobs
  #filled = 0

  constructor(blobs: OpenBlobs) {
    this.#blobs = blobs
  }

  piece(blob: ViewBlob, blobOffset: number, length: number): void {
    this.#fill(length, (target, done) => this.#blobs.read(blob.digest, blobOffset + done, target))
  }

  zeros(length: number): void {
    this.#fill(length, (target) => target.fill(0))
  }

  digest(): Digest {
    this.#flush()
    return `sha256:${this.#hash.digest('hex')}`
  }

  #fill(length: number, write: (target: Buffer, done: number) => void): void {
    for (let done = 0; done < length;) {
      const count = Math.min(length - done, BUFFER_BYTES - this.#filled)
      write(this.#buffer.subarray(this.#filled, this.#filled + count), done)
      this.#filled += count
      done += count
      if (this.#filled === BUFFER_BYTES) this.#flush()
    }
  }

  #flush(): void {
    this.#hash.update(this.#buffer.subarray(0, this.#filled))
    this.#filled = 0
  }
}

class OpenBlobs implements Disposable {
  readonly #pathOf: (blob: Digest) => string
  /** Oldest first. */
  readonly #fds = new Map<Digest, number>()
  /** A blob could not be opened, or has sectors that cannot be read. */
  unreadable = false

  constructor(pathOf: (blob: Digest) => string) {
    this.#pathOf = pathOf
  }

  read(blob: Digest, position: number, target: Buffer): void {
    try {
      this.#read(blob, position, target)
    } catch (error) {
      if (!(error instanceof Error && 'errno' in error)) throw error
      this.unreadable = true
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.values()) closeSync(fd)
  }

  #read(blob: Digest, position: number, target: Buffer): void {
    const fd = this.#fd(blob)
    for (let done = 0; done < target.length;) {
      const length = Math.min(target.length - done, IMPORT_CALL_BYTES)
      const read = readSync(fd, target, done, length, position + done)
      // A blob that is too short gives other bytes, and so another digest.
      if (read === 0) {
        target.fill(0, done)
        return
      }
      done += read
    }
  }

  #fd(blob: Digest): number {
    const known = this.#fds.get(blob)
    if (known !== undefined) return known
    const oldest = this.#fds.entries().next().value
    if (this.#fds.size >= MAX_OPEN_BLOBS && oldest !== undefined) {
      closeSync(oldest[1])
      this.#fds.delete(oldest[0])
    }
    const fd = openSync(this.#pathOf(blob), 'r')
    this.#fds.set(blob, fd)
    return fd
  }
}
