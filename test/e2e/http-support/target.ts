/**
 * A whole server to be maltreated over HTTP: a process of its own with a small cache, an image, and a blob
 * several times the cache, so that reads of it are cold again and again. It can tell whether a maltreatment
 * left anything behind: pinned memory, connections, uploads, or a complaint in the log.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { digestOf } from '../../../src/core/index.ts'
import { RawClient } from '../../http/raw-client.ts'
import type { RawResponse } from '../../http/raw-client.ts'
import { seededBytes } from '../../random.ts'
import type { ServerProcess } from '../server-process.ts'
import { startServerProcess } from '../server-process.ts'

const IMAGE_FILE = fileURLToPath(new URL('../../fixtures/erofs/plain.erofs', import.meta.url))
const BLOB_BYTES = 24 << 20
const SETTLE_MS = 10_000
/** pino's level of what is our fault. */
const ERROR_LEVEL = 50

export interface HttpTarget extends AsyncDisposable {
  readonly server: ServerProcess
  readonly port: number
  /** Path and bytes of a blob three times the size of the cache. */
  readonly blob: string
  readonly blobBytes: Buffer
  /** `/v1/images/REF` of an image that tests may change, and of one that they may not. */
  readonly image: string
  readonly kept: string
  readonly imageBytes: Buffer
  open(): Promise<RawClient>
  /** One request on a connection of its own. */
  ask(path: string, headers?: Record<string, string>): Promise<RawResponse>
  /** Fails unless the server holds nothing for anybody any more, and has logged no fault of its own. */
  settled(): Promise<void>
  /** Fails unless a good client gets the right bytes, hot and cold. */
  serves(): Promise<void>
}

/** Uploads on a connection of its own. @returns the status */
export async function post(url: string, body: Buffer): Promise<number> {
  const request = httpRequest(url, { method: 'POST', agent: false })
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  response.resume()
  await once(response, 'close')
  return response.statusCode ?? 0
}

export async function startHttpTarget(workers: number): Promise<HttpTarget> {
  const server = await startServerProcess({
    args: ['--workers', String(workers), '--cache-size', '8MiB', '--allow-tiny-cache'],
  })
  try {
    const imageBytes = await readFile(IMAGE_FILE)
    for (const ref of ['demo/plain:1', 'keep/plain:1']) {
      assert.equal(await post(`${server.http}/v1/images/${ref}?wait=true`, imageBytes), 201)
    }
    const blobBytes = seededBytes(1, BLOB_BYTES)
    assert.equal(await post(`${server.http}/v1/blobs/demo`, blobBytes), 201)
    const blob = `/v1/blobs/demo/${digestOf(blobBytes)}`
    return new Target(server, blob, blobBytes, imageBytes)
  } catch (error) {
    await server[Symbol.asyncDispose]()
    throw error
  }
}

class Target implements HttpTarget {
  readonly server: ServerProcess
  readonly port: number
  readonly blob: string
  readonly blobBytes: Buffer
  readonly image = '/v1/images/demo/plain:1'
  readonly kept = '/v1/images/keep/plain:1'
  readonly imageBytes: Buffer

  constructor(server: ServerProcess, blob: string, blobBytes: Buffer, imageBytes: Buffer) {
    this.server = server
    this.port = Number(new URL(server.http).port)
    this.blob = blob
    this.blobBytes = blobBytes
    this.imageBytes = imageBytes
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server[Symbol.asyncDispose]() as Promise<void>
  }

  open(): Promise<RawClient> {
    return RawClient.open(this.port)
  }

  async ask(path: string, headers: Record<string, string> = {}): Promise<RawResponse> {
    await using client = await this.open()
    client.get(path, headers)
    const response = await client.next()
    if (response === undefined) throw new Error(`no answer to GET ${path}`)
    return response
  }

  async settled(): Promise<void> {
    const deadline = performance.now() + SETTLE_MS
    let left = await this.#left()
    while (left.length > 0 && performance.now() < deadline) {
      await wait(20)
      left = await this.#left()
    }
    assert.deepEqual(left, [])
    const faults = this.server.logs.filter((line) => Number(line['level']) >= ERROR_LEVEL)
    assert.deepEqual(faults, [])
  }

  async serves(): Promise<void> {
    const raw = await this.ask(`${this.kept}/-/raw`)
    assert.ok(raw.body.equals(this.imageBytes), 'the image')
    const at = BLOB_BYTES / 2
    const range = await this.ask(this.blob, { range: `bytes=${at}-${at + 99_999}` })
    assert.ok(range.body.equals(this.blobBytes.subarray(at, at + 100_000)), 'the blob')
  }

  /** What is still held, in words. */
  async #left(): Promise<string[]> {
    const metrics = String((await this.ask('/metrics')).body)
    const gauges = [
      'commonpage_cache_pinned_bytes',
      'commonpage_cache_fills_inflight',
      'commonpage_ws_clients',
    ].flatMap((name) => {
      const value = new RegExp(`^${name} (.+)$`, 'm').exec(metrics)?.[1]
      return value === '0' ? [] : [`${name} ${value}`]
    })
    const connections = await this.#connections()
    const uploads = (await readdir(join(this.server.data, 'domains'), { recursive: true })).filter(
      (path) => path.includes('/uploads/'),
    )
    return [...gauges, ...(connections === 0 ? [] : [`${connections} connections`]), ...uploads]
  }

  /** Sockets of the server's port that its process still has, ours of this question aside. */
  async #connections(): Promise<number> {
    const port = `:${this.port.toString(16).toUpperCase().padStart(4, '0')}`
    const table = await readFile(`/proc/${this.server.pid}/net/tcp`, 'latin1')
    const inodes = new Set(
      table
        .split('\n')
        .map((line) => line.trim().split(/\s+/))
        .filter(([, local, , state]) => local?.endsWith(port) === true && state !== '0A')
        .map((fields) => fields[9] ?? '0'),
    )
    inodes.delete('0') // TIME_WAIT and such belong to no process
    return inodes.size
  }
}
