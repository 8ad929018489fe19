/**
 * The outgoing bytes of one connection, in order: small pieces are copied into pooled buffers, large ones
 * kept as they are with their release, both gathered into batches of at most 768 KiB that are handed to a sink
 * one at a time. It knows neither sockets nor replies. Every release runs exactly once: when its batch is
 * written, or when the connection is aborted.
 */
import { NbdError } from './errors.ts'

/** Replies up to this many bytes are copied: one write of a joined buffer beats a vector of small ones. */
export const COPY_REPLY_BYTES = 16 * 1024
/** Pieces below this many bytes inside larger replies are copied: an iovec costs more than the copy. */
const COPY_PIECE_BYTES = 4 * 1024
/** Holds the answers to a full queue of 4 KiB reads (32 deep) with room to spare, and fits into L2. */
const GATHER_BYTES = 256 * 1024
/** Gather buffers kept for reuse, 8 MiB. */
const MAX_POOLED = 32
/**
 * Bytes handed to the socket at once: progress of a slow reader is seen in steps of this size. On loopback 576 to
 * 832 KiB cost the kernel up to a sixth less for a byte than 512 KiB or 1 MiB (docs/adr/0006).
 */
const BATCH_BYTES = 768 * 1024

/** A pooled buffer and how many hold it: the lane that fills it, and each batch with a piece of it. */
export interface Gather {
  readonly bytes: Buffer
  readonly view: DataView
  used: number
  holders: number
}

/** Buffers for small replies, shared by the connections of a server. */
export class GatherPool {
  readonly #free: Gather[] = []

  take(): Gather {
    const gather = this.#free.pop() ?? newGather()
    gather.used = 0
    gather.holders = 1
    return gather
  }

  drop(gather: Gather): void {
    if (--gather.holders === 0 && this.#free.length < MAX_POOLED) this.#free.push(gather)
  }
}

function newGather(): Gather {
  // Only ranges that a reply has filled completely are ever sent.
  const bytes = Buffer.allocUnsafeSlow(GATHER_BYTES)
  return { bytes, view: new DataView(bytes.buffer), used: 0, holders: 0 }
}

interface Batch {
  /**
   * The first `chunkCount` places are taken. The list is used again and never shortened, because that would give its
   * memory away: it has at most two places for each COPY_PIECE_BYTES of a batch, about 3 KiB.
   */
  readonly chunks: Uint8Array[]
  chunkCount: number
  readonly releases: (() => void)[]
  readonly gathers: Gather[]
  bytes: number
  /** Requests whose last byte is in this batch, and what they count against the limits. */
  requests: number
  requestBytes: number
}

/**
 * Copies all of `source`. The last byte goes apart, because Buffer's `copy` of a whole array is TypedArray's `set`,
 * which copies shared memory that is not aligned alike byte by byte; of a part it is memmove.
 */
function copyBytes(source: Uint8Array, target: Buffer, targetOffset: number): void {
  const last = source.length - 1
  if (last < 0) return
  Buffer.prototype.copy.call(source, target, targetOffset, 0, last)
  target[targetOffset + last] = source[last] ?? 0
}

/** Bytes of all parts. By index: iterating, V8 makes an object for each part. */
export function sizeOf(parts: readonly Uint8Array[]): number {
  let bytes = 0
  for (let i = 0; i < parts.length; i++) bytes += parts[i]?.length ?? 0
  return bytes
}

/** One order of bytes: batches that are complete, and the one being filled. */
interface Lane {
  readonly batches: Batch[]
  /** Not yet taken by the socket: of `batches`, and of the one being written if this lane is being sent. */
  bytes: number
  gather: Gather | undefined
  /** Start of the bytes of `gather` that are in no chunk yet. */
  from: number
}

export interface OutputSink {
  /**
   * Writes the first `count` chunks in order. True: they are taken already; false: OutputQueue.written() follows.
   * The list is the queue's.
   */
  write(chunks: readonly Uint8Array[], count: number): boolean
  /** Requests whose replies have been taken completely. */
  onWritten(requests: number, requestBytes: number): void
  /** A release function threw. */
  onReleaseError(error: unknown): void
}

export class OutputQueue {
  readonly #sink: OutputSink
  readonly #pool: GatherPool
  #main: Lane = newLane()
  /** While a stream holds the line, everything else waits here. */
  #deferred: Lane | undefined
  readonly #spare: Batch[] = []
  #writing: Batch | undefined
  #flushing = false
  #aborted = false

