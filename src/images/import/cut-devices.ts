/**
 * The second and third pass of an import: file data in chunks, file by file in the order of the device;
 * then everything else, and the rests of chunks, in the order of the device. Reads the devices and hands
 * pieces to the piece store; it decides borders only.
 */
import { KIB, MIB } from '../../core/index.ts'
import { ChunkParts } from './chunk-parts.ts'
import { Float64Column, rowsInOrder } from './columns.ts'
import type { DataExtents, Intervals } from './data-extents.ts'
import type { DeviceReader } from './device-reader.ts'
import type { CutPoints } from './metadata-cuts.ts'
import { cutIntoPieces } from './metadata-cuts.ts'
import type { PieceStore } from './piece-store.ts'

/** ARCHITECTURE "chunk": what deduplicates best on real trees. */
export const CHUNK_BYTES = 64 * KIB
/** The smallest block of an EROFS image: a chunk has no more parts than this many, and one for its border. */
const SMALLEST_BLOCK_BYTES = 512
const MAX_PARTS = CHUNK_BYTES / SMALLEST_BLOCK_BYTES + 1

/** Longer gaps are worked off in such steps, each of which ends on a border of fixed pieces. */
const GAP_STEP_BYTES = 16 * MIB

/** Bytes that the chunk pass left to be cut like metadata. */
interface LeftOver {
  readonly address: Float64Column
  readonly length: Float64Column
}

export interface CutInput {
  readonly reader: DeviceReader
  readonly pieces: PieceStore
  readonly extents: DataExtents
  readonly cuts: CutPoints
  /** Devices that have a map already: nothing of them is cut. */
  readonly taken: Intervals
}

/** Accounts for every byte of every device that is not taken. Yields the bytes of each step. */
export function* cutDevices(input: CutInput): Generator<number, void, void> {
  const covered = input.extents.claim(input.taken)
  const left: LeftOver = { address: new Float64Column(), length: new Float64Column() }
  yield* cutFiles(input, left)
  addGaps(input, covered, left)
  yield* cutTheRest(input, left)
}

function* cutFiles(input: CutInput, left: LeftOver): Generator<number, void, void> {
  const { extents, pieces, reader } = input
  const parts = new ChunkParts(MAX_PARTS)
  const gathered = Buffer.alloc(CHUNK_BYTES)
  const read = (address: number, target: Buffer): void => reader.copy(address, target)
  for (const file of extents.filesInDeviceOrder()) {
    const endRow = extents.endRow(file)
    const size = extents.fileSize.at(file)
    let row = extents.firstRow.at(file)
    let start = 0
    while (row < endRow) {
      // Chunks that are holes as a whole have no rows, and cost nothing.
      start = Math.max(start, Math.floor(extents.logical.at(row) / CHUNK_BYTES) * CHUNK_BYTES)
      const length = Math.min(CHUNK_BYTES, size - start)
      row = parts.take(extents, row, endRow, start, length)
      start += CHUNK_BYTES
      if (parts.ownedBytes === 0) continue
      const bytes = gathered.subarray(0, length)
      const only = parts.onlyAddress
      if (only < 0) parts.gather(bytes, read)
      if (!pieces.addChunk(only < 0 ? bytes : reader.view(only, length), parts)) {
        parts.visitOwned(0, length, (address, ownedLength) => {
          left.address.push(address)
          left.length.push(ownedLength)
        })
      }
      yield parts.ownedBytes
    }
  }
}

/** What no file and no taken device covers. */
function addGaps(input: CutInput, covered: Intervals, left: LeftOver): void {
  let next = 0
  const addGap = (from: number, to: number): void => {
    for (let at = from; at < to;) {
      const stop = Math.min(to, (Math.floor(at / GAP_STEP_BYTES) + 1) * GAP_STEP_BYTES)
      left.address.push(at)
      left.length.push(stop - at)
      at = stop
    }
  }
  for (const device of input.reader.devices) {
    const end = device.base + device.size
    let at = device.base
    for (; (covered.starts[next] ?? Infinity) < end; next++) {
      addGap(at, covered.starts[next] ?? end)
      at = covered.ends[next] ?? end
    }
    addGap(at, end)
  }
}

/** Left-over ranges and the rests of chunks, together in the order of their addresses. */
function* cutTheRest(input: CutInput, left: LeftOver): Generator<number, void, void> {
  const { reader, pieces } = input
  const { deferred } = pieces
  const gaps = left.address.length
  const addresses = new Float64Array(gaps + deferred.address.length)
  addresses.set(left.address.view())
  addresses.set(deferred.address.view(), gaps)
  let device = 0
  for (const item of rowsInOrder(addresses)) {
    if (item >= gaps) {
      const length = deferred.length.at(item - gaps)
      pieces.addDeferred(item - gaps, reader.view(addresses[item] ?? 0, length))
      continue
    }
    const from = addresses[item] ?? 0
    const to = from + left.length.at(item)
    while ((reader.devices[device + 1]?.base ?? Infinity) <= from) device++
    const span = reader.devices[device]
    if (span === undefined) throw new RangeError(`import address ${from}`)
    cutIntoPieces(from, to, span, input.cuts, (address, length, kind) => {
      const bytes = reader.view(address, length)
      if (kind === 'block') pieces.addBlocks(address, bytes)
      else pieces.addPacked(address, bytes)
    })
    yield to - from
  }
}

/** Ranges of whole devices, as `taken`. */
export function spansOf(devices: readonly { base: number; size: number }[]): Intervals {
  return {
    starts: Float64Array.from(devices, (device) => device.base),
    ends: Float64Array.from(devices, (device) => device.base + device.size),
  }
}
