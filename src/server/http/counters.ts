/**
 * Counters of the HTTP front end in one row of shared memory: plain additions where requests are answered,
 * labelled samples where metrics are collected. The columns are the contract between the two.
 */
import { OPERATIONS, OPERATION_IDS } from './operations.ts'
import type { OperationId } from './operations.ts'

/** Upper bounds in seconds (50 µs to 10 s, × 2.5); a last bucket takes the rest. */
export const DURATION_BUCKETS_SECONDS: readonly number[] = [
  0.00005, 0.000125, 0.0003, 0.0008, 0.002, 0.005, 0.0125, 0.03, 0.08, 0.2, 0.5, 1.25, 3, 10,
]
const BUCKETS = DURATION_BUCKETS_SECONDS.length + 1
export const STATUS_CLASSES = ['2xx', '3xx', '4xx', '5xx'] as const

const STATUS = 0
const BYTES = STATUS + STATUS_CLASSES.length
const SECONDS = BYTES + 1
const BUCKET = SECONDS + 1
const PER_OPERATION = BUCKET + BUCKETS

/** Columns that belong to no operation. */
const WS_CLIENTS = 0
const WS_DROPPED = 1
const ABORTED = 2
const GENERAL = 3

/** Columns of one row. */
export const HTTP_COUNTER_COLUMNS = GENERAL + OPERATION_IDS.length * PER_OPERATION

const bases: ReadonlyMap<OperationId, number> = new Map(
  OPERATION_IDS.map((id, i) => [id, GENERAL + i * PER_OPERATION]),
)

/** The writing side: one per thread, over that thread's row. */
export class HttpCounters {
  readonly #row: Float64Array

  constructor(row: Float64Array) {
    if (row.length < HTTP_COUNTER_COLUMNS) {
      throw new RangeError(`a row of ${HTTP_COUNTER_COLUMNS} counters is needed, got ${row.length}`)
    }
    this.#row = row
  }

  request(id: OperationId, status: number, bytes: number, seconds: number): void {
    const row = this.#row
    const base = bases.get(id) ?? 0
    add(row, base + STATUS + Math.min(Math.max(Math.trunc(status / 100) - 2, 0), 3), 1)
    add(row, base + BYTES, bytes)
    add(row, base + SECONDS, seconds)
    let bucket = 0
    while (bucket < BUCKETS - 1 && seconds > (DURATION_BUCKETS_SECONDS[bucket] ?? Infinity))
      bucket++
    add(row, base + BUCKET + bucket, 1)
  }

  aborted(): void {
    add(this.#row, ABORTED, 1)
  }

  eventClients(change: 1 | -1): void {
    add(this.#row, WS_CLIENTS, change)
  }

  eventDropped(): void {
    add(this.#row, WS_DROPPED, 1)
  }
}

export interface OperationSample {
  readonly method: string
  readonly route: string
  readonly requests: Readonly<Record<(typeof STATUS_CLASSES)[number], number>>
  readonly responseBytes: number
  readonly durationSeconds: {
    readonly sum: number
    readonly count: number
    /** Not cumulative; one more than DURATION_BUCKETS_SECONDS. */
    readonly buckets: readonly number[]
  }
}

export interface HttpSample {
  readonly operations: readonly OperationSample[]
  readonly requests: number
  readonly responseBytes: number
  readonly aborted: number
  readonly eventClients: number
  readonly eventDropped: number
}

/** The reading side: `sums` are the sums over the rows of all threads. */
export function readHttpCounters(sums: Float64Array): HttpSample {
  const at = (column: number): number => sums[column] ?? 0
  const operations = OPERATION_IDS.map((id): OperationSample => {
    const base = bases.get(id) ?? 0
    const buckets = Array.from({ length: BUCKETS }, (_, i) => at(base + BUCKET + i))
    return {
      method: OPERATIONS[id].method,
      route: OPERATIONS[id].path,
      requests: {
        '2xx': at(base),
        '3xx': at(base + 1),
        '4xx': at(base + 2),
        '5xx': at(base + 3),
      },
      responseBytes: at(base + BYTES),
      durationSeconds: { sum: at(base + SECONDS), count: total(buckets), buckets },
    }
  })
  return {
    operations,
    requests: total(operations.map((operation) => operation.durationSeconds.count)),
    responseBytes: total(operations.map((operation) => operation.responseBytes)),
    aborted: at(ABORTED),
    eventClients: at(WS_CLIENTS),
    eventDropped: at(WS_DROPPED),
  }
}

function add(row: Float64Array, column: number, amount: number): void {
  row[column] = (row[column] ?? 0) + amount
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}
