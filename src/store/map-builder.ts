/**
 * Builds an address map extent by extent, in the order of the device, in flat memory (20 bytes an
 * extent). Sources may be blobs that do not exist yet: what an extent's offsets count from is said when
 * the map is encoded. Nothing is read or written here.
 */
import type { MapBlob, MapFacts } from './map-codec.ts'
import { EXTENT, EXTENT_WORDS, encodeMap } from './map-codec.ts'

const TWO_32 = 0x1_0000_0000
const FIRST_CAPACITY = 1024
/** Typed arrays of 2^31 words and more are not portable; a map of 100 million extents is 2 GB. */
export const MAX_EXTENTS = 100_000_000

/** What a source number stands for once it is known. */
export interface ResolvedSource {
  readonly blob: MapBlob
  /** Added to the offsets of the source's extents: the start of region 2 for packed pieces. */
  readonly base: number
}

export class MapBuilder {
  #words = new Uint32Array(FIRST_CAPACITY * EXTENT_WORDS)
  #count = 0
  #size = 0
  #sources = 0
  /** Of the last extent, so that its continuation is merged. */
  #lastSource = -1
  #lastEnd = 0

  /** Bytes of the device so far. */
  get size(): number {
    return this.#size
  }

  get extentCount(): number {
    return this.#count
  }

  /** A new source number for `addPiece`, from 1. Its meaning is given to `encode`. */
  addSource(): number {
    return ++this.#sources
  }

  /** The next `length` bytes of the device are zeros. */
  addZeros(length: number): void {
    this.#add(length, 0, 0)
  }

  /** The next `length` bytes of the device are those at `offset` of a source. */
  addPiece(length: number, source: number, offset: number): void {
    if (!(source >= 1 && source <= this.#sources)) throw new RangeError(`source ${source}`)
    this.#add(length, source, offset)
  }

  /**
   * The map's file. `sources[k - 1]` is what source k stands for; a source without extents may be
   * undefined. Sources of one blob share an entry, entries without extents are left out.
   *
   * @throws RangeError when a source with extents is not resolved
   */
  encode(sources: readonly (ResolvedSource | undefined)[], facts: MapFacts): Buffer {
    const merged = new MapBuilder()
    const blobs: MapBlob[] = []
    const entries = new Map<string, number>()
    const entryOf: number[] = []
    for (let index = 0; index < this.#count; index++) {
      const at = index * EXTENT_WORDS
      const next = index + 1 < this.#count ? this.#at(at + EXTENT_WORDS) : this.#size
      const length = next - this.#at(at)
      const source = this.#words[at + EXTENT.source] ?? 0
      if (source === 0) {
        merged.#add(length, 0, 0)
        continue
      }
      const resolved = sources[source - 1]
      if (resolved === undefined) throw new RangeError(`source ${source} is not resolved`)
      let entry = entryOf[source] ?? entries.get(resolved.blob.digest)
      if (entry === undefined) {
        entry = blobs.push(resolved.blob)
        entries.set(resolved.blob.digest, entry)
      }
      entryOf[source] = entry
      merged.#add(length, entry, resolved.base + this.#at(at + EXTENT.blobLow))
    }
    return encodeMap({
      ...facts,
      size: merged.#size,
      extentCount: merged.#count,
      extents: merged.#words,
      blobs,
    })
  }

  #add(length: number, source: number, offset: number): void {
    const valid = length >= 0 && offset >= 0 && Number.isSafeInteger(this.#size + length)
    if (!valid || !Number.isSafeInteger(offset + length)) {
      throw new RangeError(`extent of ${length} bytes at ${offset}`)
    }
    if (length === 0) return
    const continues = source === this.#lastSource && (source === 0 || offset === this.#lastEnd)
    if (!continues) this.#append(source, offset)
    this.#lastSource = source
    this.#lastEnd = offset + length
    this.#size += length
  }

  #append(source: number, offset: number): void {
    if (this.#count === MAX_EXTENTS) throw new RangeError(`more than ${MAX_EXTENTS} extents`)
    const at = this.#count++ * EXTENT_WORDS
    if (at + EXTENT_WORDS > this.#words.length) {
      const grown = new Uint32Array(this.#words.length * 2)
      grown.set(this.#words)
      this.#words = grown
    }
    this.#words[at + EXTENT.deviceLow] = this.#size % TWO_32
    this.#words[at + EXTENT.deviceHigh] = Math.floor(this.#size / TWO_32)
    this.#words[at + EXTENT.blobLow] = offset % TWO_32
    this.#words[at + EXTENT.blobHigh] = Math.floor(offset / TWO_32)
    this.#words[at + EXTENT.source] = source
  }

  /** The 64-bit number whose low word is at `word`. */
  #at(word: number): number {
    return (this.#words[word + 1] ?? 0) * TWO_32 + (this.#words[word] ?? 0)
  }
}
