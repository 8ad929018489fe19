/**
 * Decides where the bytes of each piece lie: in the blob that this import writes, because it holds them
 * already or takes them now, or in a blob that the domain has. Says so in the mapping table. It does not cut
 * and does not read devices.
 */
import { rawDigestOf } from '../../core/index.ts'
import type { Digest } from '../../core/index.ts'
import type { BlobWriter, ChunkIndex, ChunkRecord } from '../../store/index.ts'
import { STORE_BLOCK_BYTES } from '../../store/index.ts'
import type { ChunkParts } from './chunk-parts.ts'
import { Float64Column, Uint32Column } from './columns.ts'
import { DigestTable } from './digest-table.ts'
import type { MappingTable } from './mapping-table.ts'

/** Sources of the mapping table: the two regions of the new blob, then blobs of the domain. */
export const NEW_BLOCKS = 1
export const NEW_PACKED = 2
export const FIRST_EXISTING = 3

/**
 * A run of zeros costs a map entry and splits the run around it: 40 bytes. Shorter ones between packed
 * pieces (the padding of inode slots) are stored as they are.
 */
const MAX_STORED_ZEROS = 64
/** A file that owns less of a chunk than this share stores only what it owns: the store at most doubles. */
const MIN_OWNED_SHARE = 0.5

/** The chunks of the domain: what of its chunk index is asked here. */
export type KnownChunks = Pick<ChunkIndex, 'lookup'>

/** A rest whose place in region 2 is not known yet: device bytes, and the row of its chunk. */
export interface DeferredRests {
  readonly address: Float64Column
  readonly length: Uint32Column
  readonly chunk: Uint32Column
}

export interface PieceStoreParts {
  readonly writer: BlobWriter
  /** undefined: what the domain has is not asked. */
  readonly known: KnownChunks | undefined
  readonly mappings: MappingTable
}

export class PieceStore {
  readonly deferred: DeferredRests = {
    address: new Float64Column(),
    length: new Uint32Column(),
    chunk: new Uint32Column(),
  }
  readonly #writer: BlobWriter
  readonly #known: KnownChunks | undefined
  readonly #mappings: MappingTable
  /** New chunks with a deferred rest: by row, until the rest is placed. */
  readonly #open = new DigestTable()
  readonly #openLength = new Uint32Column()
  readonly #openWholeOffset = new Float64Column()
  /** Offset in region 2; NaN until placed. */
  readonly #openRestOffset = new Float64Column()
  readonly #existing = new Map<Digest, number>()

  constructor(parts: PieceStoreParts) {
    this.#writer = parts.writer
    this.#known = parts.known
    this.#mappings = parts.mappings
  }

  /** Blobs of the domain that pieces were found in, in the order of their source numbers. */
  get existingBlobs(): Digest[] {
    return [...this.#existing.keys()]
  }

  /**
   * A chunk of file data.
   *
   * @returns false when it is not in the store and too little of it is owned to store it whole: the caller
   *   cuts the owned bytes like metadata
   */
  addChunk(bytes: Buffer, parts: ChunkParts): boolean {
    if (isZero(bytes)) return true
    const digest = rawDigestOf(bytes)
    const row = this.#open.find(digest)
    if (row >= 0) this.#mapOpen(row, bytes, parts)
    else if (!this.#mapStored(digest, parts)) {
      if (parts.ownedBytes < parts.length * MIN_OWNED_SHARE) return false
      this.#storeChunk(digest, bytes, parts)
    }
    return true
  }

  /** A deferred rest, in the order of addresses. `bytes` are the device's at the row's address. */
  addDeferred(deferredRow: number, bytes: Buffer): void {
    const row = this.deferred.chunk.at(deferredRow)
    const offset = this.#placeRest(row, bytes)
    this.#mappings.add(this.deferred.address.at(deferredRow), bytes.length, NEW_PACKED, offset)
  }

  /** A piece that goes to region 2 as a whole. At most 4 KiB. */
  addPacked(address: number, bytes: Buffer): void {
    if (isZero(bytes)) {
      this.#addZeros(address, bytes)
      return
    }
    const digest = rawDigestOf(bytes)
    if (this.#mapPiece(digest, address, bytes)) return
    const restOffset = this.#writer.appendPacked(bytes)
    this.#writer.addChunk(digest, {
      length: bytes.length,
      wholeLength: 0,
      wholeOffset: 0,
      restOffset,
    })
    this.#mappings.add(address, bytes.length, NEW_PACKED, restOffset)
  }

