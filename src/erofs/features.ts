/**
 * The feature bits of the superblock and their names. Decides which images are refused: an unknown
 * incompatible bit means that a reader would misread; an unknown compatible bit is only kept for display.
 */
import { erofsError } from './errors.ts'

/** feature_compat (erofs_fs.h: EROFS_FEATURE_COMPAT_*). */
export const FEATURE_COMPAT = {
  SB_CHKSUM: 0x1,
  MTIME: 0x2,
  /** Linux 6.6. */
  XATTR_FILTER: 0x4,
  /** Linux 6.17. */
  SHARED_EA_IN_METABOX: 0x8,
  /** The long prefix table lies on the primary device as it is. */
  PLAIN_XATTR_PFX: 0x10,
  /** Inode fingerprints for page cache sharing. Linux 7.0. */
  ISHARE_XATTRS: 0x20,
  /** Set by Nydus (rafs v6). */
  RAFS_V6: 0x40000000,
} as const

/** feature_incompat (erofs_fs.h: EROFS_FEATURE_INCOMPAT_*). Several bits have two names. */
export const FEATURE_INCOMPAT = {
  /** Linux 5.4. */
  LZ4_0PADDING: 0x1,
  /** Also BIG_PCLUSTER. Linux 5.13. */
  COMPR_CFGS: 0x2,
  /** Linux 5.15. Not set by every writer of chunk-based inodes. */
  CHUNKED_FILE: 0x4,
  /** Also COMPR_HEAD2: the table is there only if extra_devices is not 0. Linux 5.16. */
  DEVICE_TABLE: 0x8,
  /** Linux 5.17. */
  ZTAILPACKING: 0x10,
  /** Also DEDUPE: fragments are there only if packed_nid is not 0. Linux 6.1. */
  FRAGMENTS: 0x20,
  /** Linux 6.4. */
  XATTR_PREFIXES: 0x40,
  /** Linux 6.15. */
  '48BIT': 0x80,
  /** Linux 6.17. */
  METABOX: 0x100,
} as const

const KNOWN_INCOMPAT = Object.values(FEATURE_INCOMPAT).reduce<number>((all, bit) => all | bit, 0)

export interface FeatureSet {
  /** The u32 as stored, unknown bits included. */
  readonly mask: number
  /** Names of the known bits, lowest bit first; unknown ones as `UNKNOWN_0x…`. */
  readonly names: readonly string[]
}

export interface Features {
  readonly compat: FeatureSet
  readonly incompat: FeatureSet
}

/** @throws ERR_EROFS_UNSUPPORTED_FEATURE for an unknown incompatible bit. */
export function decodeFeatures(compat: number, incompat: number): Features {
  const unknown = (incompat & ~KNOWN_INCOMPAT) >>> 0
  if (unknown !== 0) {
    throw erofsError(
      'ERR_EROFS_UNSUPPORTED_FEATURE',
      `image needs unknown incompatible features 0x${unknown.toString(16)}, ` +
        `known are 0x${KNOWN_INCOMPAT.toString(16)}`,
      { incompat, unknown },
    )
  }
  return {
    compat: { mask: compat, names: namesOf(compat, FEATURE_COMPAT) },
    incompat: { mask: incompat, names: namesOf(incompat, FEATURE_INCOMPAT) },
  }
}

export function hasCompat(features: Features, name: keyof typeof FEATURE_COMPAT): boolean {
  return (features.compat.mask & FEATURE_COMPAT[name]) !== 0
}

export function hasIncompat(features: Features, name: keyof typeof FEATURE_INCOMPAT): boolean {
  return (features.incompat.mask & FEATURE_INCOMPAT[name]) !== 0
}

function namesOf(mask: number, table: Readonly<Record<string, number>>): string[] {
  const names: string[] = []
  for (let shift = 0; shift < 32; shift++) {
    const bit = (1 << shift) >>> 0
    if ((mask & bit) === 0) continue
    const known = Object.entries(table).find(([, value]) => value === bit)
    names.push(known?.[0] ?? `UNKNOWN_0x${bit.toString(16)}`)
  }
  return names
}
