/**
 * Hands fills to fill threads: demand before readahead and prefetch, and only so many at a time that a demand
 * fill never waits behind more than a few pages nobody asked for. It knows nothing of frames or pins.
 */
import type { BlobRecord } from './blob-table.ts'
import type { Fill } from './fill-book.ts'
import type { FillerMessage } from './messages.ts'

interface FillThread {
  readonly post: (message: FillerMessage) => void
  readonly known: Set<number>
  demand: number
  background: number
  outbox: { blobs: [number, BlobRecord['key']][]; fills: number[]; forget: number[] }
}

/** Enough that a thread has its next page when it is done with one; asynchronous sources work on all at once. */
const DEMAND_DEPTH = 32
const BACKGROUND_DEPTH = 4
/** Pages that follow each other go to one thread, in runs of this many, so that one read can fetch them. */
const RUN_PAGES = 4

export class FillQueue {
  readonly #threads: FillThread[] = []
  /** Sets, because they are queues from which a fill can be taken anywhere. */
  readonly #demand = new Set<Fill>()
  readonly #background = new Set<Fill>()

  addThread(post: (message: FillerMessage) => void): number {
    this.#threads.push({ post, known: new Set(), demand: 0, background: 0, outbox: emptyOutbox() })
    return this.#threads.length - 1
  }

  push(fill: Fill): void {
    if (fill.kind === 'demand') this.#demand.add(fill)
    else this.#background.add(fill)
  }

  /** Somebody waits now for a page that was queued in the background. */
  promote(fill: Fill): void {
    if (this.#background.delete(fill)) this.#demand.add(fill)
  }

  /** Readahead and prefetch pages that no thread has started on. */
  get backgroundLength(): number {
    return this.#background.size
  }

  /** A thread reported the fill. */
  done(fill: Fill): void {
    const thread = this.#threads[fill.thread]
    if (thread === undefined) return
    if (fill.kind === 'demand') thread.demand--
    else thread.background--
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
      thread.demand > 0 ? 0 : BACKGROUND_DEPTH - thread.background,
    )
    for (const thread of this.#threads) {
      const { fills, forget } = thread.outbox
      if (fills.length === 0 && forget.length === 0) continue
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
      if (last !== undefined && before !== undefined && continues && run % RUN_PAGES !== 0) {
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
    if (fill.kind === 'demand') thread.demand++
    else thread.background++
    const { blobNo, key } = fill.blob
    if (!thread.known.has(blobNo)) {
      thread.known.add(blobNo)
      thread.outbox.blobs.push([blobNo, key])
    }
    thread.outbox.fills.push(fill.frame, blobNo, fill.pageNo, fill.validBytes)
  }
}

function emptyOutbox(): FillThread['outbox'] {
  return { blobs: [], fills: [], forget: [] }
}
