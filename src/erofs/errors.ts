/**
 * Every way in which reading an EROFS image can fail, and what each means at the boundaries. Damage in an
 * image is the image's fault, never an assertion: HTTP answers 422, NBD EIO.
 */
import { AppError, defineErrors } from '../core/index.ts'

const CORRUPT = { http: 422, nbd: 'EIO', exit: 1 } as const
const UNSUPPORTED = { http: 501, nbd: 'ENOTSUP', exit: 1 } as const

export const EROFS_ERRORS = defineErrors({
  ERR_EROFS_BAD_MAGIC: {
    ...CORRUPT,
    doc: 'The bytes at 1024 are not the EROFS magic: the file is not an EROFS image.',
  },
  ERR_EROFS_TRUNCATED: {
    ...CORRUPT,
    doc: 'The image ends before its superblock does: it was cut short.',
  },
  ERR_EROFS_BAD_CHECKSUM: {
    ...CORRUPT,
    doc: 'The superblock checksum does not match: the first block of the image is damaged.',
  },
  ERR_EROFS_BAD_SUPERBLOCK: {
    ...CORRUPT,
    doc: 'A superblock field has a value that no valid image has.',
  },
  ERR_EROFS_UNSUPPORTED_FEATURE: {
    ...UNSUPPORTED,
    doc: 'The image uses an incompatible feature that this reader does not know. It is served whole.',
  },
  ERR_EROFS_COMPRESSED_UNSUPPORTED: {
    ...UNSUPPORTED,
    doc: 'The data of this file is compressed, which is not supported yet. The image is served whole.',
  },
  ERR_EROFS_BAD_DEVICE_TABLE: {
    ...CORRUPT,
    doc: 'The device table lies outside of the image, or its address ranges overlap.',
  },
  ERR_EROFS_DEVICE_COUNT: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'The number of devices given is neither 1 (flattened) nor 1 plus the extra devices of the image.',
  },
  ERR_EROFS_DEVICE_UNAVAILABLE: {
    http: 422,
    nbd: 'EIO',
    exit: 1,
    doc: 'Data lies on a device that was not given: import the image with all its devices, in slot order.',
  },
  ERR_EROFS_TOO_LARGE: {
    http: 422,
    nbd: 'EIO',
    exit: 1,
    doc: 'A tree does not fit into one EROFS image: more than 16 TiB, or attributes beyond all measure.',
  },
  ERR_EROFS_OUT_OF_BOUNDS: {
    ...CORRUPT,
    doc: 'A structure or file data lies outside of its device.',
  },
  ERR_EROFS_BAD_NID: {
    ...CORRUPT,
    doc: 'An inode number points outside of the image, or into a metabox that the image has not.',
  },
  ERR_EROFS_BAD_INODE: {
    ...CORRUPT,
    doc: 'An inode has a format, file type or size that no valid image has.',
  },
  ERR_EROFS_BAD_INLINE_TAIL: {
    ...CORRUPT,
    doc: 'The inline tail of a file crosses a block boundary.',
  },
  ERR_EROFS_BAD_CHUNK_TABLE: {
    ...CORRUPT,
    doc: 'The chunk table of a file lies outside of the image or names a device that does not exist.',
  },
  ERR_EROFS_BAD_DIRECTORY: {
    ...CORRUPT,
    doc: 'A directory block has entries that overlap, are out of order or have impossible names.',
  },
  ERR_EROFS_DIRECTORY_CYCLE: {
    ...CORRUPT,
    doc: 'A directory is reachable by two paths, so the tree is no tree.',
  },
  ERR_EROFS_BAD_SYMLINK: {
    ...CORRUPT,
    doc: 'A symbolic link is empty, longer than 4095 bytes or holds a NUL.',
  },
  ERR_EROFS_BAD_XATTR: {
    ...CORRUPT,
    doc: 'The extended attributes of an inode do not fit the space given to them.',
  },
  ERR_EROFS_NOT_FOUND: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'No file of this path is in the image.',
  },
  ERR_EROFS_NOT_A_DIRECTORY: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'A part of the path that is not the last one is not a directory, or a directory was expected.',
  },
  ERR_EROFS_NOT_A_SYMLINK: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'The target of something that is not a symbolic link was asked for.',
  },
  ERR_EROFS_SYMLINK_LOOP: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'More than 40 symbolic links were followed for one path: they form a loop.',
  },
  ERR_EROFS_PATH_TOO_LONG: {
    http: 414,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'The path is longer than 32 KiB.',
  },
  ERR_EROFS_RANGE_TOO_LARGE: {
    http: 413,
    nbd: 'EOVERFLOW',
    exit: 1,
    doc: 'One call asked for more chunks or bytes than its limit: ask for the range in pieces.',
  },
  ERR_EROFS_TOO_MANY_INODES: {
    ...CORRUPT,
    doc: 'The tree holds more inodes than the walk was allowed to visit.',
  },
})

export type ErofsErrorCode = keyof typeof EROFS_ERRORS

export function erofsError(
  code: ErofsErrorCode,
  message: string,
  details?: Readonly<Record<string, unknown>>,
): AppError {
  return new AppError(code, message, details === undefined ? {} : { details })
}