  constructor(sink: OutputSink, pool: GatherPool) {
    this.#sink = sink
    this.#pool = pool
  }

  /** Bytes not yet taken by the socket. */
  get queuedBytes(): number {
    return this.#main.bytes + (this.#deferred?.bytes ?? 0)
  }

  /** Of those, the ones that go out without an unhold(): who holds the line may wait for them, and for no others. */
  get aheadBytes(): number {
    return this.#main.bytes
  }

  get busy(): boolean {
    return this.#writing !== undefined
  }

  /** Where commit() will take `bytes` (at most 16 KiB and a header) from: fill from `used` on. */
  reserve(bytes: number): Gather {
    const lane = this.#deferred ?? this.#main
    return this.#reserveIn(lane, bytes)
  }

  /** Sends the `bytes` that were filled in behind the last reserve(). */
  commit(bytes: number): void {
    const lane = this.#deferred ?? this.#main
    if (lane.gather !== undefined) this.#commitIn(lane, lane.gather, bytes)
  }

  /** Copies `bytes` of any size, for the owner of the hold when `held`. */
  copy(bytes: Uint8Array, held = false): void {
    const lane = this.#lane(held)
    for (let at = 0; at < bytes.length; at += COPY_REPLY_BYTES) {
      const piece = bytes.subarray(at, at + COPY_REPLY_BYTES)
      const gather = this.#reserveIn(lane, piece.length)
      copyBytes(piece, gather.bytes, gather.used)
      this.#commitIn(lane, gather, piece.length)
    }
  }

