/**
 * Directories as blocks: entries in the order of their names' bytes, `.` and `..` among them; a block takes
 * entries until the next one does not fit, and what is left of it is zeros.
 */
import { DIRENT, DIRENT_SIZE, EROFS_FT, S_IF } from '../layout.ts'
import { TWO_TO_32, viewOf } from '../little-endian.ts'
import type { DirectoryNode, TreeNode } from './tree.ts'

interface Entry {
  /** One character for each byte. */
  readonly name: string
  readonly node: TreeNode
}

/** i_size: whole blocks for all but the last, the used bytes of the last. */
export function directorySize(directory: DirectoryNode, blockSize: number): number {
  let size = 0
  for (const block of blocksOf(allEntries(directory, directory), blockSize)) {
    size = block.start + block.used
  }
  return size
}

/** @param nidOf the nid of an inode that was placed */
export function encodeDirectory(
  directory: DirectoryNode,
  parent: DirectoryNode,
  blockSize: number,
  nidOf: (node: TreeNode) => number,
): Buffer {
  const blocks: Buffer[] = []
  let last = 0
  for (const { entries, used } of blocksOf(allEntries(directory, parent), blockSize)) {
    blocks.push(encodeBlock(entries, blockSize, nidOf))
    last = used
  }
  const bytes = Buffer.concat(blocks)
  return bytes.subarray(0, bytes.byteLength - blockSize + last)
}

function allEntries(directory: DirectoryNode, parent: DirectoryNode): Entry[] {
  const entries = directory.entries().map(([name, node]): Entry => ({ name, node }))
  // Names below 0x2e sort before the dots.
  insert(entries, { name: '.', node: directory })
  insert(entries, { name: '..', node: parent })
  return entries
}

function insert(entries: Entry[], entry: Entry): void {
  const at = entries.findIndex(({ name }) => name > entry.name)
  entries.splice(at < 0 ? entries.length : at, 0, entry)
}

interface Block {
  readonly start: number
  readonly entries: readonly Entry[]
  /** Bytes of entries and names. */
  readonly used: number
}

function* blocksOf(entries: readonly Entry[], blockSize: number): Generator<Block, void, void> {
  let first = 0
  let used = 0
  let start = 0
  for (const [index, { name }] of entries.entries()) {
    const more = DIRENT_SIZE + name.length
    if (used + more > blockSize) {
      yield { start, entries: entries.slice(first, index), used }
      start += blockSize
      first = index
      used = 0
    }
    used += more
  }
  yield { start, entries: entries.slice(first), used }
}

function encodeBlock(
  entries: readonly Entry[],
  blockSize: number,
  nidOf: (node: TreeNode) => number,
): Buffer {
  const bytes = Buffer.alloc(blockSize)
  const view = viewOf(bytes)
  let nameoff = entries.length * DIRENT_SIZE
  for (const [index, { name, node }] of entries.entries()) {
    const off = index * DIRENT_SIZE
    const nid = nidOf(node)
    view.setUint32(off + DIRENT.nid, nid % TWO_TO_32, true)
    view.setUint32(off + DIRENT.nid + 4, Math.floor(nid / TWO_TO_32), true)
    view.setUint16(off + DIRENT.nameoff, nameoff, true)
    view.setUint8(off + DIRENT.file_type, FILE_TYPES.get(node.type) ?? EROFS_FT.UNKNOWN)
    nameoff += bytes.write(name, nameoff, 'latin1')
  }
  return bytes
}

const FILE_TYPES: ReadonlyMap<number, number> = new Map([
  [S_IF.REG, EROFS_FT.REG_FILE],
  [S_IF.DIR, EROFS_FT.DIR],
  [S_IF.CHR, EROFS_FT.CHRDEV],
  [S_IF.BLK, EROFS_FT.BLKDEV],
  [S_IF.IFO, EROFS_FT.FIFO],
  [S_IF.SOCK, EROFS_FT.SOCK],
  [S_IF.LNK, EROFS_FT.SYMLINK],
])
