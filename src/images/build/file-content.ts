/**
 * Cuts the content of files into chunks and gives each its place: equal chunks have one, zeros none, and small files
 * lie in their inodes. It remembers where in the archives the bytes of each place are; they stay there.
 *
 * Memory: 48 bytes and a run for each chunk that is placed, 28 bytes a run.
 */
import { hash } from 'node:crypto'

import { formatSize } from '../../core/index.ts'
import { imageError } from '../errors.ts'
import type { FileData, ImageWriter } from '../../erofs/index.ts'
import { BLOCK_SIZE, CHUNK_SIZE, HOLE, MAX_INLINE_FILE } from '../../erofs/index.ts'
import type { Segment } from '../../tar/index.ts'
import type { BuiltDevice } from './built-device.ts'
import { Float64Column, Uint32Column, upperBound } from '../import/columns.ts'
import { DigestTable } from '../import/digest-table.ts'
import { isZero } from '../import/piece-store.ts'
import type { SourceFile } from '../import/source-file.ts'

/** A file's bytes in an archive. */
export interface ArchivedBytes {
  readonly source: SourceFile
  /** Byte of the source where the data starts. */
  readonly offset: number
  /** Bytes of the file, holes included. */
  readonly size: number
  /** What of the file the source holds, one range behind the other; undefined: all. */
  readonly segments: readonly Segment[] | undefined
}

/** Runs of places that are bytes of a source, ascending. */
interface PlacedRuns {
  /** Byte in the data space. */
  readonly place: Float64Column
  readonly length: Float64Column
  readonly source: Uint32Column
  readonly offset: Float64Column
}

/** 4 bytes each: a sparse file of a few bytes may say that it is as long as a device. */
const MAX_CHUNKS = 64 * 1024 * 1024

/** Chunks between two moments when the process may say how far it is, and may be stopped. */
const STEP_CHUNKS = 64

export class FileContent {
  readonly #runs: PlacedRuns = {
    place: new Float64Column(),
    length: new Float64Column(),
    source: new Uint32Column(),
    offset: new Float64Column(),
  }
  readonly #writer: Pick<ImageWriter, 'allocateData'>
  readonly #digests = new DigestTable()
  /** First block of each chunk, by row of the table. */
  readonly #blocks = new Uint32Column()
  /** By the numbers in the runs. */
  readonly #sources: SourceFile[] = []
  readonly #chunk = Buffer.alloc(CHUNK_SIZE)
  /** Files whose chunks have no places yet. */
  readonly #unplaced: { readonly bytes: ArchivedBytes; readonly blocks: Uint32Array }[] = []
  /** Of all files, holes among them. */
  #chunks = 0

  constructor(writer: Pick<ImageWriter, 'allocateData'>) {
    this.#writer = writer
  }

  /**
   * Gives a device the bytes of the data space.
   *
   * @param start byte of the device where the space starts
   * @param files chunks of all files of the image: what none of them has, stays zeros
   */
  addTo(device: BuiltDevice, start: number, files: Iterable<Uint32Array>): void {
    const { place, length, source, offset } = this.#runs
    const isLive = this.#liveChunks(files)
    let chunk = 0
    for (let row = 0; row < place.length; row++) {
      const block = Math.floor(place.at(row) / BLOCK_SIZE)
      while (chunk + 1 < isLive.length && this.#blocks.at(chunk + 1) <= block) chunk++
      if (isLive[chunk] !== 1) continue
      const file = this.#sources[source.at(row)]
      if (file !== undefined)
        device.add(start + place.at(row), length.at(row), file, offset.at(row))
    }
  }

  /**
   * The file's data; its chunks have their places when `placeChunks` has run.
   *
   * @throws ERR_IMPORT_TOO_COMPLEX
   */
  dataOf(bytes: ArchivedBytes): FileData {
    const { size } = bytes
    if (size <= MAX_INLINE_FILE) return new InlineContent(bytes)
    this.#chunks += Math.ceil(size / CHUNK_SIZE)
    if (this.#chunks > MAX_CHUNKS) {
      throw imageError(
        'ERR_IMPORT_TOO_COMPLEX',
        `the files say that they have more than ${formatSize(MAX_CHUNKS * CHUNK_SIZE)}, holes included`,
      )
    }
    const blocks = new Uint32Array(Math.ceil(size / CHUNK_SIZE))
    this.#unplaced.push({ bytes, blocks })
    return { kind: 'chunks', size, blocks }
  }

  /**
   * Gives the chunks of all files since the last call their places. Yields each time that it has looked at 4 MiB,
   * holes included: the bytes of the sources that it has read since.
   *
   * @throws ERR_IMPORT_SOURCE, ERR_EROFS_TOO_LARGE
   */
  *placeChunks(): Generator<number, void, void> {
    for (const { bytes, blocks } of this.#unplaced.splice(0)) {
      const reader = new FileReader(bytes)
      const source = this.#numberOf(bytes.source)
      let read = 0
      for (const index of blocks.keys()) {
        const start = index * CHUNK_SIZE
        const length = Math.min(CHUNK_SIZE, bytes.size - start)
        const ranges = reader.ranges(start, length)
        blocks[index] =
          ranges.length === 0 ? HOLE : this.#placeChunk(reader, source, start, length, ranges)
        read += ranges.reduce((sum, range) => sum + range.length, 0)
        if (index % STEP_CHUNKS !== STEP_CHUNKS - 1) continue
        yield read
        read = 0
      }
    }
  }

  /** 1 for each chunk that a file has, by row. */
  #liveChunks(files: Iterable<Uint32Array>): Uint8Array {
    const isLive = new Uint8Array(this.#blocks.length)
    const first = this.#blocks.view()
    for (const blocks of files) {
      for (const block of blocks) if (block !== HOLE) isLive[upperBound(first, block) - 1] = 1
    }
    return isLive
  }

  #placeChunk(
    reader: FileReader,
    source: number,
    start: number,
    length: number,
    ranges: readonly Range[],
  ): number {
    const [only] = ranges
    const chunk =
      ranges.length === 1 && only?.length === length
        ? reader.view(only.offset, length)
        : this.#chunk.subarray(0, length)
    if (chunk.buffer === this.#chunk.buffer) reader.read(chunk, start, ranges)
    if (isZero(chunk)) return HOLE
    const digest = hash('sha256', chunk, 'buffer')
    const row = this.#digests.find(digest)
    if (row >= 0) return this.#blocks.at(row)
    const block = this.#writer.allocateData(Math.ceil(length / BLOCK_SIZE))
    this.#digests.add(digest)
    this.#blocks.push(block)
    const { place, length: lengths, source: sources, offset } = this.#runs
    for (const range of ranges) {
      place.push(block * BLOCK_SIZE + (range.start - start))
      lengths.push(range.length)
      sources.push(source)
      offset.push(range.offset)
    }
    return block
  }

  #numberOf(source: SourceFile): number {
    // files of one source follow each other
    if (this.#sources.at(-1) !== source) this.#sources.push(source)
    return this.#sources.length - 1
  }
}

