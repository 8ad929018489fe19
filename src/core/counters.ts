/**
 * Counters in shared memory: one row per thread, written by that thread alone with plain stores, summed
 * when read. An aligned 64-bit float holds integers exactly up to 2^53.
 */
export interface CounterMemory {
  readonly buffer: SharedArrayBuffer
  readonly rows: number
  readonly columns: number
}

export function createCounterMemory(rows: number, columns: number): CounterMemory {
  return { buffer: new SharedArrayBuffer(rows * columns * 8), rows, columns }
}

/** The row of one thread: `row[column] += n` is the whole cost of counting. */
export function counterRow(memory: CounterMemory, row: number): Float64Array {
  if (!(row >= 0 && row < memory.rows)) throw new RangeError(`counter row ${row} of ${memory.rows}`)
  return new Float64Array(memory.buffer, row * memory.columns * 8, memory.columns)
}

/** Column-wise sums over all rows. */
export function sumCounters(memory: CounterMemory): Float64Array {
  const sums = new Float64Array(memory.columns)
  const all = new Float64Array(memory.buffer)
  for (let row = 0; row < memory.rows; row++) {
    const base = row * memory.columns
    for (let column = 0; column < memory.columns; column++) {
      sums[column] = (sums[column] ?? 0) + (all[base + column] ?? 0)
    }
  }
  return sums
}
