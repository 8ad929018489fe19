/**
 * Opens what a cut of the power left, and looks: nothing that was promised is missing, nothing half-made can be
 * seen, and the same work can be done again.
 */
import assert from 'node:assert/strict'
import { mkdir, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import type { Digest } from '../../../src/core/index.ts'
import { readImageRecord } from '../../../src/images/index.ts'
import { sha256 } from '../../erofs/fixtures.ts'
import type { TestStore } from '../../store/data-folder.ts'
import { testStore } from '../../store/data-folder.ts'
import { readBack } from '../harness.ts'
import type { Cut } from './cuts.ts'
import { SEED } from './cuts.ts'
import { writeState } from './disk-model.ts'
import type { Source } from './scenario.ts'
import { DOMAIN, SOURCES, importSource, sourcePaths } from './scenario.ts'

/** Checks one cut in a folder that is made for it, and removed. @throws AssertionError when something is lost, torn or half-made */
export async function checkCut(cut: Cut, folder: string): Promise<void> {
  await mkdir(folder)
  await writeState(cut.state, folder)
  const dataDir = join(folder, 'store')
  try {
    await using store = await testStore({ dataDir })
    await assertPromises(store, cut)
    await assertNothingHalfMade(store)
    for (const source of SOURCES) {
      const image = await importSource(store.store, source)
      await assertImage(store, image, source)
    }
    assert.deepEqual(await readdir(join(dataDir, 'domains', DOMAIN, 'uploads')), [])
    assert.deepEqual(store.warnings, [])
  } catch (error) {
    throw new Error(`power cut after ${cut.name} (seed ${SEED})`, { cause: error })
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function assertPromises(opened: TestStore, { before, next }: Cut): Promise<void> {
  const { refs, damaged } = await opened.store.domain(DOMAIN).refs.list()
  assert.deepEqual(damaged, [])
  const tags = Object.fromEntries(refs.map(({ name, tag, ref }) => [`${name}:${tag}`, ref.image]))
  const allowed = [before.tags, next.tags].map((one) => sorted(one))
  assert.ok(
    allowed.includes(sorted(tags)),
    `tags ${sorted(tags)}, expected ${allowed.join(' or ')}`,
  )
  for (const source of SOURCES) {
    const image = before.images[source]
    if (image !== undefined) await assertImage(opened, image, source)
  }
}

function sorted(tags: Readonly<Record<string, string | undefined>>): string {
  return JSON.stringify(Object.entries(tags).toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

/** Whatever can be named is complete: blobs have the bytes of their names, maps their blobs, records their maps. */
async function assertNothingHalfMade(opened: TestStore): Promise<void> {
  const { blobs, maps, manifests, refs } = opened.store.domain(DOMAIN)
  for await (const page of blobs.list()) {
    for (const { digest } of page) {
      await (await blobs.openIndex(digest)).verify()
      const path = await blobs.localPath(digest)
      assert.equal(`sha256:${sha256(await readFile(path ?? ''))}`, digest)
    }
  }
  for await (const device of maps.list()) {
    for (const { digest } of (await maps.require(device)).map.blobs) await blobs.openIndex(digest)
  }
  for await (const image of manifests.list()) await readBackChecked(opened, image)
  for (const { ref } of (await refs.list()).refs) {
    assert.ok(ref.image !== undefined)
    await readBackChecked(opened, ref.image)
  }
}

async function assertImage(opened: TestStore, image: Digest, source: Source): Promise<void> {
  const devices = await readBack(opened, image)
  const expected = await Promise.all(sourcePaths(source).map((path) => readFile(path)))
  assert.deepEqual(devices.map(sha256), expected.map(sha256))
}

async function readBackChecked(opened: TestStore, image: Digest): Promise<void> {
  const { devices: recorded } = await readImageRecord(opened.store.domain(DOMAIN), image)
  const devices = await readBack(opened, image)
  assert.deepEqual(
    devices.map((bytes) => `sha256:${sha256(bytes)}`),
    recorded.map((device) => device.sha256),
  )
}
