import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import * as fc from 'fast-check'

import { GatherPool, OutputQueue } from '../../src/nbd/output.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 3000 : 150

/** A sink that takes writes at once or when told, and copies what it takes at the last moment. */
class Sink {
  readonly taken: Buffer[] = []
  readonly writes: number[] = []
  readonly errors: unknown[] = []
  immediate = true
  requests = 0
  requestBytes = 0
  #pending: readonly Uint8Array[] | undefined
  readonly queue: OutputQueue

  constructor(pool: GatherPool = new GatherPool()) {
    this.queue = new OutputQueue(
      {
        write: (chunks, count) => {
          this.writes.push(count)
          this.#pending = chunks.slice(0, count)
          if (!this.immediate) return false
          this.#take()
          return true
        },
        onWritten: (requests, bytes) => {
          this.requests += requests
          this.requestBytes += bytes
        },
        onReleaseError: (error) => this.errors.push(error),
      },
      pool,
    )
  }

  get waiting(): boolean {
    return this.#pending !== undefined
  }

  /** Completes the outstanding write. */
  complete(): void {
    this.#take()
    this.queue.written()
  }

  get output(): Buffer {
    return Buffer.concat(this.taken)
  }

  #take(): void {
    for (const chunk of this.#pending ?? []) this.taken.push(Buffer.from(chunk))
    this.#pending = undefined
  }
}

function put(queue: OutputQueue, text: string): void {
  const bytes = Buffer.from(text)
  const gather = queue.reserve(bytes.length)
  bytes.copy(gather.bytes, gather.used)
  queue.commit(bytes.length)
  queue.endRequest(bytes.length)
}

describe('gathering', () => {
  test('small replies of one turn are one chunk of one write', () => {
    const sink = new Sink()
    put(sink.queue, 'one')
    put(sink.queue, 'two')
    sink.queue.copy(Buffer.from('three'))
    sink.queue.flush()
    assert.deepEqual(sink.writes, [1])
    assert.equal(sink.output.toString(), 'onetwothree')
    assert.deepEqual([sink.requests, sink.requestBytes, sink.queue.queuedBytes], [2, 6, 0])
  })

  test('header and large part are two chunks of one write, the part as it is', () => {
    const sink = new Sink()
    const part = Buffer.alloc(100_000, 1)
    let released = 0
    sink.queue.copy(Buffer.from('head'))
    sink.queue.append([part], () => released++)
    assert.equal(released, 0)
    sink.queue.flush()
    assert.deepEqual(sink.writes, [2])
    assert.equal(released, 1)
  })

  test('nothing is lost when a gather buffer is full', () => {
    const sink = new Sink()
    const piece = Buffer.alloc(16_000, 'p')
    for (let i = 0; i < 50; i++) sink.queue.copy(piece)
    sink.queue.flush()
    assert.equal(sink.output.length, 800_000)
    assert.ok(sink.output.every((byte) => byte === 0x70))
  })

  test('a large part is written in steps of 768 KiB and released behind the last', () => {
    const sink = new Sink()
    sink.immediate = false
    let released = 0
    sink.queue.append([Buffer.alloc(5 * 768 * 1024, 3)], () => released++)
    sink.queue.flush()
    let writes = 0
    while (sink.waiting) {
      assert.equal(released, 0)
      sink.complete()
      writes++
    }
    assert.deepEqual([writes, released], [5, 1])
  })

  test('what was sent is not referred to any more, and the list of chunks is used again', () => {
    const lists = new Set<readonly Uint8Array[]>()
    const queue = new OutputQueue(
      {
        write: (chunks, count) => {
          for (let i = count; i < chunks.length; i++) assert.equal(chunks[i]?.length, 0)
          lists.add(chunks)
          return true
        },
        onWritten: () => {},
        onReleaseError: (error) => assert.fail(String(error)),
      },
      new GatherPool(),
    )
    for (const parts of [40, 3, 40, 1, 40]) {
      queue.append(
        Array.from({ length: parts }, () => Buffer.alloc(4096)),
        () => {},
      )
      queue.flush()
    }
    const [list = [], ...others] = lists
    assert.deepEqual([others.length, list.length], [0, 40])
    assert.ok(list.every((chunk) => chunk.length === 0))
  })

  test('a buffer that is being written is not filled again', () => {
    const pool = new GatherPool()
    const sink = new Sink(pool)
    sink.immediate = false
    put(sink.queue, 'first')
    sink.queue.flush()
    const other = new Sink(pool)
    put(other.queue, 'OTHER')
    put(sink.queue, 'second')
    other.queue.flush()
    sink.complete()
    sink.complete()
    assert.equal(sink.output.toString(), 'firstsecond')
    assert.equal(other.output.toString(), 'OTHER')
  })
})

