/** A cache over real threads and a blob in memory, for the cache's benchmarks. Not a benchmark itself. */
import * as fs from 'node:fs'
import {
  isMainThread,
  MessageChannel,
  type MessagePort,
  Worker,
  workerData,
} from 'node:worker_threads'

import {
  type CacheMemory,
  createCacheMemory,
  type FrameSize,
  KeeperClient,
  PageReader,
  type PageSource,
  runFiller,
  runKeeper,
} from '../../src/cache/index.ts'
import { rawDigestOf } from '../../src/core/index.ts'

export interface RigOptions {
  readonly cacheBytes: number
  readonly frameSize: FrameSize
  readonly readers: number
  readonly fillers?: number
  readonly blobBytes?: number
  /** Reads this file past the kernel's page cache; its page digests are in FILE.digests. Absent: zeros. */
  readonly file?: string
}

interface RigThread {
  readonly role: 'rig-keeper' | 'rig-filler'
  readonly memory: CacheMemory
  readonly port: MessagePort
  readonly file: string | undefined
}

/** Every page of the rig's blobs is zeros: reading is nothing but a fill of memory, digests are known. */
const zeroDigest = rawDigestOf(new Uint8Array(16_384))
const zeros: PageSource = {
  readPage(_blob, _offset, target) {
    target.fill(0)
  },
  pageDigests: (_blob, _first, count) =>
    Buffer.concat(Array.from({ length: count }, () => zeroDigest)),
}

/** One file as the only blob, whole frames at a time: O_DIRECT wants aligned lengths. */
function fileSource(file: string): PageSource {
  const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_DIRECT)
  const digests = fs.readFileSync(`${file}.digests`)
  return {
    readPage(_blob, offset, target, length) {
      const read = fs.readSync(fd, target, 0, target.length, offset)
      if (read < length) throw new Error(`${read} of ${length} bytes at ${offset}`)
    },
    readPages(_blob, offset, targets, length) {
      const read = fs.readvSync(fd, targets, offset)
      if (read < length) throw new Error(`${read} of ${length} bytes at ${offset}`)
    },
    pageDigests: (_blob, first, count) => digests.subarray(first * 32, (first + count) * 32),
  }
}

export async function startCache(options: RigOptions) {
  const memory = createCacheMemory({ ...options, threads: options.readers })
  const { port1, port2 } = new MessageChannel()
  const workers: Worker[] = []
  const start = (role: RigThread['role'], port: MessagePort) => {
    const data: RigThread = { role, memory, port, file: options.file }
    workers.push(new Worker(new URL(import.meta.url), { workerData: data, transferList: [port] }))
  }
  start('rig-keeper', port2)
  const client = new KeeperClient(port1)
  for (let i = 0; i < (options.fillers ?? 1); i++) start('rig-filler', client.connectFiller())
  const readers = Array.from(
    { length: options.readers },
    (_, row) =>
      new PageReader({ memory, port: client.connectReader(), counterRow: row, readahead: false }),
  )
  const size = options.blobBytes ?? 2 ** 40
  const [blob] = await client.openBlobs([{ domain: 'bench', digest: 'zeros', size }])
  const [reader] = readers
  if (blob === undefined || reader === undefined) throw new Error('the rig did not start')
  return {
    memory,
    client,
    reader,
    readers,
    blobNo: blob.blobNo,
    async stop() {
      for (const each of readers) await each[Symbol.asyncDispose]()
      client.close()
      await Promise.all(workers.map((worker) => worker.terminate()))
    },
  }
}

const data = isMainThread ? undefined : (workerData as RigThread)
if (data?.role === 'rig-keeper') runKeeper({ memory: data.memory, port: data.port })
if (data?.role === 'rig-filler') {
  const source = data.file === undefined ? zeros : fileSource(data.file)
  runFiller({ memory: data.memory, port: data.port, source })
}
