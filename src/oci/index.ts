/**
 * OCI images as archives hold them: which documents there are, which image was meant, where its layers lie. Pure: it
 * reads through what it is given, and neither unpacks layers nor knows what becomes of them.
 */
export type { Descriptor, ImageConfig, Platform } from './documents.ts'
export { formatPlatform } from './documents.ts'
export type { OciErrorCode } from './errors.ts'
export { OCI_ERRORS, ociError } from './errors.ts'
export type {
  ArchiveMembers,
  FoundImage,
  FoundLayer,
  MemberRange,
  WantedImage,
} from './image-archive.ts'
export { findImage } from './image-archive.ts'
