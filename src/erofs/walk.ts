/**
 * Visits every inode of the tree once, for imports and checks. Holds one number for each inode that it
 * has seen and one for each directory that waits; the tree is never in memory.
 */
import type { ReadOptions } from '../core/index.ts'
import { erofsError } from './errors.ts'
import type { FileExtent } from './extent-list.ts'
import type { ErofsImage } from './image.ts'
import type { Inode } from './inode.ts'
import { NidSet } from './nid-set.ts'
import type { Nid } from './nid.ts'
import { formatNid } from './nid.ts'
import { WindowSource } from './window-source.ts'

/** 16 Mi inodes take 256 MiB of visited set at most. */
export const DEFAULT_MAX_INODES = 16 * 1024 * 1024

export interface WalkOptions extends ReadOptions {
  /** Give up with ERR_EROFS_TOO_MANY_INODES beyond so many inodes. */
  readonly maxInodes?: number
}

export interface WalkEntry {
  readonly inode: Inode
  /** The directory in which the inode was first met; undefined for the root. */
  readonly parent: Nid | undefined
  /** The inode's name there; empty for the root. */
  readonly name: Uint8Array
  /**
   * All extents of the data, as ErofsImage.extents gives them, but through the walk's own window over the
   * metadata. To be used before the next entry is asked for.
   */
  readonly extents: () => AsyncIterable<FileExtent>
}

/**
 * Every inode that the root reaches, hard links once; a directory before what is in it, its entries
 * in byte order. The packed inode and the metabox are in no directory: ask the image for them.
 * @throws ERR_EROFS_TOO_MANY_INODES, ERR_EROFS_DIRECTORY_CYCLE, and as ErofsImage.readDirectory
 */
export async function* walk(
  image: ErofsImage,
  options: WalkOptions = {},
): AsyncGenerator<WalkEntry, void, void> {
  const maxInodes = options.maxInodes ?? DEFAULT_MAX_INODES
  const view = image.over(new WindowSource(image.source))
  const visited = new NidSet()
  const root = await view.root(options)
  visited.add(root.nid)
  yield entryOf(view, root, undefined, new Uint8Array(0), options)
  const pending: Nid[] = root.isDirectory ? [root.nid] : []
  for (let nid = pending.pop(); nid !== undefined; nid = pending.pop()) {
    const directory = await view.readInode(nid, options)
    const subdirectories: Nid[] = []
    for await (const child of view.readDirectory(directory, options)) {
      options.signal?.throwIfAborted()
      const isNew = visited.add(child.nid)
      if (!isNew && child.type !== 'directory') continue
      const inode = await view.readInode(child.nid, options)
      if (!isNew) {
        if (inode.isDirectory) throw cycle(inode.nid)
        continue
      }
      if (visited.size > maxInodes) {
        throw erofsError(
          'ERR_EROFS_TOO_MANY_INODES',
          `the image has more than ${maxInodes} inodes, the most that are walked`,
        )
      }
      if (inode.isDirectory) subdirectories.push(inode.nid)
      yield entryOf(view, inode, nid, child.name, options)
    }
    // Last in, first out: in reverse, so that directories come in the order of their names.
    for (const each of subdirectories.toReversed()) pending.push(each)
  }
}

function entryOf(
  view: ErofsImage,
  inode: Inode,
  parent: Nid | undefined,
  name: Uint8Array,
  options: ReadOptions,
): WalkEntry {
  return { inode, parent, name, extents: () => view.extents(inode, options) }
}

function cycle(nid: Nid): Error {
  return erofsError(
    'ERR_EROFS_DIRECTORY_CYCLE',
    `directory ${formatNid(nid)} is in the tree more than once`,
  )
}
