/**
 * Half-open ranges of one address space in flat memory: collected in any order, then normalised to
 * ascending, disjoint ones. 16 bytes a range. Pure.
 */
const FIRST_CAPACITY = 64

export class RangeSet {
  #starts = new Float64Array(FIRST_CAPACITY)
  #ends = new Float64Array(FIRST_CAPACITY)
  #count = 0
  #isNormal = true

  add(start: number, end: number): void {
    if (end <= start) return
    const last = this.#count - 1
    // Maps give most ranges in order, and many of them touch.
    if (last >= 0 && this.#ends[last] === start) {
      this.#ends[last] = end
      return
    }
    if (last >= 0 && start < (this.#ends[last] ?? 0)) this.#isNormal = false
    if (this.#count === this.#starts.length) this.#grow()
    this.#starts[this.#count] = start
    this.#ends[this.#count++] = end
  }

  /** Ranges after normalisation. */
  get count(): number {
    this.#normalise()
    return this.#count
  }

  start(index: number): number {
    this.#normalise()
    return this.#starts[index] ?? Infinity
  }

  end(index: number): number {
    this.#normalise()
    return this.#ends[index] ?? Infinity
  }

  get bytes(): number {
    this.#normalise()
    let sum = 0
    for (let index = 0; index < this.#count; index++) {
      sum += (this.#ends[index] ?? 0) - (this.#starts[index] ?? 0)
    }
    return sum
  }

  /** Memory of this set: up to twice 16 bytes a range. */
  get heldBytes(): number {
    this.#normalise()
    return this.#starts.byteLength + this.#ends.byteLength
  }

  /** Bytes that are in both. */
  overlap(other: RangeSet): number {
    let sum = 0
    for (let a = 0, b = 0; a < this.count && b < other.count;) {
      const start = Math.max(this.start(a), other.start(b))
      const end = Math.min(this.end(a), other.end(b))
      sum += Math.max(0, end - start)
      if (this.end(a) < other.end(b)) a++
      else b++
    }
    return sum
  }

  #normalise(): void {
    if (this.#isNormal) return
    this.#isNormal = true
    const starts = this.#starts.subarray(0, this.#count)
    const order = Uint32Array.from(starts.keys()).sort(
      (a, b) => (starts[a] ?? 0) - (starts[b] ?? 0),
    )
    const sorted = new RangeSet()
    let from = 0
    let to = 0
    for (const index of order) {
      const start = starts[index] ?? 0
      const end = this.#ends[index] ?? 0
      if (start > to) {
        sorted.add(from, to)
        from = start
        to = end
      } else {
        to = Math.max(to, end)
      }
    }
    sorted.add(from, to)
    this.#starts = sorted.#starts
    this.#ends = sorted.#ends
    this.#count = sorted.#count
  }

  #grow(): void {
    const starts = new Float64Array(this.#starts.length * 2)
    const ends = new Float64Array(this.#starts.length * 2)
    starts.set(this.#starts)
    ends.set(this.#ends)
    this.#starts = starts
    this.#ends = ends
  }
}
