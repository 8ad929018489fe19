/**
 * What a hit costs in a worker: `copyInto` and `tryRead` of pages in memory, in nanoseconds, with the bytes that
 * V8 allocates per call. Pages are chosen so that processor caches help as little as they would a server: the
 * reads go round 64 MiB of frames.
 *
 *   node bench/micro/cache-hit.ts
 */
import { bench, do_not_optimize, run, summary } from 'mitata'

import {
  createImageAccounting,
  ImageAccounting,
  type ReadContext,
  RunList,
  SequentialState,
} from '../../src/cache/index.ts'
import { startCache } from './cache-rig.ts'

const FRAME = 65_536
const PAGES = 1024
const rig = await startCache({ cacheBytes: 2 * PAGES * FRAME, frameSize: FRAME, readers: 1 })
const { reader, blobNo } = rig
const accounting = createImageAccounting(2 * PAGES)
await rig.client.registerImage(1, accounting)
const context: ReadContext = {
  imageId: 1,
  domainNo: 1,
  touched: new ImageAccounting(accounting),
  stream: new SequentialState(),
}

/** Cuts `length` bytes at a step through the blob into `pieces` runs. */
function prepare(length: number, pieces: number): RunList[] {
  return Array.from({ length: PAGES }, (_, i) => {
    const runs = new RunList()
    // Odd multipliers visit every page once in an order that is no sequence.
    const page = (i * 389) % (PAGES - Math.ceil(length / FRAME))
    for (let piece = 0; piece < pieces; piece++) {
      const part = length / pieces
      // Gaps between pieces make each a copy of its own.
      runs.push(blobNo, page * FRAME + piece * (part + (pieces > 1 ? 16 : 0)), part, 0)
    }
    return runs
  })
}

const target = Buffer.alloc(1_048_576)
const cases: [string, number, number][] = [
  ['4 KiB', 4096, 1],
  ['4 KiB of 64 runs', 4096, 64],
  ['16 KiB', 16_384, 1],
  ['64 KiB', 65_536, 1],
  ['1 MiB', 1_048_576, 1],
]
for (const [, length, pieces] of cases) {
  for (const runs of prepare(length, pieces)) (await reader.read(runs, context)).release()
}

/** Filled in order, so that frames lie behind each other; those above were filled in an order that is no sequence. */
const MIB_PAGES = 1_048_576 / FRAME
const inOrder = Array.from({ length: PAGES / MIB_PAGES / 2 }, (_, i) => {
  const runs = new RunList()
  runs.push(blobNo, (PAGES + i * MIB_PAGES) * FRAME, MIB_PAGES * FRAME, 0)
  return runs
})
for (const runs of inOrder) {
  const lease = await reader.read(runs, context)
  if (lease.parts.length > 2) throw new Error(`${lease.parts.length} parts of adjacent frames`)
  lease.release()
}

summary(() => {
  let next = 0
  bench('tryRead + release 1 MiB of adjacent frames', () => {
    const runs = inOrder[next++ % inOrder.length] ?? inOrder[0]
    if (runs !== undefined) reader.tryRead(runs, context)?.release()
  })
  for (const [name, length, pieces] of cases) {
    const lists = prepare(length, pieces)
    let at = 0
    if (length <= 16_384) {
      bench(`copyInto ${name}`, () => {
        const runs = lists[at++ % PAGES] ?? lists[0]
        if (runs !== undefined) do_not_optimize(reader.copyInto(runs, context, target, 0))
      })
    }
    bench(`tryRead + release ${name}`, () => {
      const runs = lists[at++ % PAGES] ?? lists[0]
      if (runs !== undefined) reader.tryRead(runs, context)?.release()
    })
  }
})
await run()
await rig.stop()
