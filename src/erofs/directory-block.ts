/**
 * One block of a directory: an array of fixed entries, then their names. Checks each thing that it hands
 * out and nothing else, so that a binary search touches only what it compares.
 */
import { erofsError } from './errors.ts'
import { DIRENT, DIRENT_SIZE, EROFS_FT, EROFS_NAME_LEN } from './layout.ts'
import { viewOf } from './little-endian.ts'
import type { Nid } from './nid.ts'
import { readNid } from './nid.ts'

export type FileType =
  | 'unknown'
  | 'file'
  | 'directory'
  | 'character-device'
  | 'block-device'
  | 'fifo'
  | 'socket'
  | 'symlink'

export interface DirectoryEntry {
  /** 1 to 255 bytes, never decoded; without `/` and NUL. */
  readonly name: Uint8Array
  readonly nid: Nid
  /** What the directory says; the inode's mode decides. */
  readonly type: FileType
}

const FILE_TYPES: ReadonlyMap<number, FileType> = new Map([
  [EROFS_FT.REG_FILE, 'file'],
  [EROFS_FT.DIR, 'directory'],
  [EROFS_FT.CHRDEV, 'character-device'],
  [EROFS_FT.BLKDEV, 'block-device'],
  [EROFS_FT.FIFO, 'fifo'],
  [EROFS_FT.SOCK, 'socket'],
  [EROFS_FT.SYMLINK, 'symlink'],
])

const SLASH = 0x2f
const NUL = 0

export class DirectoryBlock {
  readonly count: number
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #where: string

  /**
   * @param bytes the block, or what of the last one is used
   * @param where names the block in messages
   * @throws ERR_EROFS_BAD_DIRECTORY
   */
  constructor(bytes: Uint8Array, where: string) {
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#where = where
    if (bytes.byteLength < DIRENT_SIZE) throw this.#bad(`${bytes.byteLength} bytes hold no entry`)
    // The names start where the entries end, so the first name's offset counts the entries.
    const nameoff = this.#nameoff(0)
    if (nameoff === 0 || nameoff % DIRENT_SIZE !== 0 || nameoff >= bytes.byteLength) {
      throw this.#bad(
        `first nameoff is ${nameoff}, expected a multiple of ${DIRENT_SIZE} below ${bytes.byteLength}`,
      )
    }
    this.count = nameoff / DIRENT_SIZE
  }

  /** A view of the block's bytes. @throws ERR_EROFS_BAD_DIRECTORY */
  nameAt(index: number): Uint8Array {
    const start = this.#nameoff(index)
    const isLast = index + 1 === this.count
    const limit = isLast ? this.#bytes.byteLength : this.#nameoff(index + 1)
    if (start < this.count * DIRENT_SIZE || limit > this.#bytes.byteLength || start >= limit) {
      throw this.#bad(`the name of entry ${index} lies at ${start} to ${limit}`)
    }
    // Unused space after the last name of a block is filled with NUL.
    const nul = this.#bytes.subarray(start, limit).indexOf(NUL)
    const end = isLast && nul >= 0 ? start + nul : limit
    const name = this.#bytes.subarray(start, end)
    if (name.byteLength < 1 || name.byteLength > EROFS_NAME_LEN) {
      throw this.#bad(`the name of entry ${index} has ${name.byteLength} bytes, expected 1 to 255`)
    }
    if (name.includes(SLASH) || (!isLast && nul >= 0)) {
      throw this.#bad(`the name of entry ${index} holds a NUL or a slash`)
    }
    return name
  }

  /** A copy that does not keep the block alive. @throws ERR_EROFS_BAD_DIRECTORY, ERR_EROFS_BAD_NID */
  entryAt(index: number): DirectoryEntry {
    const off = index * DIRENT_SIZE
    return {
      name: this.nameAt(index).slice(),
      nid: readNid(this.#view, off + DIRENT.nid),
      type: FILE_TYPES.get(this.#view.getUint8(off + DIRENT.file_type)) ?? 'unknown',
    }
  }

  /** Index of the last entry whose name is not greater than `name`; -1 when all are. */
  lastNotAfter(name: Uint8Array): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (compareNames(this.nameAt(middle), name) <= 0) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  #nameoff(index: number): number {
    return this.#view.getUint16(index * DIRENT_SIZE + DIRENT.nameoff, true)
  }

  #bad(what: string): Error {
    return erofsError('ERR_EROFS_BAD_DIRECTORY', `${this.#where}: ${what}`)
  }
}

/** The order of directory entries: unsigned bytes, a prefix before what it starts. */
export function compareNames(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b)
}
