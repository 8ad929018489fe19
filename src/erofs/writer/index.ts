/**
 * Writes EROFS images with chunk-based files. Pure: a tree in, metadata bytes and the places of data out.
 * Which bytes are equal, and where they are kept, is its caller's business.
 */
export { CHUNK_SIZE, BLOCK_SIZE, MAX_INLINE_FILE } from './geometry.ts'
export type { WriterOptions } from './image-writer.ts'
export { ImageWriter } from './image-writer.ts'
export type { FileData, TreeNode, NodeAttributes, NodeXattr } from './tree.ts'
export { DirectoryNode, FileNode, HOLE, SpecialNode, SymlinkNode } from './tree.ts'
export type { MetadataPiece, WrittenImage } from './written-image.ts'
export { storableXattr, xattrsFit } from './xattrs.ts'
