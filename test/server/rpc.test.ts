/** Calls, answers and notices between two ends of a real message channel. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MessageChannel } from 'node:worker_threads'

import { AppError } from '../../src/core/index.ts'
import type { RpcHandlers } from '../../src/server/rpc.ts'
import { RpcPeer } from '../../src/server/rpc.ts'

interface Pair extends Disposable {
  readonly here: RpcPeer
  readonly there: RpcPeer
}

function pair(here: RpcHandlers, there: RpcHandlers): Pair {
  const { port1, port2 } = new MessageChannel()
  return {
    here: new RpcPeer(port1, here),
    there: new RpcPeer(port2, there),
    [Symbol.dispose]: () => port1.close(),
  }
}

describe('rpc', () => {
  test('both ends call, and each call gets its own answer', async () => {
    using ends = pair(
      { double: (n: number) => n * 2 },
      { later: async (n: number) => new Promise((resolve) => setImmediate(resolve, n + 1)) },
    )
    const answers = await Promise.all([
      ends.here.call<number>('later', 1),
      ends.there.call<number>('double', 4),
      ends.here.call<number>('later', 10),
    ])
    assert.deepEqual(answers, [2, 8, 11])
  })

  test('an error arrives with its code, hint and details; a foreign one as ERR_INTERNAL', async () => {
    using ends = pair(
      {},
      {
        refuse: () => {
          throw new AppError('ERR_IMAGE_NOT_FOUND', 'no image', { hint: 'look', details: { n: 1 } })
        },
        crash: () => Promise.reject(new TypeError('oops')),
      },
    )
    await assert.rejects(ends.here.call('refuse'), {
      name: 'AppError',
      code: 'ERR_IMAGE_NOT_FOUND',
      hint: 'look',
      details: { n: 1 },
    })
    await assert.rejects(ends.here.call('crash'), { code: 'ERR_INTERNAL', message: 'oops' })
    await assert.rejects(ends.here.call('nothing'), { code: 'ERR_INTERNAL' })
  })

  test('a notice is heard before the answer of a call that was sent after it', async () => {
    const heard: string[] = []
    using ends = pair({}, { say: (word: string) => heard.push(word), ask: () => heard.join(' ') })
    ends.here.notify('say', 'one')
    ends.here.notify('say', 'two')
    assert.equal(await ends.here.call('ask'), 'one two')
  })

  test('shared memory inside of a message stays shared', async () => {
    const extents = new Uint8Array(new SharedArrayBuffer(16))
    using ends = pair({}, { open: () => ({ maps: [{ size: 1, extents }] }) })
    const got = await ends.here.call<{ maps: { extents: Uint8Array }[] }>('open')
    extents[3] = 77
    assert.equal(got.maps[0]?.extents[3], 77)
  })

  test('what cannot be sent fails its own call, in either direction, and nothing else', async () => {
    using ends = pair({}, { give: () => () => 1, fine: () => 'fine' })
    await assert.rejects(ends.here.call('fine', () => 1))
    await assert.rejects(ends.here.call('give'), { code: 'ERR_INTERNAL' })
    assert.equal(await ends.here.call('fine'), 'fine')
  })

  test('closing fails what is under way and all that comes later', async () => {
    const never = Promise.withResolvers<void>()
    using ends = pair({}, { wait: () => never.promise })
    const reason = new AppError('ERR_SERVER_THREAD', 'ended')
    const calls = [ends.here.call('wait'), ends.here.call('wait')]
    ends.here.close(reason)
    const results = await Promise.allSettled([...calls, ends.here.call('wait')])
    for (const result of results) assert.deepEqual(result, { status: 'rejected', reason })
    ends.here.notify('wait')
  })
})
