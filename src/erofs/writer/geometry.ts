/** Sizes of the images that we write. */
import { INODE_SLOT_SIZE } from '../layout.ts'

/** A block size that kernels of all page sizes mount. */
export const BLOCK_BITS = 12
export const BLOCK_SIZE = 2 ** BLOCK_BITS

/** Of a file's own bytes: FileData has one address for each. */
export const CHUNK_SIZE = 64 * 1024

/**
 * Files up to here lie in their inodes: what reads the inode has read them. Larger ones would make the inode area,
 * which every listing reads, many times longer.
 */
export const MAX_INLINE_FILE = 1024

/** Directories and links: a longer tail may not find a block that it fits into behind its inode. */
export const MAX_INLINE = BLOCK_SIZE - INODE_SLOT_SIZE

/** A nid of 0 would be an entry that readdir takes for a deleted one. */
export const FIRST_INODE_OFFSET = 2 * INODE_SLOT_SIZE
