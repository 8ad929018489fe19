/**
 * Inode numbers as safe integers. On disk a nid is a u64 whose bit 63 says "in the metabox"; the rest
 * counts 32-byte slots. A device of 2^53 bytes has 2^48 slots, so a nid here is the slot number, plus 2^52
 * for the metabox: exact, cheap, usable as a key and in JSON.
 */
import { erofsError } from './errors.ts'
import { TWO_TO_32 } from './little-endian.ts'

declare const nidBrand: unique symbol
export type Nid = number & { readonly [nidBrand]: 'Nid' }

/** Slots that a device of 2^53 bytes has. */
const MAX_SLOTS = 2 ** 48
const METABOX_BASE = 2 ** 52
/** EROFS_DIRENT_NID_METABOX_BIT, in the high word. */
const METABOX_BIT_HI = 0x80000000

/** From the two halves of the u64 on disk. @throws ERR_EROFS_BAD_NID when no device has such a slot. */
export function decodeNid(lo: number, hi: number): Nid {
  const slot = (hi & ~METABOX_BIT_HI) * TWO_TO_32 + lo
  if (slot >= MAX_SLOTS) {
    throw erofsError('ERR_EROFS_BAD_NID', `inode slot ${slot} lies beyond any device`)
  }
  return ((hi & METABOX_BIT_HI) !== 0 ? slot + METABOX_BASE : slot) as Nid
}

/** The u64 at `off`. @throws ERR_EROFS_BAD_NID */
export function readNid(view: DataView, off: number): Nid {
  return decodeNid(view.getUint32(off, true), view.getUint32(off + 4, true))
}

/** A nid that arrives as a number, for example from JSON. @throws ERR_EROFS_BAD_NID */
export function nidFrom(value: number): Nid {
  const slot = value >= METABOX_BASE ? value - METABOX_BASE : value
  if (Number.isSafeInteger(value) && slot >= 0 && slot < MAX_SLOTS) return value as Nid
  throw erofsError('ERR_EROFS_BAD_NID', `${value} is not an inode number`)
}

export function isMetaboxNid(nid: Nid): boolean {
  return nid >= METABOX_BASE
}

/** Number of 32-byte slots from the start of the inode area, or of the metabox. */
export function slotOf(nid: Nid): number {
  return nid >= METABOX_BASE ? nid - METABOX_BASE : nid
}

/** For messages: `1234`, or `metabox:1234`. */
export function formatNid(nid: Nid): string {
  return isMetaboxNid(nid) ? `metabox:${slotOf(nid)}` : String(nid)
}
