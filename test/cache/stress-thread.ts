/** The threads of stress.test.ts and of the whole-cache thread test, by workerData.role. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'

import {
  type CacheMemory,
  Keeper,
  PageReader,
  type PageSource,
  runFiller,
  runKeeper,
  RunList,
} from '../../src/cache/index.ts'
import { FRAME, recordOf } from '../../src/cache/frame-table.ts'
import { openCacheMemory } from '../../src/cache/memory.ts'
import { rawDigestOf } from '../../src/core/index.ts'
import { context } from './harness.ts'

export interface StressData {
  readonly role: 'evictor' | 'hits' | 'careless' | 'keeper' | 'filler' | 'reads'
  readonly memory: CacheMemory
  readonly port?: MessagePort
  /** 1: everybody stops. */
  readonly stop: Int32Array
  readonly blobNo: number
  readonly pages: number
  readonly reads: number
  readonly row: number
}

export interface StressResult {
  readonly reads: number
  readonly wrong: number
  readonly refused: number
}

const data = workerData as StressData
const { memory, stop } = data

/** Every word of page n of the stress blob. */
function wordOf(pageNo: number): number {
  return Math.imul(pageNo + 1, 0x01000193)
}

/** Uniform enough, and the same on every run. */
function* randomPages(seed: number): Generator<number, never, void> {
  for (let state = seed >>> 0; ;) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    yield (state >>> 8) % data.pages
  }
}

/** Looks at a word in each of 16 places; the evictor writes front to back. */
function isPage(bytes: Uint8Array, pageNo: number): boolean {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2)
  for (let at = words.length - 1; at >= 0; at -= words.length >> 4) {
    if (words[at] !== wordOf(pageNo)) return false
  }
  return words[0] === wordOf(pageNo)
}

/** The shipped keeper with a fill thread in the same thread: evicts and refills as fast as it can. */
function evict(): void {
  const keeper = new Keeper(memory)
  const { arena } = openCacheMemory(memory)
  keeper.addFiller(({ background }) => {
    for (let i = 0; i < background.length; i += 4) {
      const frame = background[i] ?? 0
      const view = arena.view(frame, 0, memory.frameSize)
      new Int32Array(view.buffer, view.byteOffset, memory.frameSize / 4).fill(
        wordOf(background[i + 2] ?? 0),
      )
      keeper.fromFiller([{ frame }])
    }
  })
  const size = data.pages * memory.frameSize
  keeper.openBlobs([{ domain: 'd', digest: 'stress', size }])
  parentPort?.postMessage('ready')
  const random = randomPages(7)
  while (Atomics.load(stop, 0) === 0) {
    const page = random.next().value
    keeper.fromReader(0, [{ type: 'prefetch', id: 0, imageId: 0, pages: [data.blobNo, page] }])
  }
  parentPort?.postMessage({ reads: 0, wrong: 0, refused: 0 } satisfies StressResult)
}

/** Reads what is in memory through the shipped reader, by lease and by copy. */
function hit(): void {
  const reader = makeReader()
  const random = randomPages(data.row + 1)
  const list = new RunList()
  const ctx = context()
  const copy = Buffer.from(new ArrayBuffer(memory.frameSize))
  let wrong = 0
  let reads = 0
  while (reads < data.reads) {
    const page = random.next().value
    list.clear()
    list.push(data.blobNo, page * memory.frameSize, memory.frameSize, 0)
    if ((reads & 3) === 0) {
      if (!reader.copyInto(list, ctx, copy, 0)) continue
      if (!isPage(copy, page)) wrong++
    } else {
      const lease = reader.tryRead(list, ctx)
      if (lease === undefined) continue
      const [part] = lease.parts
      if (part === undefined || !isPage(part, page)) wrong++
      lease.release()
    }
    reads++
  }
  finish({ reads, wrong, refused: 0 })
}

/** Pins and compares the key, but does not look at the EVICTING bit: what the shipped reader must not do. */
function readCarelessly(): void {
  const { arena, table, index } = openCacheMemory(memory)
  const random = randomPages(data.row + 1)
  let wrong = 0
  let reads = 0
  while (reads < data.reads) {
    const page = random.next().value
    const frame = index.find(data.blobNo, page)
    if (frame < 0) continue
    const record = recordOf(frame)
    Atomics.add(table, record, 1)
    if (Atomics.load(table, record + FRAME.PAGE) === page) {
      if (!isPage(arena.view(frame, 0, memory.frameSize), page)) wrong++
      reads++
    }
    Atomics.sub(table, record, 1)
  }
  finish({ reads, wrong, refused: 0 })
}

/** Reads of one to five pages through keeper and fill thread, some given up half way. */
async function read(): Promise<void> {
  const reader = makeReader()
  const random = randomPages(data.row + 1)
  const { frameSize } = memory
  let wrong = 0
  let refused = 0
  for (let reads = 0; reads < data.reads; reads++) {
    const first = random.next().value
    const count = Math.min(1 + (random.next().value % 4), data.pages - first)
    const list = new RunList()
    list.push(data.blobNo, first * frameSize, count * frameSize, 0)
    const abort = new AbortController()
    if (reads % 16 === 15) queueMicrotask(() => abort.abort())
    try {
      using lease =
        reader.tryRead(list, context()) ??
        (await reader.read(list, context(), { signal: abort.signal }))
      const bytes = Buffer.concat(lease.parts)
      for (let i = 0; i < count; i++) {
        if (!isPage(bytes.subarray(i * frameSize, (i + 1) * frameSize), first + i)) wrong++
      }
    } catch {
      refused++
    }
  }
  // Grants of reads that were given up return their pins before the reader is closed.
  await reader[Symbol.asyncDispose]()
  parentPort?.postMessage({ reads: data.reads, wrong, refused } satisfies StressResult)
}

function makeReader(): PageReader {
  if (data.port === undefined) throw new Error('a reader needs a port')
  return new PageReader({ memory, port: data.port, counterRow: data.row, readahead: false })
}

function finish(result: StressResult): void {
  Atomics.store(stop, 0, 1)
  parentPort?.postMessage(result)
}

const stressSource: PageSource = {
  readPage(_blob, offset, target) {
    new Int32Array(target.buffer, target.byteOffset, target.length >> 2).fill(
      wordOf(offset / memory.frameSize),
    )
  },
  pageDigests(_blob, first, count) {
    const page = new Int32Array(memory.frameSize / 4)
    const digests = Array.from({ length: count }, (_, i) =>
      rawDigestOf(new Uint8Array(page.fill(wordOf(first + i)).buffer)),
    )
    return Buffer.concat(digests)
  },
}

if (data.role === 'evictor') evict()
else if (data.role === 'hits') hit()
else if (data.role === 'careless') readCarelessly()
else if (data.role === 'reads') await read()
else if (data.port === undefined) throw new Error(`the ${data.role} needs a port`)
else if (data.role === 'keeper') runKeeper({ memory, port: data.port })
else runFiller({ memory, port: data.port, source: stressSource })