/** Read when the image is written. */
class InlineContent {
  readonly kind = 'inline'
  readonly #bytes: ArchivedBytes

  constructor(bytes: ArchivedBytes) {
    this.#bytes = bytes
  }

  get size(): number {
    return this.#bytes.size
  }

  read(): Buffer {
    const content = Buffer.alloc(this.size)
    const reader = new FileReader(this.#bytes)
    reader.read(content, 0, reader.ranges(0, this.size))
    return content
  }
}

/** A range of a file that its source holds. */
interface Range {
  /** In the file. */
  readonly start: number
  readonly length: number
  /** In the source. */
  readonly offset: number
}

class FileReader {
  readonly #bytes: ArchivedBytes
  /** The first segment that the last read needed, and where its bytes lie: files are read forward. */
  #segment = 0
  #offset: number

  constructor(bytes: ArchivedBytes) {
    this.#bytes = bytes
    this.#offset = bytes.offset
  }

  view(offset: number, length: number): Buffer {
    return this.#bytes.source.view(offset, length)
  }

  /** Fills `target` with the file's bytes from `start`, of which the source holds `ranges`; holes are zeros. */
  read(target: Buffer, start: number, ranges: readonly Range[]): void {
    target.fill(0)
    for (const range of ranges) {
      const at = range.start - start
      this.#bytes.source.read(target.subarray(at, at + range.length), range.offset)
    }
  }

  /** What the source holds of a range. Ranges are asked for in ascending order. */
  ranges(start: number, length: number): Range[] {
    const { segments, offset } = this.#bytes
    if (segments === undefined)
      return length === 0 ? [] : [{ start, length, offset: offset + start }]
    const ranges: Range[] = []
    const end = start + length
    for (let index = this.#segment, from = this.#offset; index < segments.length; index++) {
      const segment = segments[index]
      if (segment === undefined || segment.offset >= end) break
      const first = Math.max(segment.offset, start)
      const last = Math.min(segment.offset + segment.length, end)
      if (last > first)
        ranges.push({ start: first, length: last - first, offset: from + (first - segment.offset) })
      if (segment.offset + segment.length > end) break
      from += segment.length
      // the next read starts here or later
      this.#segment = index + 1
      this.#offset = from
    }
    return ranges
  }
}