  /** Sends the parts as they are (small ones copied); release runs when the last of them is written. */
  append(parts: readonly Uint8Array[], release: () => void, held = false): void {
    if (this.#aborted) {
      this.#release(release)
      return
    }
    const lane = this.#lane(held)
    // By index, as in sizeOf().
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i] ?? NO_BYTES
      if (part.length < COPY_PIECE_BYTES) this.copy(part, held)
      else this.#appendPart(lane, part)
    }
    this.#openBatch(lane).releases.push(release)
  }

  /** Counts one request as answered by what was appended last. */
  endRequest(requestBytes: number): void {
    const batch = this.#openBatch(this.#deferred ?? this.#main)
    batch.requests++
    batch.requestBytes += requestBytes
  }

  /**
   * From here on only the owner's bytes are sent, until unhold().
   * @throws ERR_NBD_STATE while somebody holds it already: what waits then would be lost with its releases
   */
  hold(): void {
    if (this.#deferred !== undefined) {
      throw new NbdError('ERR_NBD_STATE', 'output queue: hold() before the unhold() of the last')
    }
    this.#deferred = newLane()
  }

  unhold(): void {
    const deferred = this.#deferred
    if (deferred === undefined) return
    this.#deferred = undefined
    const main = this.#main
    this.#seal(main)
    if (main.gather !== undefined) this.#pool.drop(main.gather)
    deferred.batches.unshift(...main.batches)
    deferred.bytes += main.bytes
    this.#main = deferred
  }

  /** Hands batches to the sink until it is full or nothing is left. */
  flush(): void {
    if (this.#flushing || this.#writing !== undefined || this.#aborted) return
    this.#flushing = true
    while (this.#writing === undefined && !this.#aborted) {
      const batch = this.#main.batches[0]
      if (batch === undefined) break
      if (this.#main.batches.length === 1) this.#seal(this.#main)
      this.#main.batches.shift()
      this.#writing = batch
      const { chunks, chunkCount } = batch
      if (chunkCount === 0 || this.#sink.write(chunks, chunkCount)) this.#finishWriting()
    }
    this.#flushing = false
    this.#dropIdleGather()
  }

  /** The sink's last write is complete. */
  written(): void {
    this.#finishWriting()
    this.flush()
  }

  /** Releases everything; nothing is sent any more. Call when the socket no longer refers to the parts. */
  abort(): void {
    this.#aborted = true
    this.#finishWriting()
    for (const lane of [this.#main, this.#deferred]) {
      if (lane === undefined) continue
      for (const batch of lane.batches.splice(0)) this.#complete(lane, batch)
      if (lane.gather !== undefined) this.#pool.drop(lane.gather)
      lane.gather = undefined
    }
  }

  #lane(held: boolean): Lane {
    return held ? this.#main : (this.#deferred ?? this.#main)
  }

  #reserveIn(lane: Lane, bytes: number): Gather {
    let gather = lane.gather
    if (gather !== undefined && gather.used + bytes <= GATHER_BYTES) return gather
    if (gather !== undefined) {
      this.#seal(lane)
      this.#pool.drop(gather)
    }
    gather = this.#pool.take()
    lane.gather = gather
    lane.from = 0
    return gather
  }

  /** Bytes of the gather that are in no chunk belong to the last batch: it is opened before they count. */
  #commitIn(lane: Lane, gather: Gather, bytes: number): void {
    this.#openBatch(lane).bytes += bytes
    lane.bytes += bytes
    gather.used += bytes
  }

  #openBatch(lane: Lane): Batch {
    const last = lane.batches[lane.batches.length - 1]
    if (last !== undefined && last.bytes < BATCH_BYTES) return last
    if (last !== undefined) this.#seal(lane, last)
    const batch = this.#spare.pop() ?? newBatch()
    lane.batches.push(batch)
    return batch
  }

  #appendPart(lane: Lane, part: Uint8Array): void {
    for (let at = 0; at < part.length;) {
      const batch = this.#openBatch(lane)
      this.#seal(lane, batch)
      const length = Math.min(part.length - at, BATCH_BYTES - batch.bytes)
      addChunk(batch, length === part.length ? part : part.subarray(at, at + length))
      batch.bytes += length
      lane.bytes += length
      at += length
    }
  }

  /** Turns the gathered bytes that are in no chunk yet into one. */
  #seal(lane: Lane, batch: Batch | undefined = lane.batches.at(-1)): void {
    const gather = lane.gather
    if (gather === undefined || batch === undefined || gather.used === lane.from) return
    addChunk(batch, gather.bytes.subarray(lane.from, gather.used))
    lane.from = gather.used
    if (batch.gathers.at(-1) === gather) return
    gather.holders++
    batch.gathers.push(gather)
  }

  #finishWriting(): void {
    const batch = this.#writing
    if (batch === undefined) return
    this.#writing = undefined
    this.#complete(this.#main, batch)
  }

  #complete(lane: Lane, batch: Batch): void {
    const { bytes, requests, requestBytes, releases, gathers } = batch
    lane.bytes -= bytes
    for (let i = 0; i < releases.length; i++) this.#release(releases[i])
    for (let i = 0; i < gathers.length; i++) {
      const gather = gathers[i]
      if (gather !== undefined) this.#pool.drop(gather)
    }
    for (let i = 0; i < batch.chunkCount; i++) batch.chunks[i] = NO_BYTES
    batch.chunkCount = 0
    releases.length = 0
    gathers.length = 0
    batch.bytes = 0
    batch.requests = 0
    batch.requestBytes = 0
    if (this.#spare.length < MAX_SPARE_BATCHES) this.#spare.push(batch)
    this.#sink.onWritten(requests, requestBytes)
  }

  #release(release: (() => void) | undefined): void {
    try {
      release?.()
    } catch (error) {
      this.#sink.onReleaseError(error)
    }
  }

  /** An idle connection holds no buffer; one that is alone with its buffer starts it anew. */
  #dropIdleGather(): void {
    const lane = this.#main
    const gather = lane.gather
    if (gather === undefined || lane.batches.length > 0) return
    if (lane.from !== gather.used) return
    lane.gather = undefined
    lane.from = 0
    this.#pool.drop(gather)
  }
}

const MAX_SPARE_BATCHES = 4
/** In the place of a chunk that was sent, so that nothing refers to it any more. */
const NO_BYTES = new Uint8Array(0)

function newLane(): Lane {
  return { batches: [], bytes: 0, gather: undefined, from: 0 }
}

function newBatch(): Batch {
  return {
    chunks: [],
    chunkCount: 0,
    releases: [],
    gathers: [],
    bytes: 0,
    requests: 0,
    requestBytes: 0,
  }
}

function addChunk(batch: Batch, chunk: Uint8Array): void {
  batch.chunks[batch.chunkCount++] = chunk
}
