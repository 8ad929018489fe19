/**
 * One reader's request for pages as the keeper sees it: from its arrival until it is answered with all its
 * frames pinned, or with an error and none. It holds state; the keeper decides.
 */
import type { ErrorRecord } from '../core/index.ts'
import { GRANTED, type PageList, type ReaderAnswer, type ReadRequest } from './messages.ts'

export class Grant {
  readonly reader: number
  readonly id: number
  readonly imageId: number
  readonly pages: PageList
  readonly deadlineMs: number
  /** Frames pinned on the reader's behalf, by position; -1: not yet. */
  readonly frames: number[]
  readonly how: number[]
  /** Pages that were neither in memory nor on their way when the keeper looked last. */
  absent = 0
  /** The first of them, as the keeper names it. */
  lack = ''
  #missing: number

  constructor(reader: number, request: ReadRequest, deadlineMs: number) {
    const count = request.pages.length / 2
    this.reader = reader
    this.id = request.id
    this.imageId = request.imageId
    this.pages = request.pages
    this.deadlineMs = deadlineMs
    this.frames = Array.from({ length: count }, () => -1)
    this.how = Array.from({ length: count }, () => GRANTED.RESIDENT)
    this.#missing = count
  }

  get complete(): boolean {
    return this.#missing === 0
  }

  /** The frame of a position has been pinned for the reader. */
  hold(position: number, frame: number): void {
    this.frames[position] = frame
    this.#missing--
  }

  /** Gives up what is held. @returns the frames to unpin */
  letGo(): number[] {
    const held = this.frames.filter((frame) => frame >= 0)
    this.frames.fill(-1)
    this.#missing = this.frames.length
    return held
  }

  answer(): ReaderAnswer {
    return { id: this.id, frames: this.frames, how: this.how }
  }

  refuse(error: ErrorRecord): ReaderAnswer {
    return { id: this.id, error }
  }
}
