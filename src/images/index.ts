/**
 * The domain model: images as address maps over blobs, their import, and what they share. It ties EROFS,
 * cache and store together and knows no protocol, thread or configuration.
 */
export { AddressMap } from './address-map.ts'
export { BlobMap } from './blob-map.ts'
export type { DataHandle } from './data-handle.ts'
export type { ImageErrorCode } from './errors.ts'
export { IMAGE_ERRORS } from './errors.ts'
export type { DirectoryPage, FileInfo, FileStatus, FileType, ListedEntry } from './file-info.ts'
export { FlattenedMap } from './flattened-map.ts'
export type { FindOptions } from './image-files.ts'
export { FileCaches } from './image-files.ts'
export type { DeviceRecord, ImageRecord } from './image-record.ts'
export { decodeImageRecord, encodeImageRecord, IMAGE_RECORD_TYPE } from './image-record.ts'
export type { ImageViewOptions, OpenedFile, PlannedBlob } from './image-view.ts'
export { ImageView, MAX_DIRECTORY_PAGE, planBlobs } from './image-view.ts'
export type { ReadIdentity } from './mapped-handle.ts'
export { MappedHandle } from './mapped-handle.ts'
export type { PieceVisitor, RangeMap, ViewBlob } from './range-map.ts'
