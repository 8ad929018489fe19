/**
 * Readahead that stops where its file does: the cache sees blobs, in which the next file follows at once,
 * and would bring in the start of a file that nobody asked for.
 */
import type { RunList } from '../cache/index.ts'
import { SequentialState } from '../cache/index.ts'

export class BoundedReadahead extends SequentialState {
  /** Bytes of the file behind the request that comes next; set before each. */
  bytesBehind = 0

  override advance(runs: RunList): ReturnType<SequentialState['advance']> {
    const range = super.advance(runs)
    if (range === undefined) return undefined
    let last = runs.count - 1
    while (last > 0 && runs.blobNo(last) !== range.blobNo) last--
    // A file's whole blocks lie in its order: what is left of it in this blob ends here or earlier.
    const limit = runs.offset(last) + runs.length(last) + this.bytesBehind
    const length = Math.min(range.length, limit - range.offset)
    return length > 0 ? { ...range, length } : undefined
  }
}

/** For reads of metadata, which jump: nothing is ever read ahead. */
export class NoReadahead extends SequentialState {
  override advance(): undefined {
    return undefined
  }
}
