/**
 * A keeper without threads: messages go in by calls, what it sends is collected, fills are reported by hand, time
 * is a variable.
 */
import assert from 'node:assert/strict'

import {
  cacheStats,
  createCacheMemory,
  Keeper,
  type KeeperOptions,
  pinnedBytes,
  sumCacheCounters,
} from '../../src/cache/index.ts'
import { recordOf } from '../../src/cache/frame-table.ts'
import { openCacheMemory } from '../../src/cache/memory.ts'
import type { ReaderAnswer, ReadGrant } from '../../src/cache/messages.ts'
import { unpin } from '../../src/cache/pin-protocol.ts'

export const FRAME_SIZE = 16_384

export interface Order {
  readonly frame: number
  readonly blobNo: number
  readonly pageNo: number
  readonly validBytes: number
  /** In which of its two lists the fill thread got it. */
  readonly lane: 'demand' | 'background'
}

export class KeeperBench {
  readonly memory
  readonly keeper: Keeper
  readonly answers = new Map<number, ReaderAnswer>()
  readonly answered: number[] = []
  /** Fills handed out and not reported, in order. */
  readonly orders: Order[] = []
  readonly forgotten: number[] = []
  now = 0
  #lastId = 0

  constructor(frames = 8, options: KeeperOptions = {}) {
    const cacheBytes = frames * FRAME_SIZE
    this.memory = createCacheMemory({
      cacheBytes,
      frameSize: FRAME_SIZE,
      threads: 1,
      allowTiny: true,
    })
    this.keeper = new Keeper(this.memory, { now: () => this.now, ...options })
    this.keeper.addReader((answers) => {
      for (const answer of answers) {
        this.answers.set(answer.id, answer)
        this.answered.push(answer.id)
      }
    })
    this.addFiller()
  }

  addFiller(): void {
    this.keeper.addFiller((message) => {
      this.forgotten.push(...message.forget)
      for (const lane of ['demand', 'background'] as const) {
        const fills = message[lane]
        for (let i = 0; i < fills.length; i += 4) {
          const [frame = 0, blobNo = 0, pageNo = 0, validBytes = 0] = fills.slice(i)
          this.orders.push({ frame, blobNo, pageNo, validBytes, lane })
        }
      }
    })
  }

  open(pages = 100, digest = 'a', domain = 'd'): number {
    const size = pages * FRAME_SIZE
    return this.keeper.openBlobs([{ domain, digest, size }])[0]?.blobNo ?? assert.fail()
  }

  read(blobNo: number, pageNos: number[], imageId = 0): number {
    const id = ++this.#lastId
    const pages = pageNos.flatMap((pageNo) => [blobNo, pageNo])
    this.keeper.fromReader(0, [{ type: 'read', id, imageId, pages }])
    return id
  }

  fetch(type: 'readahead' | 'prefetch', blobNo: number, pageNos: number[]): number {
    const pages = pageNos.flatMap((pageNo) => [blobNo, pageNo])
    this.keeper.fromReader(0, [{ type, id: ++this.#lastId, imageId: 0, pages }])
    return this.#lastId
  }

  /** Reports the oldest `count` orders as done. */
  fill(count = Infinity): void {
    const done = this.orders.splice(0, count)
    this.keeper.fromFiller(done.map(({ frame }) => ({ frame })))
  }

  isGranted(id: number): boolean {
    const answer = this.answers.get(id)
    return answer !== undefined && 'frames' in answer
  }

  grant(id: number): ReadGrant {
    const answer = this.answers.get(id)
    assert.ok(answer !== undefined && 'frames' in answer, `no grant for ${id}`)
    return answer
  }

  code(id: number): string {
    const answer = this.answers.get(id)
    assert.ok(answer !== undefined && 'error' in answer, `no refusal for ${id}`)
    return answer.error.code
  }

  /** Nobody waits for the read any more. */
  cancel(...ids: number[]): void {
    this.keeper.fromReader(
      0,
      ids.map((id) => ({ type: 'cancel', id })),
    )
  }

  release(id: number): void {
    const { table } = openCacheMemory(this.memory)
    for (const frame of this.grant(id).frames) unpin(table, recordOf(frame))
  }

  get stats() {
    return cacheStats(sumCacheCounters(this.memory))
  }

  get pinned(): number {
    return pinnedBytes(this.memory) / FRAME_SIZE
  }
}
