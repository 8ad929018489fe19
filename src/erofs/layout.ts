/**
 * Where every field of every on-disk EROFS structure lies: byte offsets in tables that carry the kernel's
 * field names (fs/erofs/erofs_fs.h), and the sizes and bit masks that go with them. All integers are
 * little-endian. Nothing is decoded here.
 */

/** The superblock always starts here, whatever the block size. */
export const SUPERBLOCK_OFFSET = 1024

/** struct erofs_super_block. */
export const SB = {
  magic: 0,
  checksum: 4,
  feature_compat: 8,
  blkszbits: 12,
  /** Superblock size = 128 + 16 * this. Linux 5.13. */
  sb_extslots: 13,
  /** u16 root nid, or the high 16 bits of blocks when 48BIT is on and rootnid_8b is not 0. */
  rb: 14,
  inos: 16,
  /** Named build_time before Linux 6.15. */
  epoch: 24,
  fixed_nsec: 32,
  blocks_lo: 36,
  meta_blkaddr: 40,
  xattr_blkaddr: 44,
  uuid: 48,
  volume_name: 64,
  feature_incompat: 80,
  /** available_compr_algs with COMPR_CFGS (Linux 5.13), else lz4_max_distance. */
  u1: 84,
  /** Linux 5.16. */
  extra_devices: 86,
  /** Byte offset of the device table / 128. Linux 5.16. */
  devt_slotoff: 88,
  dirblkbits: 90,
  /** Linux 6.4. */
  xattr_prefix_count: 91,
  /** Byte offset of the prefix table / 4. Linux 6.4. */
  xattr_prefix_start: 92,
  /** Linux 6.1. */
  packed_nid: 96,
  /** Linux 6.6. */
  xattr_filter_reserved: 104,
  /** Linux 7.0. */
  ishare_xattr_prefix_id: 105,
  reserved: 106,
  /** Seconds after epoch. Linux 6.15. */
  build_time: 108,
  /** Linux 6.15. */
  rootnid_8b: 112,
  reserved2: 120,
} as const
export const SB_SIZE = 128

/** The extension slots that follow the first 128 bytes. */
export const SB_EXT = {
  /** Linux 6.17. */
  metabox_nid: 128,
  reserved3: 136,
} as const
export const SB_EXT_SLOT_SIZE = 16
export const SB_WITH_METABOX_SIZE = 144

export const EROFS_SUPER_MAGIC_V1 = 0xe0f5e1e2
export const UUID_SIZE = 16
export const VOLUME_NAME_SIZE = 16
/** 512 B to 64 KiB. The kernel's upper bound is its page size. */
export const MIN_BLKSZBITS = 9
export const MAX_BLKSZBITS = 16

/** struct erofs_deviceslot. */
export const DEVT_SLOT = {
  tag: 0,
  blocks_lo: 64,
  /** Named mapped_blkaddr before Linux 6.15. */
  uniaddr_lo: 68,
  /** Linux 6.15. */
  blocks_hi: 72,
  /** Linux 6.15. */
  uniaddr_hi: 74,
  reserved: 76,
} as const
export const DEVT_SLOT_SIZE = 128
export const DEVT_TAG_SIZE = 64

/** An inode number counts slots of 32 bytes from meta_blkaddr. */
export const INODE_SLOT_SIZE = 32

/** struct erofs_inode_compact. */
export const INODE_COMPACT = {
  i_format: 0,
  i_xattr_icount: 2,
  i_mode: 4,
  /** union: nlink, or high address bits when I_NLINK_1 is set. */
  i_nb: 6,
  i_size: 8,
  /** Seconds after epoch. Linux 6.15; reserved before. */
  i_mtime: 12,
  i_u: 16,
  i_ino: 20,
  i_uid: 24,
  i_gid: 26,
  i_reserved: 28,
} as const
export const INODE_COMPACT_SIZE = 32

/** struct erofs_inode_extended. */
export const INODE_EXTENDED = {
  i_format: 0,
  i_xattr_icount: 2,
  i_mode: 4,
  /** High address bits. Linux 6.15; reserved before. */
  i_nb: 6,
  i_size: 8,
  i_u: 16,
  i_ino: 20,
  i_uid: 24,
  i_gid: 28,
  i_mtime: 32,
  i_mtime_nsec: 40,
  i_nlink: 44,
  i_reserved2: 48,
} as const
export const INODE_EXTENDED_SIZE = 64

