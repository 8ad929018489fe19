/**
 * Maps of sparse files, in the four forms that GNU tar has written: which ranges of the file the archive holds.
 * Source: GNU tar manual, "Storing Sparse Files".
 */
import { tarError } from './errors.ts'
import { BLOCK_BYTES, decodeNumber } from './header.ts'
import { decodeDecimal } from './pax.ts'

/** A range of a file, whose bytes lie in the archive behind those of the range before. */
export interface Segment {
  readonly offset: number
  readonly length: number
}

/** What an archive may say about one file: 24 bytes each while its entry is read. */
const MAX_SEGMENTS = 4_000_000

/** Old GNU format: four in the header, 21 in each block that may follow. */
const OLD_GNU = {
  segments: 386,
  inHeader: 4,
  isExtended: 482,
  realSize: 483,
  inBlock: 21,
  blockIsExtended: 504,
  numberBytes: 12,
} as const

export interface OldGnuMap {
  readonly segments: readonly Segment[]
  readonly realSize: number
  /** Bytes of further blocks between header and data. */
  readonly extraBytes: number
}

/** @param readBlock the block so many bytes behind the header */
export function decodeOldGnu(
  header: Buffer,
  offset: number,
  readBlock: (behind: number) => Buffer,
): OldGnuMap {
  const segments: Segment[] = []
  takeOldGnu(header.subarray(OLD_GNU.segments), OLD_GNU.inHeader, segments, offset)
  const realSize = numberAt(header, OLD_GNU.realSize, offset)
  let extraBytes = 0
  let more = header[OLD_GNU.isExtended] !== 0
  while (more) {
    extraBytes += BLOCK_BYTES
    const block = readBlock(extraBytes)
    takeOldGnu(block, OLD_GNU.inBlock, segments, offset)
    more = block[OLD_GNU.blockIsExtended] !== 0
  }
  return { segments, realSize, extraBytes }
}

function takeOldGnu(bytes: Buffer, count: number, into: Segment[], offset: number): void {
  for (let index = 0; index < count; index++) {
    const at = index * 2 * OLD_GNU.numberBytes
    const length = numberAt(bytes, at + OLD_GNU.numberBytes, offset)
    // The list ends with an empty segment, or at the end of the file.
    if (bytes[at] === 0) return
    push(into, { offset: numberAt(bytes, at, offset), length }, offset)
  }
}

function numberAt(bytes: Buffer, at: number, offset: number): number {
  const value = decodeNumber(bytes.subarray(at, at + OLD_GNU.numberBytes))
  if (value === undefined || value < 0) throw bad(offset)
  return value
}

/** PAX 0.1 (GNU.sparse.map), and 0.0, whose pairs a reader collects: "OFFSET,LENGTH,OFFSET,LENGTH…". */
export function decodeList(list: Buffer, offset: number): Segment[] {
  const segments: Segment[] = []
  const numbers = list.length === 0 ? [] : list.toString('latin1').split(',')
  for (let index = 0; index < numbers.length; index += 2) {
    push(segments, pair(numbers[index], numbers[index + 1], offset), offset)
  }
  return segments
}

/** PAX 1.0: lines before the data, the number of segments first, padded to a block. */
export class LineMap {
  readonly segments: Segment[] = []
  readonly #offset: number
  #line = ''
  /** Pairs to come; undefined before the first line. */
  #left: number | undefined
  #first: string | undefined

  constructor(offset: number) {
    this.#offset = offset
  }

  /** @returns true when the map is complete: data starts behind the block. */
  push(block: Buffer): boolean {
    for (const byte of block) {
      if (byte !== NEWLINE) {
        this.#line += String.fromCharCode(byte)
        if (this.#line.length > MAX_DIGITS) throw bad(this.#offset)
        continue
      }
      this.#take(this.#line)
      this.#line = ''
      if (this.#left === 0) return true
    }
    return false
  }

  #take(line: string): void {
    if (this.#left === undefined) {
      this.#left = decimal(line, this.#offset)
    } else if (this.#first === undefined) {
      this.#first = line
    } else {
      push(this.segments, pair(this.#first, line, this.#offset), this.#offset)
      this.#first = undefined
      this.#left--
    }
  }
}

const NEWLINE = 0x0a
const MAX_DIGITS = 20

/** @throws ERR_TAR_BAD_HEADER unless they ascend, lie inside the file, and take as many bytes as the archive has */
export function checkSegments(
  segments: readonly Segment[],
  realSize: number,
  storedSize: number,
  offset: number,
): void {
  let end = 0
  let stored = 0
  for (const segment of segments) {
    if (segment.offset < end) throw bad(offset)
    end = segment.offset + segment.length
    stored += segment.length
  }
  if (end > realSize || stored !== storedSize) throw bad(offset)
}

function push(into: Segment[], segment: Segment, offset: number): void {
  if (segment.length === 0) return
  if (into.length >= MAX_SEGMENTS) throw bad(offset)
  into.push(segment)
}

function pair(first: string | undefined, second: string | undefined, offset: number): Segment {
  return { offset: decimal(first, offset), length: decimal(second, offset) }
}

function decimal(text: string | undefined, offset: number): number {
  const value = decodeDecimal(Buffer.from(text ?? '', 'latin1'))
  if (value === undefined) throw bad(offset)
  return value
}

function bad(offset: number): Error {
  return tarError('ERR_TAR_BAD_HEADER', `the sparse file at byte ${offset} has a damaged map`)
}
