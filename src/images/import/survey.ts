/**
 * The first pass over an EROFS image: walks its tree and notes which device bytes are data of which
 * file, and where metadata has borders. Keeps numbers only: 28 bytes for each run of file data, 12 for each
 * file, 16 for each inode. It reads metadata, never file data.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

import { formatSize, isAppError, MIB } from '../../core/index.ts'
import type { ErofsImage, Inode, WalkEntry } from '../../erofs/index.ts'
import { walk } from '../../erofs/index.ts'
import { imageError } from '../errors.ts'
import { DataExtents } from './data-extents.ts'
import type { DeviceReader } from './device-reader.ts'
import { CutPoints } from './metadata-cuts.ts'

export interface Survey {
  readonly image: ErofsImage
  readonly extents: DataExtents
  readonly cuts: CutPoints
  /** Sum of the sizes of all regular files. */
  readonly logicalBytes: number
  readonly inodes: number
  /** Files whose data is compressed: not cut along their content. */
  readonly compressedFiles: number
  /** Files of which not every byte could be found on the devices. */
  readonly damagedFiles: number
}

/**
 * Runs of file data that an image may have for each of its blocks, and beside that: mkfs that stores
 * equal chunks once refers to a block several times, an image made to keep us busy millions of times.
 */
const MAX_RUNS_PER_BLOCK = 16
const MIN_MAX_RUNS = 1_000_000

/**
 * Inode records, chunk tables and directories lie beside each other, so that together they are no longer than
 * the devices. An image made to keep us busy puts them over each other: it may do so for this many bytes.
 */
const MAX_OVERLAPPING_BYTES = 16 * MIB
/** How long other events, a cancel among them, may have to wait. */
const MAX_BUSY_MS = 100

const SUPERBLOCK_OFFSET = 1024
const DEVICE_SLOT_BYTES = 128

/**
 * @param opened the devices' image, opened over `reader`
 * @throws ERR_EROFS_* when the tree cannot be read, ERR_IMPORT_TOO_COMPLEX, ERR_ABORTED
 */
export async function surveyImage(
  reader: DeviceReader,
  image: ErofsImage,
  signal: AbortSignal | undefined,
): Promise<Survey> {
  const surveyor = new Surveyor(reader, image)
  surveyor.addSuperblock()
  for (const internal of await internalInodes(image)) surveyor.addRecord(internal)
  let lastTurn = performance.now()
  for await (const entry of walk(image, signal === undefined ? {} : { signal })) {
    await surveyor.add(entry)
    if (performance.now() - lastTurn < MAX_BUSY_MS) continue
    await nextTurn()
    lastTurn = performance.now()
  }
  return surveyor.result()
}

async function internalInodes(image: ErofsImage): Promise<Inode[]> {
  const packed = await image.packedInode()
  const metabox = image.superblock.metaboxNid === undefined ? undefined : await image.metaboxInode()
  return [packed, metabox].filter((inode) => inode !== undefined)
}

class Surveyor {
  readonly #reader: DeviceReader
  readonly #image: ErofsImage
  readonly #extents = new DataExtents()
  readonly #cuts = new CutPoints()
  readonly #maxRuns: number
  readonly #maxMetadataBytes: number
  #runs = 0
  #metadataBytes = 0
  #logicalBytes = 0
  #inodes = 0
  #compressedFiles = 0
  #damagedFiles = 0

  constructor(reader: DeviceReader, image: ErofsImage) {
    this.#reader = reader
    this.#image = image
    const blocks = reader.totalSize / image.superblock.blockSize
    this.#maxRuns = Math.max(MIN_MAX_RUNS, blocks * MAX_RUNS_PER_BLOCK)
    this.#maxMetadataBytes = reader.totalSize + MAX_OVERLAPPING_BYTES
  }

  addSuperblock(): void {
    const { superblockSize, deviceTableOffset, extraDevices } = this.#image.superblock
    this.#cut(SUPERBLOCK_OFFSET, superblockSize)
    this.#cut(deviceTableOffset, extraDevices * DEVICE_SLOT_BYTES)
  }

  addRecord(inode: Inode): void {
    const record = this.#image.inodeRecord(inode)
    if (record === undefined) return
    this.#countMetadata(record.length)
    this.#cut(record.offset, record.length)
  }

  async add(entry: WalkEntry): Promise<void> {
    const { inode } = entry
    this.#inodes++
    this.addRecord(inode)
    if (inode.isFile) {
      this.#logicalBytes += inode.size
      if (inode.isCompressed) this.#compressedFiles++
      else await this.#addFile(entry)
    } else if (!inode.isSpecial && !inode.isCompressed) {
      await this.#addMetadata(entry)
    }
  }

  result(): Survey {
    return {
      image: this.#image,
      extents: this.#extents,
      cuts: this.#cuts,
      logicalBytes: this.#logicalBytes,
      inodes: this.#inodes,
      compressedFiles: this.#compressedFiles,
      damagedFiles: this.#damagedFiles,
    }
  }

  async #addFile(entry: WalkEntry): Promise<void> {
    this.#extents.beginFile(entry.inode.size)
    let logical = 0
    try {
      for await (const extent of entry.extents()) {
        this.#countRun()
        if (extent.kind === 'data') {
          this.#extents.add(this.#base(extent.device) + extent.deviceOffset, extent.length, logical)
        }
        logical += extent.length
      }
    } catch (error) {
      // What was found of the file is cut as file data, the rest of the device like any other bytes.
      if (!isAppError(error) || !error.code.startsWith('ERR_EROFS_')) throw error
      this.#damagedFiles++
    }
  }

  /** Directories are cut at their blocks, from their own offset 0; symbolic links are one piece. */
  async #addMetadata(entry: WalkEntry): Promise<void> {
    const { blockSize } = this.#image.superblock
    this.#countMetadata(entry.inode.size)
    let logical = 0
    for await (const extent of entry.extents()) {
      this.#countRun()
      if (extent.kind === 'data') {
        const address = this.#base(extent.device) + extent.deviceOffset
        const firstBorder = (blockSize - (logical % blockSize)) % blockSize
        for (let at = firstBorder; at < extent.length; at += blockSize) {
          this.#countRun()
          this.#cuts.add(address + at)
        }
        this.#cuts.add(address)
        this.#cuts.add(address + extent.length)
      }
      logical += extent.length
    }
  }

  #cut(offset: number, length: number): void {
    if (length === 0) return
    this.#cuts.add(this.#base(0) + offset)
    this.#cuts.add(this.#base(0) + offset + length)
  }

  #base(device: number): number {
    return this.#reader.devices[device]?.base ?? 0
  }

  #countRun(): void {
    if (++this.#runs <= this.#maxRuns) return
    throw imageError(
      'ERR_IMPORT_TOO_COMPLEX',
      `the files of the image refer to more than ${this.#maxRuns} runs of blocks`,
    )
  }

  #countMetadata(bytes: number): void {
    this.#metadataBytes += bytes
    if (this.#metadataBytes <= this.#maxMetadataBytes) return
    throw imageError(
      'ERR_IMPORT_TOO_COMPLEX',
      `inodes and directories of the image take more than ${formatSize(this.#maxMetadataBytes)}, more than the image has`,
    )
  }
}
