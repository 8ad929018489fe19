/**
 * Path walks inside an image: components, `.` and `..`, symbolic links. A path is bytes; nothing leaves
 * the image, because `..` at the root stays there and an absolute link starts at the image's root.
 */
import type { ReadOptions } from '../core/index.ts'
import { isDot, isDotDot } from './directory.ts'
import { erofsError } from './errors.ts'
import type { Inode } from './inode.ts'
import type { Nid } from './nid.ts'

/** What the kernel allows (include/linux/namei.h: MAXSYMLINKS). */
export const MAX_SYMLINKS = 40
/** PATH_MAX less the NUL. */
export const MAX_SYMLINK_LENGTH = 4095
/** Images hold trees deeper than PATH_MAX, but one request should not make thousands of lookups. */
export const MAX_PATH_LENGTH = 32 * 1024

export interface PathContext {
  root(options?: ReadOptions): Promise<Inode>
  readInode(nid: Nid, options?: ReadOptions): Promise<Inode>
  lookup(
    directory: Inode,
    name: Uint8Array,
    options?: ReadOptions,
  ): Promise<{ readonly nid: Nid } | undefined>
  readLink(inode: Inode, options?: ReadOptions): Promise<Uint8Array>
}

export interface ResolveOptions extends ReadOptions {
  /** Follow a symbolic link that is the last component; default true. A trailing `/` follows it anyway. */
  readonly followLast?: boolean
}

const SLASH = 0x2f

/**
 * The inode that `path` names, from the root. The empty path is the root.
 * @throws ERR_EROFS_NOT_FOUND, ERR_EROFS_NOT_A_DIRECTORY, ERR_EROFS_SYMLINK_LOOP, ERR_EROFS_PATH_TOO_LONG
 */
export async function resolvePath(
  context: PathContext,
  path: Uint8Array,
  options: ResolveOptions = {},
): Promise<Inode> {
  if (path.byteLength > MAX_PATH_LENGTH) {
    throw erofsError(
      'ERR_EROFS_PATH_TOO_LONG',
      `path of ${path.byteLength} bytes, at most ${MAX_PATH_LENGTH} are looked up`,
    )
  }
  const root = await context.root(options)
  // From the root to where the walk is: `..` pops, so a damaged `..` entry cannot lead it astray.
  const parents: Inode[] = []
  let current = root
  let links = 0
  const pending = [new PathCursor(path)]
  for (let cursor = pending.at(-1); cursor !== undefined; cursor = pending.at(-1)) {
    const name = cursor.next()
    if (name === undefined) {
      if (cursor.endsWithSlash) requireDirectory(current, path)
      pending.pop()
      continue
    }
    requireDirectory(current, path)
    if (isDot(name)) continue
    if (isDotDot(name)) {
      current = parents.pop() ?? root
      continue
    }
    const entry = await context.lookup(current, name, options)
    if (entry === undefined) {
      throw erofsError('ERR_EROFS_NOT_FOUND', `'${display(path)}' is not in the image`)
    }
    const inode = await context.readInode(entry.nid, options)
    const isLast =
      pending.every((each) => each.isAtEnd) && !pending.some((each) => each.endsWithSlash)
    if (!inode.isSymlink || (isLast && options.followLast === false)) {
      parents.push(current)
      current = inode
      continue
    }
    links++
    if (links > MAX_SYMLINKS) {
      throw erofsError(
        'ERR_EROFS_SYMLINK_LOOP',
        `'${display(path)}' needs more than ${MAX_SYMLINKS} symbolic links`,
      )
    }
    const target = await context.readLink(inode, options)
    if (target[0] === SLASH) {
      parents.length = 0
      current = root
    }
    pending.push(new PathCursor(target))
  }
  return current
}

/** Gives the components of one path in turn. Empty ones are skipped. */
class PathCursor {
  readonly endsWithSlash: boolean
  readonly #path: Uint8Array
  #position = 0

  constructor(path: Uint8Array) {
    this.#path = path
    this.endsWithSlash = path.at(-1) === SLASH
    this.#skipSlashes()
  }

  get isAtEnd(): boolean {
    return this.#position >= this.#path.byteLength
  }

  next(): Uint8Array | undefined {
    if (this.isAtEnd) return undefined
    const slash = this.#path.indexOf(SLASH, this.#position)
    const end = slash < 0 ? this.#path.byteLength : slash
    const name = this.#path.subarray(this.#position, end)
    this.#position = end
    this.#skipSlashes()
    return name
  }

  #skipSlashes(): void {
    while (this.#path[this.#position] === SLASH) this.#position++
  }
}

function requireDirectory(inode: Inode, path: Uint8Array): void {
  if (inode.isDirectory) return
  throw erofsError(
    'ERR_EROFS_NOT_A_DIRECTORY',
    `a component of '${display(path)}' is not a directory`,
  )
}

/** For messages only: bytes that are not UTF-8 show as replacement characters. */
function display(path: Uint8Array): string {
  return Buffer.from(path.buffer, path.byteOffset, Math.min(path.byteLength, 255)).toString()
}
