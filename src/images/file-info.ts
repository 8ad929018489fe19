/** What front ends learn of a file, in the words of the API. Pure. */
import type { DeviceNumber, Inode, Nid, Xattr } from '../erofs/index.ts'
import { S_IF } from '../erofs/index.ts'

export type FileType = 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket'

export interface FileInfo {
  readonly nid: Nid
  readonly type: FileType
  /** Bytes. */
  readonly size: number
  /** Full st_mode. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly nlink: number
  /** Seconds since 1970, negative before. */
  readonly mtimeSeconds: number
  readonly mtimeNanoseconds: number
  /** Character and block devices only. */
  readonly rdev?: DeviceNumber
}

/** As `FileInfo`, with what takes more reads. */
export interface FileStatus extends FileInfo {
  /** Those that a mounted image shows. */
  readonly xattrs: readonly Xattr[]
  /** Of a symbolic link. */
  readonly target?: Uint8Array
  /** Strong entity tag of a regular file that can be read. */
  readonly etag?: string
}

export interface ListedEntry {
  /** 1 to 255 bytes of any value but NUL and `/`. */
  readonly name: Uint8Array
  readonly info: FileInfo
}

export interface DirectoryPage {
  readonly entries: readonly ListedEntry[]
  /** Continue with this as `after`; absent at the end. */
  readonly next?: Uint8Array
}

export function fileInfoOf(inode: Inode): FileInfo {
  return {
    nid: inode.nid,
    type: typeOf(inode.mode),
    size: inode.size,
    mode: inode.mode,
    uid: inode.uid,
    gid: inode.gid,
    nlink: inode.nlink,
    mtimeSeconds: inode.mtimeSeconds,
    mtimeNanoseconds: inode.mtimeNanoseconds,
    ...(inode.rdev === undefined ? {} : { rdev: inode.rdev }),
  }
}

const TYPES: ReadonlyMap<number, FileType> = new Map([
  [S_IF.REG, 'file'],
  [S_IF.DIR, 'directory'],
  [S_IF.LNK, 'symlink'],
  [S_IF.CHR, 'char'],
  [S_IF.BLK, 'block'],
  [S_IF.IFO, 'fifo'],
  [S_IF.SOCK, 'socket'],
])

function typeOf(mode: number): FileType {
  // The reader refuses inodes of any other type.
  return TYPES.get(mode & S_IF.MT) ?? 'file'
}
