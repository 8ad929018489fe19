/** Starts the real application over planes in memory, on a free port of loopback, for one test file. */
import { randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'

import { pino } from 'pino'

import type { Digest } from '../../src/core/index.ts'
import { buildApp, controlFeed, HTTP_COUNTER_COLUMNS } from '../../src/server/http/index.ts'
import type { App, AppDeps } from '../../src/server/http/index.ts'
import { MemoryPlanes } from './memory-planes.ts'

export interface TestServer extends AsyncDisposable {
  readonly app: App
  readonly planes: MemoryPlanes
  readonly counters: Float64Array
  readonly url: string
  readonly port: number
  /** 1,000,000 random bytes: the file big.bin, and device 0. */
  readonly big: Buffer
  readonly blob: Digest
  readonly image: Digest
}

export const SMALL_TEXT = 'hello from an image\n'

export async function startTestServer(options: Partial<AppDeps> = {}): Promise<TestServer> {
  const planes = new MemoryPlanes()
  const big = randomBytes(1_000_000)
  const blob = planes.addBlob('demo', big)
  const files = {
    '': { type: 'directory', mode: 0o40755 },
    'big.bin': { type: 'file', bytes: big },
    empty: { type: 'file', bytes: Buffer.alloc(0) },
    etc: { type: 'directory', mode: 0o40755 },
    'etc/hosts': { type: 'file', bytes: Buffer.from(SMALL_TEXT) },
    'etc/page.html': { type: 'file', bytes: Buffer.from('<script>alert(1)</script>') },
    'etc/link': { type: 'symlink', target: 'etc/hosts' },
    'etc/caf\xe9\xff': { type: 'file', bytes: Buffer.from('bytes') },
    'etc/a b%': { type: 'file', bytes: Buffer.from('space') },
    'dev-null': { type: 'char', mode: 0o20666 },
  } as const
  const image = planes.addImage({ domain: 'demo', name: 'team/app', tag: '1' }, [big], files)
  planes.addImage(
    { domain: 'demo', name: 'two', tag: 'latest' },
    [Buffer.alloc(5000, 1), big],
    files,
  )
  planes.addImage({ domain: 'demo', name: 'raw', tag: 'latest' }, [Buffer.alloc(100, 7)], {})
  const counters = new Float64Array(HTTP_COUNTER_COLUMNS)
  const app = await buildApp({
    data: planes,
    control: planes.control,
    metrics: () => Promise.resolve({ contentType: 'text/plain; version=0.0.4', body: '# none\n' }),
    events: controlFeed(planes.control),
    counters,
    version: '0.0.0-test',
    logger: pino({ level: 'silent' }),
    ...options,
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  return {
    app,
    planes,
    counters,
    url,
    port,
    big,
    blob,
    image,
    async [Symbol.asyncDispose]() {
      app.server.closeAllConnections()
      await app.close()
    },
  }
}
