/**
 * The tar format: POSIX pax and ustar, GNU's and v7's forms, sparse files and extended attributes. Pure: bytes of
 * an archive in, descriptions of its entries out. The libraries that exist decode names and attributes as UTF-8
 * and know no sparse files, and so lose what an image has to keep.
 */
export type { TarErrorCode } from './errors.ts'
export { TAR_ERRORS } from './errors.ts'
export type { PaxXattr } from './pax.ts'
export type { TarEntry, TarSource, TarType } from './reader.ts'
export { readTar } from './reader.ts'
export type { Segment } from './sparse.ts'
export type { SocketEntry } from './writer.ts'
export { encodeSocket } from './writer.ts'
