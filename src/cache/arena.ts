/**
 * The arena: the page frames' memory. Segments of WebAssembly memory are used because they are the only shared
 * memory in Node that is page-aligned (so O_DIRECT reads land in it), as large as 4 GiB, and only reserved
 * until touched. It knows frames and bytes, not pages or pins.
 */
import { GIB } from '../core/index.ts'

/**
 * V8 makes memory64 memories of up to 16 GiB, but Node's `Buffer.copy` keeps 32 bits of an offset: it would copy
 * another frame's bytes, and say nothing.
 */
export const MAX_SEGMENT_BYTES = 4 * GIB
const WASM_PAGE_BYTES = 65_536
/**
 * Views of whole frames that a thread keeps, a power of two: every frame of 1 GiB at 64 KiB each. A view takes
 * 104 bytes, so they take at most 1.9 MiB a thread, with the table.
 */
const MAX_FRAME_VIEWS = 16_384

/** What TypeScript's and Node's types lack of the memory64 proposal. */
interface WebAssemblyMemories {
  readonly Memory: new (descriptor: {
    initial: bigint
    maximum: bigint
    shared: true
    address: 'i64'
  }) => { readonly buffer: SharedArrayBuffer }
}

/** Zeroed shared memory of at least `bytes`, aligned to the machine's pages; none of it is resident. */
export function allocateSegment(bytes: number): SharedArrayBuffer {
  const { WebAssembly } = globalThis as unknown as { WebAssembly: WebAssemblyMemories }
  const pages = BigInt(Math.ceil(bytes / WASM_PAGE_BYTES))
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true, address: 'i64' })
    .buffer
}

/** One thread's view of the segments. */
export class Arena {
  readonly #segments: readonly Buffer[]
  readonly #frameSize: number
  readonly #slotMask: number
  readonly #segmentShift: number
  /** Views of whole frames by the low bits of the frame, and which frame each is of. Made when first needed. */
  #frameViews: (Buffer | undefined)[] = []
  #viewedFrames = new Int32Array(0)

  /** @param framesPerSegment a power of two; the last segment may be shorter */
  constructor(segments: readonly SharedArrayBuffer[], frameSize: number, framesPerSegment: number) {
    this.#segments = segments.map((segment) => Buffer.from(segment))
    this.#frameSize = frameSize
    this.#slotMask = framesPerSegment - 1
    this.#segmentShift = Math.log2(framesPerSegment)
  }

  /** True if `second` lies right behind `first` in memory. */
  adjacent(first: number, second: number): boolean {
    return second === first + 1 && (second & this.#slotMask) !== 0
  }

  /** Copies bytes of a frame, without making a view. */
  copy(frame: number, start: number, length: number, target: Buffer, targetOffset: number): void {
    const from = (frame & this.#slotMask) * this.#frameSize + start
    this.#segment(frame).copy(target, targetOffset, from, from + length)
  }

  /**
   * A view of `length` bytes from `start` of a frame; it may reach into adjacent frames. One of a whole frame is
   * given again when it is asked for again: replies from scattered frames make no objects for their pages.
   */
  view(frame: number, start: number, length: number): Buffer {
    return start === 0 && length === this.#frameSize
      ? this.#frameView(frame)
      : this.#newView(frame, start, length)
  }

  #frameView(frame: number): Buffer {
    const slot = frame & (MAX_FRAME_VIEWS - 1)
    const known = this.#frameViews[slot]
    if (known !== undefined && this.#viewedFrames[slot] === frame) return known
    if (this.#frameViews.length === 0) {
      this.#frameViews = Array.from({ length: MAX_FRAME_VIEWS }, () => undefined)
      this.#viewedFrames = new Int32Array(MAX_FRAME_VIEWS)
    }
    const view = this.#newView(frame, 0, this.#frameSize)
    this.#frameViews[slot] = view
    this.#viewedFrames[slot] = frame
    return view
  }

  #newView(frame: number, start: number, length: number): Buffer {
    const from = (frame & this.#slotMask) * this.#frameSize + start
    return this.#segment(frame).subarray(from, from + length)
  }

  #segment(frame: number): Buffer {
    const segment = this.#segments[frame >>> this.#segmentShift]
    if (segment === undefined) throw new RangeError(`frame ${frame} is outside of the arena`)
    return segment
  }
}
