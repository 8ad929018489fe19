/**
 * A read, or the next window of one, worked out in pages: which distinct pages it needs, and from which page each
 * piece of the reply comes. Reusable arrays; it knows neither the frames' memory nor threads.
 */
import type { RunList } from './run-list.ts'

/**
 * Of 128 KiB. V8 keeps typed arrays of up to 64 bytes in its heap, and a plan is held for each read that waits: with 64
 * it takes 6 KB.
 */
const FIRST_CAPACITY = 8

/** Where a window starts in a RunList. */
export interface Cursor {
  run: number
  /** Bytes of that run that earlier windows have covered. */
  done: number
}

/** Page position of a piece of zeros. */
export const ZEROS = -1

export class PagePlan {
  /** The bytes of the pieces, as the reader joins them. Part of the plan so that the next reply reuses the list. */
  readonly parts: Uint8Array[] = []
  #pages = 0
  #pieces = 0
  #byteLength = 0
  #zeroBytes = 0
  /** All pages so far are of one blob, in order: the next one behind them is new without a search. */
  #ascending = true
  /** Per distinct page. */
  #blobNos = new Uint32Array(FIRST_CAPACITY)
  #pageNos = new Uint32Array(FIRST_CAPACITY)
  #ordinals = new Float64Array(FIRST_CAPACITY)
  #bytes = new Float64Array(FIRST_CAPACITY)
  #frames = new Int32Array(FIRST_CAPACITY)
  /** Per piece, in the order of the reply. */
  #positions = new Int32Array(FIRST_CAPACITY)
  #starts = new Uint32Array(FIRST_CAPACITY)
  #lengths = new Float64Array(FIRST_CAPACITY)

  get pages(): number {
    return this.#pages
  }

  get pieces(): number {
    return this.#pieces
  }

  get byteLength(): number {
    return this.#byteLength
  }

  /** Bytes of the reply that are zeros of no page. */
  get zeroBytes(): number {
    return this.#zeroBytes
  }

  /**
   * Plans from the cursor on, and moves it, until the runs are done or the next piece would need more than
   * `maxPages` distinct pages or take the reply past `maxBytes`. @returns true when the runs are done
   */
  build(
    runs: RunList,
    pageSize: number,
    maxPages: number,
    maxBytes: number,
    cursor: Cursor,
  ): boolean {
    this.#pages = 0
    this.#pieces = 0
    this.#byteLength = 0
    this.#zeroBytes = 0
    this.#ascending = true
    for (; cursor.run < runs.count; cursor.run++, cursor.done = 0) {
      const blobNo = runs.blobNo(cursor.run)
      const length = runs.length(cursor.run)
      const offset = runs.offset(cursor.run)
      const ordinalBase = runs.ordinalBase(cursor.run)
      let pageNo = Math.floor((offset + cursor.done) / pageSize)
      let start = offset + cursor.done - pageNo * pageSize
      for (; cursor.done < length; pageNo++, start = 0) {
        const left = length - cursor.done
        if (blobNo === 0) {
          const take = Math.min(left, maxBytes - this.#byteLength)
          if (take <= 0) return false
          this.#addPiece(ZEROS, 0, take)
          this.#zeroBytes += take
          cursor.done += take
          continue
        }
        const take = Math.min(left, pageSize - start)
        if (this.#byteLength + take > maxBytes && this.#pieces > 0) return false
        let position = this.#find(blobNo, pageNo)
        if (position < 0) {
          if (this.#pages >= maxPages) return false
          position = this.#addPage(blobNo, pageNo, ordinalBase + pageNo)
        }
        this.#bytes[position] = (this.#bytes[position] ?? 0) + take
        this.#addPiece(position, start, take)
        cursor.done += take
      }
    }
    return true
  }

  blobNo(position: number): number {
    return this.#blobNos[position] ?? 0
  }

  pageNo(position: number): number {
    return this.#pageNos[position] ?? 0
  }

  /** Ordinal of the page in the image's accounting. */
  ordinal(position: number): number {
    return this.#ordinals[position] ?? 0
  }

  /** Bytes of the reply that come from the page. */
  bytes(position: number): number {
    return this.#bytes[position] ?? 0
  }

  frame(position: number): number {
    return this.#frames[position] ?? 0
  }

  setFrame(position: number, frame: number): void {
    this.#frames[position] = frame
  }

  /** Position of the piece's page, or ZEROS. */
  position(piece: number): number {
    return this.#positions[piece] ?? ZEROS
  }

  start(piece: number): number {
    return this.#starts[piece] ?? 0
  }

  length(piece: number): number {
    return this.#lengths[piece] ?? 0
  }

  /** Latest first: most pieces come from the page of the piece before, or one close to it. */
  #find(blobNo: number, pageNo: number): number {
    const last = this.#pages - 1
    if (this.#ascending && blobNo === this.#blobNos[last] && pageNo > (this.#pageNos[last] ?? 0)) {
      return -1
    }
    for (let position = this.#pages - 1; position >= 0; position--) {
      if (this.#pageNos[position] === pageNo && this.#blobNos[position] === blobNo) return position
    }
    return -1
  }

  #addPage(blobNo: number, pageNo: number, ordinal: number): number {
    if (this.#pages === this.#blobNos.length) {
      this.#blobNos = grown(this.#blobNos)
      this.#pageNos = grown(this.#pageNos)
      this.#ordinals = grown(this.#ordinals)
      this.#bytes = grown(this.#bytes)
      this.#frames = grown(this.#frames)
    }
    const position = this.#pages++
    if (position > 0) {
      const before = position - 1
      this.#ascending &&= this.#blobNos[before] === blobNo && (this.#pageNos[before] ?? 0) < pageNo
    }
    this.#blobNos[position] = blobNo
    this.#pageNos[position] = pageNo
    this.#ordinals[position] = ordinal
    this.#bytes[position] = 0
    return position
  }

  #addPiece(position: number, start: number, length: number): void {
    if (this.#pieces === this.#positions.length) {
      this.#positions = grown(this.#positions)
      this.#starts = grown(this.#starts)
      this.#lengths = grown(this.#lengths)
    }
    const piece = this.#pieces++
    this.#positions[piece] = position
    this.#starts[piece] = start
    this.#lengths[piece] = length
    this.#byteLength += length
  }
}

function grown<T extends Int32Array | Uint32Array | Float64Array>(from: T): T {
  const Type = from.constructor as new (length: number) => T
  const to = new Type(from.length * 2)
  to.set(from)
  return to
}
