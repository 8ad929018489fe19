/** The report of shared bytes does not hold up or fail the import that it is of. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AppError, digestOf } from '../../src/core/index.ts'
import { sharedWith } from '../../src/images/import/shared-with.ts'
import type { DomainStore, RefPage } from '../../src/store/index.ts'

const OWN = digestOf(Buffer.from('own'))

/** A domain of which only the list of tags is read. */
function domainOf(list: (pages: number) => RefPage): DomainStore {
  let pages = 0
  const refs = { list: () => Promise.resolve(list(++pages)) }
  return { name: 'd', refs } as unknown as DomainStore
}

test('tags of the image itself use up the time as others do', async () => {
  const updatedAt = '2026-01-01T00:00:00Z'
  const endless = domainOf((pages) => {
    assert.ok(pages < 10, 'it reads on after its time')
    const ref = { image: OWN, generation: 1, updatedAt }
    return { refs: [{ name: 'app', tag: `${pages}`, ref }], damaged: [], next: `${pages}` }
  })
  assert.deepEqual(await sharedWith(endless, [], OWN, -1), [])
})

test('a list that cannot be read is an empty report', async () => {
  const broken = domainOf(() => {
    throw new AppError('ERR_STORE_READ_FAILED', 'cannot read refs/')
  })
  assert.deepEqual(await sharedWith(broken, [], OWN), [])
  const bug = domainOf(() => {
    throw new TypeError('ours')
  })
  await assert.rejects(sharedWith(bug, [], OWN), TypeError)
})
