/**
 * A whole cache in one thread: keeper, fill threads and readers over real message ports, and a page source
 * in memory that counts its reads and can be made to fail, corrupt or wait.
 */
import assert from 'node:assert/strict'
import { MessageChannel, type MessagePort } from 'node:worker_threads'

import { rawDigestOf } from '../../src/core/index.ts'
import {
  type BlobKey,
  type CacheMemory,
  type CacheOptions,
  cacheStats,
  createCacheMemory,
  DIGEST_PAGE_BYTES,
  domainStats,
  type Keeper,
  KeeperClient,
  type KeeperOptions,
  PageReader,
  type PageReaderOptions,
  type PageSource,
  pinnedBytes,
  type ReadContext,
  residentPagesByBlob,
  runFiller,
  runKeeper,
  RunList,
  SequentialState,
  sumCacheCounters,
} from '../../src/cache/index.ts'

/** Deterministic bytes that differ from page to page. */
export function patternBytes(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size)
  let state = (seed * 2_654_435_761 + 1) >>> 0
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    bytes[at] = state >>> 24
  }
  return bytes
}

export class MemorySource implements PageSource {
  readonly blobs = new Map<string, Buffer>()
  /** Every read, in order: digest, offset, length. */
  readonly reads: { digest: string; offset: number; length: number }[] = []
  /** Awaited before each read. */
  gate: ((digest: string, offset: number) => void | Promise<void>) | undefined
  /** Changes what was read; the digests stay those of the blob. */
  damage: ((target: Buffer, offset: number) => void) | undefined

  add(digest: string, bytes: Buffer, domain = 'd'): BlobKey {
    this.blobs.set(`${domain}/${digest}`, bytes)
    return { domain, digest, size: bytes.length }
  }

  async readPage(blob: BlobKey, offset: number, target: Buffer, length: number): Promise<void> {
    this.reads.push({ digest: blob.digest, offset, length })
    const gate = this.gate?.(blob.digest, offset)
    if (gate !== undefined) await gate
    // An O_DIRECT read of a short last page leaves anything behind it.
    target.fill(0xee)
    assert.equal(this.#bytes(blob).copy(target, 0, offset, offset + length), length)
    this.damage?.(target, offset)
  }

  pageDigests(blob: BlobKey, first: number, count: number): Uint8Array {
    const bytes = this.#bytes(blob)
    const digests = Buffer.alloc(count * 32)
    for (let i = 0; i < count; i++) {
      const at = (first + i) * DIGEST_PAGE_BYTES
      rawDigestOf(bytes.subarray(at, at + DIGEST_PAGE_BYTES)).copy(digests, i * 32)
    }
    return digests
  }

  #bytes(blob: BlobKey): Buffer {
    const bytes = this.blobs.get(`${blob.domain}/${blob.digest}`)
    assert.ok(bytes, `no blob ${blob.digest}`)
    return bytes
  }
}

export interface TestCacheOptions extends Partial<CacheOptions> {
  readonly frames?: number
  readonly fillers?: number
  readonly fillConcurrency?: number
  readonly keeper?: KeeperOptions
  readonly reader?: Partial<PageReaderOptions>
  readonly source?: PageSource
}

/** Disposal asserts the invariants that hold when nothing is under way. */
export class TestCache {
  readonly memory: CacheMemory
  readonly client: KeeperClient
  readonly keeper: Keeper
  readonly source = new MemorySource()
  readonly readers: PageReader[] = []
  readonly #ports: MessagePort[] = []

  constructor(options: TestCacheOptions = {}) {
    const { frames = 16, frameSize = 16_384, threads = 4 } = options
    this.memory = createCacheMemory({
      cacheBytes: frames * frameSize,
      allowTiny: true,
      ...options,
      frameSize,
      threads,
    })
    const { port1, port2 } = new MessageChannel()
    this.keeper = runKeeper({ memory: this.memory, port: port2, ...options.keeper })
    this.client = new KeeperClient(port1)
    this.#ports.push(port2)
    for (let i = 0; i < (options.fillers ?? 1); i++) {
      const port = this.client.connectFiller()
      this.#ports.push(port)
      const source = options.source ?? this.source
      const concurrency = options.fillConcurrency ?? 8
      runFiller({ memory: this.memory, port, source, concurrency })
    }
    for (let i = 0; i < threads; i++) {
      const port = this.client.connectReader()
      const rest = { readahead: false, ...options.reader }
      this.readers.push(new PageReader({ memory: this.memory, port, counterRow: i, ...rest }))
    }
  }

  get reader(): PageReader {
    return this.readers[0] ?? assert.fail('no reader')
  }

  async open(key: BlobKey): Promise<number> {
    const [blob] = await this.client.openBlobs([key])
    return blob?.blobNo ?? assert.fail('no blob')
  }

  get stats() {
    return cacheStats(sumCacheCounters(this.memory))
  }

  domain(domainNo = 1) {
    return domainStats(sumCacheCounters(this.memory), domainNo)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.readers) await reader[Symbol.asyncDispose]()
    const totals = await this.client.accounting()
    assert.equal(totals.addedBytes + totals.unattributedBytes, totals.broughtBytes)
    assert.equal(pinnedBytes(this.memory), 0, 'pins are left')
    const { residentFrames, fillsInFlight, grantsWaiting } = this.stats
    const pages = [...residentPagesByBlob(this.memory).values()].reduce(
      (sum, { length }) => sum + length,
      0,
    )
    const resident = pages * this.memory.frameSize
    assert.equal(resident, residentFrames * this.memory.frameSize)
    assert.equal(fillsInFlight, 0)
    assert.equal(grantsWaiting, 0)
    this.client.close()
    for (const port of this.#ports) port.close()
  }
}

export function context(imageId = 0, more: Partial<ReadContext> = {}): ReadContext {
  return { imageId, domainNo: 1, stream: new SequentialState(), ...more }
}

export type Run = readonly [blobNo: number, offset: number, length: number]

export function runs(...list: Run[]): RunList {
  const result = new RunList()
  for (const [blobNo, offset, length] of list) result.push(blobNo, offset, length, 0)
  return result
}

export function joined(parts: readonly Uint8Array[]): Buffer {
  return Buffer.concat(parts)
}
