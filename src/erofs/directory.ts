/**
 * Directories as sorted sequences of blocks: lookup by binary search, and listing from any name on. Gets
 * blocks by number from its caller and does not know how they are stored.
 */
import type { DirectoryEntry } from './directory-block.ts'
import { compareNames, DirectoryBlock } from './directory-block.ts'
import { erofsError } from './errors.ts'
import type { Inode } from './inode.ts'
import { EROFS_NAME_LEN } from './layout.ts'
import { formatNid } from './nid.ts'

export interface DirectoryReader {
  readonly inode: Inode
  readonly blockSize: number
  /** The bytes of one block; fewer for the last. */
  readBlock(index: number): Promise<Uint8Array>
}

export interface ListOptions {
  /** Only names that sort after this one. Found by binary search: use it for paging. */
  readonly after?: Uint8Array
  /** At most so many entries. */
  readonly limit?: number
}

const DOT = Uint8Array.of(0x2e)

export function isDot(name: Uint8Array): boolean {
  return name.byteLength === 1 && name[0] === DOT[0]
}

export function isDotDot(name: Uint8Array): boolean {
  return name.byteLength === 2 && name[0] === DOT[0] && name[1] === DOT[0]
}

/**
 * The entry of exactly this name, `.` and `..` included. Reads about log2(blocks) blocks.
 * @throws ERR_EROFS_BAD_DIRECTORY, ERR_EROFS_BAD_NID
 */
export async function lookupEntry(
  reader: DirectoryReader,
  name: Uint8Array,
): Promise<DirectoryEntry | undefined> {
  if (name.byteLength === 0 || name.byteLength > EROFS_NAME_LEN) return undefined
  if (isDot(name) && reader.inode.dotOmitted) {
    return { name: DOT.slice(), nid: reader.inode.nid, type: 'directory' }
  }
  const found = await lastBlockNotAfter(reader, name)
  if (found === undefined) return undefined
  const index = found.block.lastNotAfter(name)
  const isSame = index >= 0 && compareNames(found.block.nameAt(index), name) === 0
  return isSame ? found.block.entryAt(index) : undefined
}

/**
 * Entries in byte order, without `.` and `..`. Entries that are not in strictly ascending order are an
 * error, because lookup could not find them.
 * @throws ERR_EROFS_BAD_DIRECTORY, ERR_EROFS_BAD_NID
 */
export async function* listEntries(
  reader: DirectoryReader,
  options: ListOptions = {},
): AsyncGenerator<DirectoryEntry, void, void> {
  const { after, limit = Infinity } = options
  const blocks = blockCount(reader)
  const start = after === undefined ? undefined : await lastBlockNotAfter(reader, after)
  let previous: Uint8Array | undefined
  let left = limit
  for (let number = start?.number ?? 0; number < blocks && left > 0; number++) {
    const block = number === start?.number ? start.block : await openBlock(reader, number)
    for (let index = 0; index < block.count && left > 0; index++) {
      const entry = block.entryAt(index)
      checkOrder(reader, previous, entry.name)
      previous = entry.name
      if (isDot(entry.name) || isDotDot(entry.name)) continue
      if (after !== undefined && compareNames(entry.name, after) <= 0) continue
      left--
      yield entry
    }
  }
}

function blockCount(reader: DirectoryReader): number {
  return Math.ceil(reader.inode.size / reader.blockSize)
}

async function lastBlockNotAfter(
  reader: DirectoryReader,
  name: Uint8Array,
): Promise<{ readonly number: number; readonly block: DirectoryBlock } | undefined> {
  let low = 0
  let high = blockCount(reader)
  let best: { number: number; block: DirectoryBlock } | undefined
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const block = await openBlock(reader, middle)
    if (compareNames(block.nameAt(0), name) <= 0) {
      best = { number: middle, block }
      low = middle + 1
    } else {
      high = middle
    }
  }
  return best
}

async function openBlock(reader: DirectoryReader, number: number): Promise<DirectoryBlock> {
  const bytes = await reader.readBlock(number)
  return new DirectoryBlock(bytes, `block ${number} of ${nameOf(reader)}`)
}

function checkOrder(
  reader: DirectoryReader,
  previous: Uint8Array | undefined,
  name: Uint8Array,
): void {
  if (previous === undefined || compareNames(previous, name) < 0) return
  throw erofsError(
    'ERR_EROFS_BAD_DIRECTORY',
    `${nameOf(reader)} has entries that are not in ascending order`,
  )
}

function nameOf(reader: DirectoryReader): string {
  return `directory ${formatNid(reader.inode.nid)}`
}
