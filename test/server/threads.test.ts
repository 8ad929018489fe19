/** What happens when a thread of the server ends by itself. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { createCacheMemory, FRAME_SIZES } from '../../src/cache/index.ts'
import type { AppError } from '../../src/core/index.ts'
import { Threads } from '../../src/server/threads.ts'

const MEMORY = {
  cacheBytes: 4 * 1024 * 1024,
  frameSize: FRAME_SIZES[0],
  threads: 1,
  allowTiny: true,
} as const

test('a worker that ends fails every call to it, and is reported once, with its reason', async () => {
  const deaths: AppError[] = []
  const died = Promise.withResolvers<AppError>()
  await using threads = new Threads(createCacheMemory(MEMORY), (error) => {
    deaths.push(error)
    died.resolve(error)
  })
  assert.deepEqual(await threads.keeper.domains(), [])
  // without its setup a worker throws while it loads
  threads.startWorker({ workerNo: 0 } as never, {})
  const listening = threads.listen({
    http: { host: '127.0.0.1', port: 0 },
    nbd: { host: '127.0.0.1', port: 0 },
  })
  await assert.rejects(listening, { code: 'ERR_SERVER_THREAD' })
  const error = await died.promise
  assert.equal(error.code, 'ERR_SERVER_THREAD')
  assert.match(error.message, /worker-0/)
  await assert.rejects(threads.drain(1000), { code: 'ERR_SERVER_THREAD' })
  await threads[Symbol.asyncDispose]()
  assert.equal(deaths.length, 1)
})

test('threads that are ended in order are no deaths, and the keeper answers no more', async () => {
  const deaths: AppError[] = []
  const threads = new Threads(createCacheMemory(MEMORY), (error) => void deaths.push(error))
  await threads.keeper.domains()
  await threads[Symbol.asyncDispose]()
  await assert.rejects(threads.keeper.domains(), { code: 'ERR_CACHE_CLOSED' })
  assert.deepEqual(deaths, [])
})
