/**
 * Growable columns of numbers: what an import remembers of files and chunks is kept in these and never
 * in one object each, so its memory can be stated in bytes per row. Knows nothing of what the numbers
 * mean.
 */

const FIRST_CAPACITY = 1024

export class Float64Column {
  #data = new Float64Array(FIRST_CAPACITY)
  #length = 0

  get length(): number {
    return this.#length
  }

  push(value: number): void {
    if (this.#length === this.#data.length) {
      const wider = new Float64Array(this.#data.length * 2)
      wider.set(this.#data)
      this.#data = wider
    }
    this.#data[this.#length++] = value
  }

  /** NaN beyond the end. */
  at(row: number): number {
    return row < this.#length ? (this.#data[row] ?? NaN) : NaN
  }

  set(row: number, value: number): void {
    if (row < this.#length) this.#data[row] = value
  }

  /** The column's own memory, valid until the next push. */
  view(): Float64Array {
    return this.#data.subarray(0, this.#length)
  }
}

export class Uint32Column {
  #data = new Uint32Array(FIRST_CAPACITY)
  #length = 0

  get length(): number {
    return this.#length
  }

  push(value: number): void {
    if (this.#length === this.#data.length) {
      const wider = new Uint32Array(this.#data.length * 2)
      wider.set(this.#data)
      this.#data = wider
    }
    this.#data[this.#length++] = value
  }

  /** 0 beyond the end. */
  at(row: number): number {
    return row < this.#length ? (this.#data[row] ?? 0) : 0
  }

  set(row: number, value: number): void {
    if (row < this.#length) this.#data[row] = value
  }

  /** The column's own memory, valid until the next push. */
  view(): Uint32Array {
    return this.#data.subarray(0, this.#length)
  }
}

/** Row numbers 0 to n − 1 in ascending order of their key; rows of equal keys stay in their order. */
export function rowsInOrder(keys: Float64Array): Uint32Array {
  const rows = new Uint32Array(keys.length)
  let sorted = true
  for (let row = 0; row < rows.length; row++) {
    rows[row] = row
    if (row > 0 && (keys[row - 1] ?? 0) > (keys[row] ?? 0)) sorted = false
  }
  // mkfs writes files in the order of the tree, so that most tables are in order already.
  return sorted ? rows : rows.sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0) || a - b)
}

/** First index of an ascending array whose value is greater than `value`; its length when there is none. */
export function upperBound(sorted: Float64Array | Uint32Array, value: number): number {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] ?? Infinity) > value) high = middle
    else low = middle + 1
  }
  return low
}
