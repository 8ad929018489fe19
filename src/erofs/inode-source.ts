/** The data of one inode as a ByteSource: how the metabox and the packed inode are read. */
import type { ByteSource, ReadOptions } from '../core/index.ts'
import { checkRange } from '../core/index.ts'
import type { Inode } from './inode.ts'

/** What can read the data of an inode. */
export interface DataReader {
  readData(inode: Inode, offset: number, length: number, options?: ReadOptions): Promise<Uint8Array>
}

export class InodeSource implements ByteSource {
  readonly size: number
  readonly #reader: DataReader
  readonly #inode: Inode

  constructor(reader: DataReader, inode: Inode) {
    this.size = inode.size
    this.#reader = reader
    this.#inode = inode
  }

  async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    checkRange(this.size, offset, length)
    return this.#reader.readData(this.#inode, offset, length, options)
  }
}