/** i_format: EROFS_I_VERSION_BIT, EROFS_I_DATALAYOUT_BIT, EROFS_I_NLINK_1_BIT / EROFS_I_DOT_OMITTED_BIT. */
export const I_FORMAT = {
  EXTENDED: 0x01,
  DATALAYOUT_SHIFT: 1,
  DATALAYOUT_MASK: 0x07,
  /** Compact non-directories: nlink is 1. Linux 6.15. */
  NLINK_1: 0x10,
  /** Directories: the entry `.` is left out. Linux 6.15. */
  DOT_OMITTED: 0x10,
  ALL: 0x1f,
} as const

/** i_format bits 1-3. */
export const EROFS_INODE = {
  FLAT_PLAIN: 0,
  COMPRESSED_FULL: 1,
  FLAT_INLINE: 2,
  COMPRESSED_COMPACT: 3,
  /** Linux 5.15. */
  CHUNK_BASED: 4,
} as const
export type DataLayout = (typeof EROFS_INODE)[keyof typeof EROFS_INODE]

/** The type bits of i_mode. */
export const S_IF = {
  MT: 0o170000,
  SOCK: 0o140000,
  LNK: 0o120000,
  REG: 0o100000,
  BLK: 0o060000,
  DIR: 0o040000,
  CHR: 0o020000,
  IFO: 0o010000,
} as const

/** struct erofs_inode_chunk_info: the u16 format in i_u. */
export const EROFS_CHUNK_FORMAT = {
  BLKBITS_MASK: 0x1f,
  INDEXES: 0x20,
  /** Linux 6.15. */
  '48BIT': 0x40,
  ALL: 0x7f,
} as const

/** The 4-byte form: struct erofs_inode_chunk_index without its first half. */
export const BLOCK_MAP_ENTRY_SIZE = 4

/** struct erofs_inode_chunk_index. */
export const CHUNK_INDEX = {
  /** Meaningful with EROFS_CHUNK_FORMAT 48BIT only; other writers keep their own data here. */
  startblk_hi: 0,
  device_id: 2,
  startblk_lo: 4,
} as const
export const CHUNK_INDEX_SIZE = 8

/** 32 bits of an address that means "no data". */
export const NULL_ADDR_LO = 0xffffffff
export const NULL_ADDR_HI = 0xffff

/** struct erofs_dirent. */
export const DIRENT = {
  nid: 0,
  nameoff: 8,
  file_type: 10,
  reserved: 11,
} as const
export const DIRENT_SIZE = 12
export const EROFS_NAME_LEN = 255

/** erofs_dirent.file_type; the order is that of the Linux FT_ constants. */
export const EROFS_FT = {
  UNKNOWN: 0,
  REG_FILE: 1,
  DIR: 2,
  CHRDEV: 3,
  BLKDEV: 4,
  FIFO: 5,
  SOCK: 6,
  SYMLINK: 7,
} as const

/** struct erofs_xattr_ibody_header. */
export const XATTR_IBODY = {
  h_name_filter: 0,
  h_shared_count: 4,
  h_reserved2: 5,
} as const
export const XATTR_IBODY_SIZE = 12
/** Shared ids, entries and i_xattr_icount all count in this unit. */
export const XATTR_UNIT = 4

/** struct erofs_xattr_entry. */
export const XATTR_ENTRY = {
  e_name_len: 0,
  e_name_index: 1,
  e_value_size: 2,
} as const
export const XATTR_ENTRY_SIZE = 4

/** erofs_xattr_entry.e_name_index. */
export const EROFS_XATTR_INDEX = {
  /** No visible prefix: internal attributes that the kernel does not list. */
  HIDDEN: 0,
  USER: 1,
  POSIX_ACL_ACCESS: 2,
  POSIX_ACL_DEFAULT: 3,
  TRUSTED: 4,
  LUSTRE: 5,
  SECURITY: 6,
} as const
/** Set in e_name_index when the low 7 bits index the long prefix table. Linux 6.4. */
export const EROFS_XATTR_LONG_PREFIX = 0x80
export const EROFS_XATTR_LONG_PREFIX_MASK = 0x7f

/** struct erofs_xattr_long_prefix, after a u16 length that counts base_index and infix. */
export const XATTR_LONG_PREFIX = {
  base_index: 0,
  infix: 1,
} as const
export const XATTR_LONG_PREFIX_LENGTH_SIZE = 2