describe('hold', () => {
  test('other replies wait until the owner is done', () => {
    const sink = new Sink()
    put(sink.queue, 'before')
    sink.queue.hold()
    put(sink.queue, 'after')
    sink.queue.append([Buffer.from('stream1')], () => {}, true)
    assert.deepEqual([sink.queue.queuedBytes, sink.queue.aheadBytes], [18, 13])
    sink.queue.flush()
    assert.deepEqual([sink.queue.queuedBytes, sink.queue.aheadBytes], [5, 0])
    assert.equal(sink.output.toString(), 'beforestream1')
    sink.queue.append([Buffer.alloc(5000, 's')], () => {}, true)
    sink.queue.unhold()
    put(sink.queue, 'last')
    assert.deepEqual([sink.queue.queuedBytes, sink.queue.aheadBytes], [5009, 5009])
    sink.queue.flush()
    assert.equal(sink.output.toString(), `beforestream1${'s'.repeat(5000)}afterlast`)
  })

  test('a second owner is refused, and what waits is kept', () => {
    const sink = new Sink()
    let released = 0
    sink.queue.hold()
    sink.queue.append([Buffer.alloc(5000, 'w')], () => released++)
    assert.throws(() => sink.queue.hold(), { code: 'ERR_NBD_STATE' })
    sink.queue.unhold()
    sink.queue.flush()
    assert.deepEqual([sink.output.toString(), released], ['w'.repeat(5000), 1])
  })
})

describe('abort', () => {
  test('releases what is written, queued and held, and what comes later', () => {
    const sink = new Sink()
    sink.immediate = false
    let released = 0
    const release = (): void => void released++
    sink.queue.append([Buffer.alloc(2_000_000)], release)
    sink.queue.append([Buffer.alloc(5000)], release)
    sink.queue.flush()
    sink.queue.hold()
    sink.queue.append([Buffer.alloc(5000)], release)
    sink.queue.append([Buffer.alloc(5000)], release, true)
    sink.queue.abort()
    assert.equal(released, 4)
    sink.queue.append([Buffer.alloc(5000)], release)
    assert.equal(released, 5)
    sink.queue.flush()
    assert.deepEqual(sink.writes, [1])
  })

  test('a release that throws is reported and stops nothing', () => {
    const sink = new Sink()
    let released = 0
    sink.queue.append([Buffer.alloc(5000)], () => {
      throw new Error('x')
    })
    sink.queue.append([Buffer.alloc(5000)], () => released++)
    sink.queue.flush()
    assert.deepEqual([sink.errors.length, released], [1, 1])
  })
})

test('any mix of operations keeps the order and releases once', () => {
  const size = fc.oneof(
    fc.nat(5000),
    fc.nat(300_000),
    fc.constantFrom(4095, 4096, 16_384, 1 << 20, (1 << 20) + 1),
  )
  const operation = fc.oneof(
    fc.record({ kind: fc.constantFrom('copy', 'append'), size }),
    fc.record({
      kind: fc.constantFrom('flush', 'complete', 'toggle', 'hold', 'unhold'),
      size: fc.constant(0),
    }),
  )
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 60 }), fc.boolean(), (operations, abort) => {
      const sink = new Sink()
      const main: Buffer[] = []
      let deferred: Buffer[] | undefined
      const releases: number[] = []
      operations.forEach(({ kind, size: length }, i) => {
        const bytes = Buffer.alloc(length, i + 1)
        // Appends go to the owner of the hold, copies are the others.
        if (kind === 'copy') {
          sink.queue.copy(bytes)
          ;(deferred ?? main).push(bytes)
        } else if (kind === 'append') {
          const index = releases.push(0) - 1
          sink.queue.append([bytes], () => (releases[index] = (releases[index] ?? 0) + 1), true)
          main.push(bytes)
        } else if (kind === 'flush') sink.queue.flush()
        else if (kind === 'complete' && sink.waiting) sink.complete()
        else if (kind === 'toggle') sink.immediate = !sink.immediate
        else if (kind === 'hold' && deferred === undefined) {
          sink.queue.hold()
          deferred = []
        } else if (kind === 'unhold' && deferred !== undefined) {
          sink.queue.unhold()
          main.push(...deferred)
          deferred = undefined
        }
      })
      if (abort) {
        sink.queue.abort()
      } else {
        if (deferred !== undefined) sink.queue.unhold()
        main.push(...(deferred ?? []))
        sink.immediate = true
        if (sink.waiting) sink.complete()
        sink.queue.flush()
        assert.ok(sink.output.equals(Buffer.concat(main)))
        assert.equal(sink.queue.queuedBytes, 0)
      }
      assert.ok(releases.every((times) => times === 1))
    }),
    { seed: 11, numRuns: RUNS },
  )
})
