/**
 * The frame table: what is known of every frame, in shared memory, 32 bytes a frame. The keeper writes key,
 * valid length and filler while it owns the frame (EVICTING set); readers write pins, the use counter, the
 * readahead mark and, by compare-and-swap, the filler. It does not know the arena's bytes or the index.
 */
import { pin, unpin } from './pin-protocol.ts'

/** Int32 words of a frame's record. */
export const FRAME = {
  /** Pins and the EVICTING bit: pin-protocol.ts. */
  STATE: 0,
  /** blobNo; 0: the frame holds no page. */
  BLOB: 1,
  /** Page number in the blob. In a free frame: the next free frame + 1. */
  PAGE: 2,
  /** Bytes of the page that belong to the blob; the rest of the frame is zero. */
  VALID: 3,
  /** The image that the page was brought in for, or one of FILLER. */
  FILLER: 4,
  /** Saturating count of uses since the policy last looked. Raced on purpose: a lost update costs nothing. */
  USE: 5,
  /** 1: brought in by readahead and not read yet. */
  READAHEAD: 6,
  /** Keeps records at half a cache line. */
  RESERVED: 7,
} as const

export const FRAME_WORDS = 8

/** Readers stop writing at this count, so a hot page's record stays clean in every core's cache. */
export const MAX_USE = 3

/** Values of the filler word that are not an image. Image ids are 1 to MAX_IMAGE_ID. */
export const FILLER = {
  NONE: 0,
  /** Brought in for no image, but its bytes are accounted for: the next image becomes the filler, for free. */
  ACCOUNTED: -1,
  /** Brought in for no image in an even epoch; the first image that reads it adds its bytes. */
  UNATTRIBUTED_EVEN: -2,
  /** The same in an odd epoch. A reader that still sees the last epoch cannot claim a page of this one. */
  UNATTRIBUTED_ODD: -3,
} as const

export const MAX_IMAGE_ID = 0x7fff_ffff

export function unattributed(epoch: number): number {
  return (epoch & 1) === 0 ? FILLER.UNATTRIBUTED_EVEN : FILLER.UNATTRIBUTED_ODD
}

/** Where a frame's record starts in the table's words. */
export function recordOf(frame: number): number {
  return frame * FRAME_WORDS
}

/** A hint without a pin: whether the frame has this key now. False for a frame that does not exist. */
export function holdsPage(
  table: Int32Array,
  frame: number,
  blobNo: number,
  pageNo: number,
): boolean {
  const record = frame * FRAME_WORDS
  return table[record + FRAME.PAGE] === (pageNo | 0) && table[record + FRAME.BLOB] === (blobNo | 0)
}

/**
 * Takes a pin on `frame` if it holds the page (blobNo, pageNo). False is legal for a page in memory (a race
 * with the keeper) and holds nothing.
 */
export function pinPage(table: Int32Array, frame: number, blobNo: number, pageNo: number): boolean {
  const record = frame * FRAME_WORDS
  if (!pin(table, record)) return false
  if (
    Atomics.load(table, record + FRAME.BLOB) === (blobNo | 0) &&
    Atomics.load(table, record + FRAME.PAGE) === (pageNo | 0)
  ) {
    return true
  }
  unpin(table, record)
  return false
}
