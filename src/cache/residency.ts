/** What is in memory now, found by scanning the frame table: for reports, from any thread. */
import { FRAME, recordOf } from './frame-table.ts'
import type { CacheMemory } from './memory.ts'
import { EVICTING, pinsOf } from './pin-protocol.ts'

/** The pages of each blob that are in memory, ascending. Pages being filled do not count. */
export function residentPagesByBlob(memory: CacheMemory): Map<number, Uint32Array> {
  const table = new Int32Array(memory.table)
  const pages = new Map<number, number[]>()
  for (let record = 0; record < table.length; record += recordOf(1)) {
    const blobNo = table[record + FRAME.BLOB] ?? 0
    if (blobNo === 0 || ((table[record] ?? 0) & EVICTING) !== 0) continue
    const pageNo = (table[record + FRAME.PAGE] ?? 0) >>> 0
    const known = pages.get(blobNo)
    if (known === undefined) pages.set(blobNo, [pageNo])
    else known.push(pageNo)
  }
  return new Map([...pages].map(([blobNo, list]) => [blobNo, Uint32Array.from(list).sort()]))
}

/** Bytes of the frames that somebody holds pinned. Allocates nothing; 1 ms for a million frames or so. */
export function pinnedBytes(memory: CacheMemory): number {
  const table = new Int32Array(memory.table)
  let frames = 0
  for (let record = 0; record < table.length; record += recordOf(1)) {
    if (pinsOf(table[record] ?? 0) > 0) frames++
  }
  return frames * memory.frameSize
}
