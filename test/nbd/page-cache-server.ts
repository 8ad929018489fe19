/**
 * An NBD server over the real page cache, as a data worker has it: NbdExports, handles, reader, keeper and
 * fill thread, with a blob in memory as the store. Counts what is open, and tells when nothing is pinned.
 */
import assert from 'node:assert/strict'

import { pinnedBytes } from '../../src/cache/index.ts'
import type { Digest } from '../../src/core/index.ts'
import { AppError, digestOf } from '../../src/core/index.ts'
import type { DataHandle, ReadIdentity } from '../../src/images/index.ts'
import { BlobMap, MappedHandle } from '../../src/images/index.ts'
import type {
  ConnectionContext,
  ExportProvider,
  NbdExport,
  NbdLimits,
} from '../../src/nbd/index.ts'
import '../../src/server/error-tables.ts'
import { NbdExports } from '../../src/server/nbd-exports.ts'
import type { BlobView } from '../../src/server/planes.ts'
import type { TestCacheOptions } from '../cache/harness.ts'
import { patternBytes, TestCache } from '../cache/harness.ts'
import { TestServer, turns } from './harness.ts'

const DOMAIN = 'acme'
/** As in a server: replies under way may pin a part of the cache, so that streams find frames to go on. */
const IN_FLIGHT_PART = 4

/** Counts the exports that a provider opens and its clients' connections close. */
export class CountedExports implements ExportProvider {
  readonly #exports: ExportProvider
  opened = 0
  closed = 0

  constructor(exports: ExportProvider) {
    this.#exports = exports
  }

  async open(name: string, context: ConnectionContext): Promise<NbdExport> {
    const target = await this.#exports.open(name, context)
    this.opened++
    const { name: canonical, description = '', size, multiConn } = target
    return {
      name: canonical,
      description,
      size,
      multiConn,
      readInto: (bytes, at, offset, length) =>
        target.readInto?.(bytes, at, offset, length) ?? false,
      read: (offset, length, reply) => target.read(offset, length, reply),
      cache: (offset, length) => target.cache?.(offset, length),
      close: () => {
        this.closed++
        target.close()
      },
    }
  }

  list(context: ConnectionContext): AsyncIterable<{ name: string; description?: string }> {
    return this.#exports.list(context)
  }
}

export interface CacheServerOptions {
  readonly size: number
  readonly limits?: Partial<NbdLimits>
  readonly cache?: TestCacheOptions
}

export class PageCacheServer implements AsyncDisposable {
  readonly bytes: Buffer
  readonly name: string
  readonly cache: TestCache
  readonly exports: CountedExports
  readonly server: TestServer
  /** Codes of the errors that reads failed with. */
  readonly readErrors: unknown[] = []
  readonly #digest: Digest

  constructor({ size, limits = {}, cache = {} }: CacheServerOptions) {
    this.bytes = patternBytes(size, 5)
    this.#digest = digestOf(this.bytes)
    this.name = `${DOMAIN}/-/blobs/${this.#digest}`
    this.cache = new TestCache(cache)
    this.exports = new CountedExports(
      new NbdExports({
        data: {
          openImage: async () => {
            throw new AppError('ERR_IMAGE_NOT_FOUND', 'there are no images')
          },
          openBlob: async (domain, digest) => {
            if (domain === DOMAIN && digest === this.#digest) return this.#openBlob()
            throw new AppError('ERR_BLOB_NOT_FOUND', `no blob ${digest}`)
          },
        },
        control: { images: async () => ({ images: [] }) },
        defaultExport: this.name,
        onReadError: (error) => this.readErrors.push(error),
        onOpenError: (error) => assert.fail(String(error)),
      }),
    )
    const { frames, frameSize } = this.cache.memory
    const maxTotalInFlightBytes = (frames * frameSize) / IN_FLIGHT_PART
    this.server = new TestServer(this.exports, { limits: { maxTotalInFlightBytes, ...limits } })
  }

  static async start(options: CacheServerOptions): Promise<PageCacheServer> {
    const started = new PageCacheServer(options)
    await started.server.listen()
    return started
  }

  /** Bytes of frames that replies hold. */
  get pinned(): number {
    return pinnedBytes(this.cache.memory)
  }

  /** Brings every page that fits into memory. */
  async warm(): Promise<void> {
    const handle = (await this.#openBlob()).open()
    for await (const lease of handle.stream(0, handle.size)) lease.release()
  }

  /**
   * Everything that ended connections had is back: handles closed, gauges at 0, no frame pinned. Grants that
   * are on their way to a reader that is gone are awaited.
   */
  async settled(): Promise<void> {
    const { server, exports } = this
    for (
      let i = 0;
      i < SETTLE_TURNS && (this.pinned > 0 || this.cache.stats.fillsInFlight > 0);
      i++
    )
      await turns(1)
    assert.equal(this.pinned, 0, 'frames are pinned for nobody')
    assert.equal(server.server.connections, 0)
    assert.equal(server.counter('connections'), 0)
    assert.equal(server.counter('in_flight'), 0)
    assert.equal(server.counter('in_flight_bytes'), 0)
    assert.equal(exports.closed, exports.opened)
  }

  async #openBlob(): Promise<BlobView> {
    const digest = this.#digest
    const key = this.cache.source.add(digest, this.bytes, DOMAIN)
    const [blob] = await this.cache.client.openBlobs([key])
    const { blobNo, domainNo } = blob ?? assert.fail('no blob')
    const map = new BlobMap({ digest, size: this.bytes.length, blobNo, ordinalBase: 0 })
    const identity: ReadIdentity = { imageId: 0, domainNo }
    const open = (): DataHandle => new MappedHandle(map, this.cache.reader, identity)
    return { digest, size: this.bytes.length, open, [Symbol.dispose]: () => undefined }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]()
    await this.settled()
    await this.cache[Symbol.asyncDispose]()
  }
}

/** Turns of the event loop that a grant under way may take, by far. */
const SETTLE_TURNS = 20_000
