/** The error codes of the domain model. Nothing here decides what to do about an error. */
import { AppError, defineErrors } from '../core/index.ts'

export const IMAGE_ERRORS = defineErrors({
  ERR_DEVICE_NOT_FOUND: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'The image has no device of this number: 0 is the primary, extra devices follow.',
  },
  ERR_FILE_NOT_FOUND: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'No file of this path is in the image.',
  },
  ERR_FILE_IS_DIRECTORY: {
    http: 400,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'The path names a directory, a file was expected.',
  },
  ERR_FILE_NOT_DIRECTORY: {
    http: 400,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'The path does not name a directory, but its entries were asked for.',
  },
  ERR_FILE_NOT_SYMLINK: {
    http: 400,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'The path does not name a symbolic link, but its target was asked for.',
  },
  ERR_FILE_SPECIAL: {
    http: 403,
    nbd: 'EPERM',
    exit: 4,
    doc: 'The path names a device node, a fifo or a socket: it has no bytes that could be served.',
  },
  ERR_FILE_COMPRESSED: {
    http: 501,
    nbd: 'ENOTSUP',
    exit: 1,
    doc: 'The file is stored compressed, which is not supported yet. Its image is served whole.',
  },
  ERR_FILE_CURSOR_INVALID: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'The cursor of a directory listing is not one that an earlier page of it gave.',
  },
  ERR_IMAGE_NOT_PARSED: {
    http: 422,
    nbd: 'EINVAL',
    exit: 1,
    doc: 'The bytes of the image are not a file system that can be read here, so it has no files. It is served whole.',
  },
  ERR_IMAGE_RECORD_INVALID: {
    http: 502,
    nbd: 'EIO',
    exit: 1,
    doc: 'A stored image record does not have the form that it must have: restore it, or import the image again.',
  },
  ERR_IMPORT_DEVICES: {
    http: 400,
    exit: 2,
    doc: 'The devices that were given are not those that the image names: give all of them, in slot order.',
  },
  ERR_IMPORT_EMPTY: {
    http: 400,
    exit: 2,
    doc: 'There are no bytes to import.',
  },
  ERR_IMPORT_SOURCE: {
    http: 500,
    exit: 1,
    doc: 'The bytes to import could not be read, or changed while they were read.',
  },
  ERR_IMPORT_TOO_COMPLEX: {
    http: 422,
    exit: 1,
    doc: 'The files of an image refer to so many runs of blocks that following them would not end: the image is cut at fixed offsets. Or an archive has more entries or longer files than can be laid out.',
  },
  ERR_IMPORT_ARCHIVE: {
    http: 422,
    exit: 1,
    doc: 'An archive is compressed in a way that is not supported, or its compressed bytes are damaged or cut short.',
  },
  ERR_IMPORT_TREE: {
    http: 422,
    exit: 1,
    doc: 'An archive describes what cannot be a file tree: a path that leads out of it, or a hard link to nothing.',
  },
  ERR_IMPORT_VERIFY: {
    http: 500,
    exit: 6,
    doc: 'The stored bytes did not reproduce the image, so nothing was published: check the disk.',
  },
  ERR_IMPORT_PROCESS: {
    http: 500,
    exit: 1,
    doc: 'The import process ended before it had a result: the log has its last words.',
  },
})

export type ImageErrorCode = keyof typeof IMAGE_ERRORS

export function imageError(
  code: ImageErrorCode,
  message: string,
  options?: ConstructorParameters<typeof AppError>[2],
): AppError {
  return new AppError(code, message, options)
}
