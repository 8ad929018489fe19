/**
 * Hands fills to fill threads: demand before readahead and prefetch, and only so many at a time that a thread
 * always has its next read at hand and no more. It knows nothing of frames or pins.
 */
import type { BlobRecord } from './blob-table.ts'
import type { Fill } from './fill-book.ts'
import { type FillerMessage, MAX_FILL_READ_BYTES } from './messages.ts'

interface FillThread {
  readonly post: (message: FillerMessage) => void
  readonly known: Set<number>
  demand: number
  background: number
  outbox: {
    blobs: [number, BlobRecord['key']][]
    demand: number[]
    background: number[]
    forget: number[]
  }
}

/** Enough that a thread has its next page when it is done with one; asynchronous sources work on all at once. */
const DEMAND_DEPTH = 32
/** One read that is under way and one that is next: demand overtakes all but the first. */
const BACKGROUND_READS = 2

export class FillQueue {
  readonly #threads: FillThread[] = []
  /** Sets, because they are queues from which a fill can be taken anywhere. */
  readonly #demand = new Set<Fill>()
  readonly #background = new Set<Fill>()
  /** Pages that follow each other go to one thread, in runs of this many, so that one read can fetch them. */
  readonly #runPages: number

  constructor(frameSize: number) {
    this.#runPages = Math.max(1, MAX_FILL_READ_BYTES / frameSize)
  }

  addThread(post: (message: FillerMessage) => void): number {
    this.#threads.push({ post, known: new Set(), demand: 0, background: 0, outbox: emptyOutbox() })
    return this.#threads.length - 1
  }

  push(fill: Fill): void {
    if (fill.lane === 'demand') this.#demand.add(fill)
    else this.#background.add(fill)
  }

  /** Somebody waits now for a page that was queued in the background. */
  promote(fill: Fill): void {
    if (!this.#background.delete(fill)) return
    fill.lane = 'demand'
    this.#demand.add(fill)
  }

  /**
   * Nobody waits for the page any more. @returns true if it was wanted by those who waited alone and no thread has
   * it: it is in no queue now. What was promoted goes back to the background.
   */
  withdraw(fill: Fill): boolean {
    if (!this.#demand.delete(fill)) return false
    if (fill.kind === 'demand') return true
    fill.lane = 'background'
    this.#background.add(fill)
    return false
  }

  /** A thread reported the fill. */
  done(fill: Fill): void {
    const thread = this.#threads[fill.thread]
    if (thread !== undefined) thread[fill.lane]--
  }

  forget(blobNo: number): void {
    for (const thread of this.#threads) {
      if (thread.known.delete(blobNo)) thread.outbox.forget.push(blobNo)
    }
  }

  /** Sends what the threads can take. Call at the end of each batch of decisions. */
  dispatch(): void {
    this.#assign(this.#demand, (thread) => DEMAND_DEPTH - thread.demand)
    this.#assign(this.#background, (thread) =>
      thread.demand > 0 ? 0 : BACKGROUND_READS * this.#runPages - thread.background,
    )
    for (const thread of this.#threads) {
      const { demand, background, forget } = thread.outbox
      if (demand.length + background.length + forget.length === 0) continue
      const message = thread.outbox
      thread.outbox = emptyOutbox()
      thread.post(message)
    }
  }

  #assign(queue: Set<Fill>, room: (thread: FillThread) => number): void {
    let last: Fill | undefined
    let run = 0
    for (const fill of queue) {
      let best = -1
      let bestRoom = 0
      this.#threads.forEach((thread, number) => {
        if (room(thread) > bestRoom) [best, bestRoom] = [number, room(thread)]
      })
      const before = last === undefined ? undefined : this.#threads[last.thread]
      const continues = last?.blob === fill.blob && last.pageNo + 1 === fill.pageNo
      run = continues ? run + 1 : 0
      if (last !== undefined && before !== undefined && continues && run % this.#runPages !== 0) {
        if (room(before) > 0) best = last.thread
      }
      if (best < 0) return
      queue.delete(fill)
      this.#give(fill, best)
      last = fill
    }
  }

  #give(fill: Fill, number: number): void {
    const thread = this.#threads[number]
    if (thread === undefined) return
    fill.thread = number
    thread[fill.lane]++
    const { blobNo, key } = fill.blob
    if (!thread.known.has(blobNo)) {
      thread.known.add(blobNo)
      thread.outbox.blobs.push([blobNo, key])
    }
    thread.outbox[fill.lane].push(fill.frame, blobNo, fill.pageNo, fill.validBytes)
  }
}

function emptyOutbox(): FillThread['outbox'] {
  return { blobs: [], demand: [], background: [], forget: [] }
}
