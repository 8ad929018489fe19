/**
 * Where inodes lie in the inode area: space is given out upwards and never taken back, so that what was placed
 * for the first layers of an image lies at the same place however many layers follow.
 */
import { INODE_SLOT_SIZE } from '../layout.ts'
import type { Body } from './inode-record.ts'

/** Where an inode lies, and what was decided for it then: what later layers share or change does not reach it. */
export interface Placement {
  /** Byte offset in the inode area. */
  offset: number
  /** Bytes that were given out there. */
  reserved: number
  body: Body
  /** Encoded: which of them are shared was decided when it was placed. */
  xattrs: Buffer
  /** Attributes or entries changed after it was placed. */
  isStale: boolean
  /** Names that refer to the inode; for a directory, 2 and one for each directory in it. */
  links: number
}

export class InodeArea {
  readonly #blockSize: number
  #end: number

  /** @param start bytes at the start that stay free: a nid of 0 would be an entry that readdir hides */
  constructor(blockSize: number, start: number) {
    this.#blockSize = blockSize
    this.#end = start
  }

  /** Bytes from the start of the area. */
  get size(): number {
    return this.#end
  }

  /**
   * Room for an inode.
   * @param recordSize bytes of header, xattrs and chunk table
   * @param tailSize bytes of data behind it, which must lie in one block (fs/erofs/data.c: erofs_map_blocks)
   */
  place(recordSize: number, tailSize: number): number {
    const next = roundUp(this.#end, INODE_SLOT_SIZE)
    const offset = tailFits(next + recordSize, tailSize, this.#blockSize)
      ? next
      : // the tail starts as early in the next block as slots allow
        next + roundUp(this.#blockSize - ((next + recordSize) % this.#blockSize), INODE_SLOT_SIZE)
    this.#end = offset + recordSize + tailSize
    return offset
  }

  /** Keeps at least so many bytes from the place given out last. @returns what it has now */
  reserve(offset: number, bytes: number): number {
    this.#end = Math.max(this.#end, offset + bytes)
    return this.#end - offset
  }
}

/** Whether [start, start + size) lies in one block. */
export function tailFits(start: number, size: number, blockSize: number): boolean {
  return size === 0 || Math.floor(start / blockSize) === Math.floor((start + size - 1) / blockSize)
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}
