/** Changes of tags that others change at the same moment: repeated, and refused by the code of the API. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { Digest } from '../../src/core/index.ts'
import { digestOf } from '../../src/core/index.ts'
import { pointTag, removeTag } from '../../src/server/tags.ts'
import { RefStore } from '../../src/store/index.ts'
import { testStore } from '../store/data-folder.ts'

const OURS = digestOf(Buffer.from('ours'))
const THEIRS = digestOf(Buffer.from('theirs'))

/** Refs that somebody else changes before each of the first `times` changes of ours. */
async function contended(times: number) {
  const at = await testStore()
  const { refs } = at.store.domain('d')
  let left = times
  const interfere = async () => {
    if (left-- <= 0) return
    const generation = (await refs.resolve('app', '1'))?.generation ?? 0
    await refs.compareAndSwap('app', '1', generation, { image: THEIRS })
  }
  const racing = Object.assign(Object.create(RefStore.prototype), {
    resolve: (name: string, tag: string) => refs.resolve(name, tag),
    compareAndSwap: async (...change: Parameters<RefStore['compareAndSwap']>) => {
      await interfere()
      return await refs.compareAndSwap(...change)
    },
    delete: async (...change: Parameters<RefStore['delete']>) => {
      await interfere()
      await refs.delete(...change)
    },
  }) as RefStore
  const names = async (): Promise<Digest | undefined> => (await refs.resolve('app', '1'))?.image
  return { refs, racing, names, [Symbol.asyncDispose]: () => at[Symbol.asyncDispose]() }
}

test('a tag that others change meanwhile is pointed again, and given up with a conflict', async () => {
  await using some = await contended(3)
  assert.equal((await pointTag(some.racing, 'app', '1', OURS)).generation, 4)
  assert.equal(await some.names(), OURS)
  await using many = await contended(Infinity)
  await assert.rejects(pointTag(many.racing, 'app', '1', OURS), { code: 'ERR_REF_CONFLICT' })
  assert.equal(await many.names(), THEIRS)
})

test('a tag that changed since it was looked at is not removed', async () => {
  await using at = await contended(1)
  await at.refs.compareAndSwap('app', '1', 0, { image: OURS })
  await assert.rejects(removeTag(at.racing, 'app', '1'), { code: 'ERR_REF_CONFLICT' })
  assert.equal(await at.names(), THEIRS)
  assert.equal(await removeTag(at.racing, 'app', '1'), true)
})