  /** A piece of a device without structure: whole blocks to region 1. */
  addBlocks(address: number, bytes: Buffer): void {
    if (isZero(bytes)) return
    const digest = rawDigestOf(bytes)
    if (this.#mapPiece(digest, address, bytes)) return
    const record = this.#append(bytes)
    this.#writer.addChunk(digest, record)
    this.#mapRecord(record, address, NEW_BLOCKS, NEW_PACKED)
  }

  /** Short runs of zeros right behind packed bytes go with them. */
  #addZeros(address: number, bytes: Buffer): void {
    const end = this.#writer.packedBytes
    if (bytes.length > MAX_STORED_ZEROS || !this.#mappings.endsAt(address, NEW_PACKED, end)) return
    this.#mappings.add(address, bytes.length, NEW_PACKED, this.#writer.appendPacked(bytes))
  }

  #mapStored(digest: Buffer, parts: ChunkParts): boolean {
    const own = this.#writer.findChunk(digest, parts.length)
    const found = own === undefined ? this.#known?.lookup(digest, parts.length) : undefined
    const record = own ?? found?.record
    if (record === undefined) return false
    const existing = found === undefined ? 0 : this.#sourceOf(found.blob)
    const { length, wholeLength } = record
    parts.map(this.#mappings, 0, wholeLength, existing || NEW_BLOCKS, record.wholeOffset)
    parts.map(this.#mappings, wholeLength, length, existing || NEW_PACKED, record.restOffset)
    return true
  }

  #mapPiece(digest: Buffer, address: number, bytes: Buffer): boolean {
    const row = this.#open.find(digest)
    if (row >= 0) {
      const wholeLength = wholeOf(bytes.length)
      const restOffset = this.#placeRest(row, bytes.subarray(wholeLength))
      this.#mapRecord(
        {
          length: bytes.length,
          wholeLength,
          wholeOffset: this.#openWholeOffset.at(row),
          restOffset,
        },
        address,
        NEW_BLOCKS,
        NEW_PACKED,
      )
      return true
    }
    const own = this.#writer.findChunk(digest, bytes.length)
    if (own !== undefined) {
      this.#mapRecord(own, address, NEW_BLOCKS, NEW_PACKED)
      return true
    }
    const found = this.#known?.lookup(digest, bytes.length)
    if (found === undefined) return false
    const source = this.#sourceOf(found.blob)
    this.#mapRecord(found.record, address, source, source)
    return true
  }

  #mapRecord(record: ChunkRecord, address: number, blocks: number, packed: number): void {
    const { length, wholeLength, wholeOffset, restOffset } = record
    if (wholeLength > 0) this.#mappings.add(address, wholeLength, blocks, wholeOffset)
    if (length > wholeLength) {
      this.#mappings.add(address + wholeLength, length - wholeLength, packed, restOffset)
    }
  }

  #storeChunk(digest: Buffer, bytes: Buffer, parts: ChunkParts): void {
    const wholeLength = wholeOf(bytes.length)
    if (wholeLength === bytes.length || parts.ownedAddress(wholeLength, bytes.length) < 0) {
      const record = this.#append(bytes)
      this.#writer.addChunk(digest, record)
      parts.map(this.#mappings, 0, wholeLength, NEW_BLOCKS, record.wholeOffset)
      parts.map(this.#mappings, wholeLength, bytes.length, NEW_PACKED, record.restOffset)
      return
    }
    const row = this.#open.add(digest)
    this.#openLength.push(bytes.length)
    this.#openWholeOffset.push(
      wholeLength === 0 ? 0 : this.#writer.appendBlocks(bytes.subarray(0, wholeLength)),
    )
    this.#openRestOffset.push(NaN)
    this.#mapOpen(row, bytes, parts)
  }

  #mapOpen(row: number, bytes: Buffer, parts: ChunkParts): void {
    const wholeLength = wholeOf(bytes.length)
    parts.map(this.#mappings, 0, wholeLength, NEW_BLOCKS, this.#openWholeOffset.at(row))
    if (!parts.ownsAny(wholeLength, bytes.length)) return
    const address = parts.ownedAddress(wholeLength, bytes.length)
    if (address < 0) {
      const offset = this.#placeRest(row, bytes.subarray(wholeLength))
      parts.map(this.#mappings, wholeLength, bytes.length, NEW_PACKED, offset)
      return
    }
    this.deferred.address.push(address)
    this.deferred.length.push(bytes.length - wholeLength)
    this.deferred.chunk.push(row)
  }

  /** The offset of a row's rest in region 2, which takes it now if it has not. */
  #placeRest(row: number, rest: Buffer): number {
    const placed = this.#openRestOffset.at(row)
    if (!Number.isNaN(placed)) return placed
    const restOffset = this.#writer.appendPacked(rest)
    this.#openRestOffset.set(row, restOffset)
    const length = this.#openLength.at(row)
    this.#writer.addChunk(Buffer.from(this.#open.digestAt(row)), {
      length,
      wholeLength: wholeOf(length),
      wholeOffset: this.#openWholeOffset.at(row),
      restOffset,
    })
    return restOffset
  }

  #append(bytes: Buffer): ChunkRecord {
    const length = bytes.length
    const wholeLength = wholeOf(length)
    return {
      length,
      wholeLength,
      wholeOffset:
        wholeLength === 0 ? 0 : this.#writer.appendBlocks(bytes.subarray(0, wholeLength)),
      restOffset:
        wholeLength === length ? 0 : this.#writer.appendPacked(bytes.subarray(wholeLength)),
    }
  }

  #sourceOf(blob: Digest): number {
    let source = this.#existing.get(blob)
    if (source === undefined) {
      source = FIRST_EXISTING + this.#existing.size
      this.#existing.set(blob, source)
    }
    return source
  }
}

const ZEROS = Buffer.alloc(64 * 1024)

export function isZero(bytes: Buffer): boolean {
  // Nearly every piece that is not zero says so in its first byte or its last.
  if (bytes[0] !== 0 || bytes[bytes.length - 1] !== 0) return false
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const end = Math.min(at + ZEROS.length, bytes.length)
    if (bytes.compare(ZEROS, 0, end - at, at, end) !== 0) return false
  }
  return true
}

function wholeOf(length: number): number {
  return length - (length % STORE_BLOCK_BYTES)
}
