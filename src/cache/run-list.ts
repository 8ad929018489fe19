/**
 * What a read is made of: ranges of blobs' address spaces and zeros, in the order of the reply. A reusable
 * structure of typed arrays, because one is filled for every request.
 */

/** V8 keeps typed arrays of up to 64 bytes in its heap: a handle of one HTTP request costs no malloc for its runs. */
const FIRST_CAPACITY = 8

export class RunList {
  #count = 0
  #byteLength = 0
  #blobNos = new Uint32Array(FIRST_CAPACITY)
  #offsets = new Float64Array(FIRST_CAPACITY)
  #lengths = new Float64Array(FIRST_CAPACITY)
  #ordinalBases = new Float64Array(FIRST_CAPACITY)

  get count(): number {
    return this.#count
  }

  /** Sum of the lengths. */
  get byteLength(): number {
    return this.#byteLength
  }

  /**
   * @param offset in the blob, up to 2^53
   * @param length bytes; 0 adds nothing
   * @param ordinalBase page n of this blob has the ordinal ordinalBase + n in the image's accounting
   */
  push(blobNo: number, offset: number, length: number, ordinalBase: number): void {
    if (length === 0) return
    if (this.#count === this.#blobNos.length) this.#grow()
    const at = this.#count++
    this.#blobNos[at] = blobNo
    this.#offsets[at] = offset
    this.#lengths[at] = length
    this.#ordinalBases[at] = ordinalBase
    this.#byteLength += length
  }

  pushZeros(length: number): void {
    this.push(0, 0, length, 0)
  }

  clear(): void {
    this.#count = 0
    this.#byteLength = 0
  }

  /** 0: zeros. */
  blobNo(run: number): number {
    return this.#blobNos[run] ?? 0
  }

  offset(run: number): number {
    return this.#offsets[run] ?? 0
  }

  length(run: number): number {
    return this.#lengths[run] ?? 0
  }

  ordinalBase(run: number): number {
    return this.#ordinalBases[run] ?? 0
  }

  /** A copy that stays when this list is used for the next request. */
  clone(): RunList {
    const copy = new RunList()
    for (let run = 0; run < this.#count; run++) {
      copy.push(this.blobNo(run), this.offset(run), this.length(run), this.ordinalBase(run))
    }
    return copy
  }

  #grow(): void {
    const capacity = this.#blobNos.length * 2
    this.#blobNos = copyTo(new Uint32Array(capacity), this.#blobNos)
    this.#offsets = copyTo(new Float64Array(capacity), this.#offsets)
    this.#lengths = copyTo(new Float64Array(capacity), this.#lengths)
    this.#ordinalBases = copyTo(new Float64Array(capacity), this.#ordinalBases)
  }
}

function copyTo<T extends Uint32Array | Float64Array>(target: T, source: T): T {
  target.set(source)
  return target
}
