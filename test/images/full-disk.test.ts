/**
 * Imports onto a disk that fills up at every stage: with so little room, in bytes and in names, that each step in
 * turn is the one that fails. It says so by code, gives everything back, and what was there stays whole.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { isAppError } from '../../src/core/index.ts'
import type { ImportPhase } from '../../src/images/index.ts'
import { importErofs } from '../../src/images/index.ts'
import { loadFixture } from '../erofs/fixtures.ts'
import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import type { TestStore } from '../store/data-folder.ts'
import { count, dataFolder, filesBelow, testStore } from '../store/data-folder.ts'
import type { SmallDisk } from '../store/small-disk.ts'
import { smallDisk } from '../store/small-disk.ts'
import { DOMAIN, importBytes, readBack } from './harness.ts'

const STEP_BYTES = count(8, 192) * 1024
/** Several times what the import needs. */
const MAX_STEPS = 2000

interface Attempt {
  readonly done: boolean
  /** Where it failed. */
  readonly phase: ImportPhase | undefined
}

async function attempt(store: TestStore, path: string): Promise<Attempt> {
  let phase: ImportPhase | undefined
  const onProgress = (progress: { phase: ImportPhase }): void => void (phase = progress.phase)
  try {
    const devices = [{ path }]
    await importErofs({ store: store.store, domain: DOMAIN, devices, onProgress })
    return { done: true, phase: undefined }
  } catch (error) {
    assert.ok(isAppError(error), String(error))
    assert.equal(error.code, 'ERR_STORE_FULL')
    assert.ok(error.hint !== undefined, 'it says what to do')
    return { done: false, phase }
  }
}

/** Derived files may be made on the way; nothing else may. */
async function objects(dataDir: string): Promise<string[]> {
  return (await filesBelow(dataDir)).filter((path) => !path.includes(`/${DOMAIN}/index/`))
}

/** A part of it is in the domain, and the part after this place is not. */
const NEW_FROM = 300_000

function partlyNewImage(): Buffer {
  const [device] = loadFixture('plain-noinline').devices
  assert.ok(device !== undefined)
  const image = Buffer.from(device)
  const length = image.byteLength - NEW_FROM
  createHash('shake256', { outputLength: length }).update('new').digest().copy(image, NEW_FROM)
  return image
}

/** Imports with more and more room until it works. @returns failures, and in which phases they came */
async function untilItFits(
  disk: SmallDisk,
  limit: (step: number) => Promise<void>,
): Promise<{ failures: number; phases: Set<ImportPhase | undefined> }> {
  await using folder = await dataFolder()
  const bytes = partlyNewImage()
  const path = join(folder.path, 'image')
  await writeFile(path, bytes)
  const base = loadFixture('plain').devices
  await using store = await testStore({ dataDir: join(disk.path, 'data') })
  const { refs } = store.store.domain(DOMAIN)
  const { digest } = await importBytes(store, base)
  await refs.compareAndSwap('base', 'latest', 0, { image: digest })
  const before = await objects(store.dataDir)
  const phases = new Set<ImportPhase | undefined>()
  for (let step = 0; step < MAX_STEPS; step++) {
    await limit(step)
    const free = await disk.freeBytes()
    const { done, phase } = await attempt(store, path)
    if (done) {
      await disk.clear()
      const again = await importErofs({ store: store.store, domain: DOMAIN, devices: [{ path }] })
      assert.deepEqual(await readBack(store, again.digest), [bytes])
      return { failures: step, phases }
    }
    phases.add(phase)
    assert.equal(await disk.freeBytes(), free, `step ${step}, ${phase}: room is not given back`)
    assert.deepEqual(await objects(store.dataDir), before, `step ${step}, ${phase}`)
    const kept = await readBack(store, digest)
    assert.deepEqual(
      kept,
      base.map((device) => Buffer.from(device)),
    )
    assert.equal((await refs.resolve('base', 'latest'))?.image, digest)
  }
  return assert.fail('it never fitted')
}

describe('an import onto a full disk', { skip: missing('root', 'tmpfs') }, () => {
  test('without room for its bytes', async () => {
    await using disk = await smallDisk('32m')
    const { failures, phases } = await untilItFits(disk, (step) =>
      disk.leaveFree(step * STEP_BYTES),
    )
    evidence('import.full_disk', { stepBytes: STEP_BYTES, failures, phases: [...phases].join(',') })
    assert.ok(phases.has('writing') && failures >= 5)
  })

  test('without room for its names', async () => {
    await using disk = await smallDisk('32m')
    const { failures, phases } = await untilItFits(disk, (step) => disk.leaveInodes(step))
    evidence('import.full_names', { failures, phases: [...phases].join(',') })
    // Each name that the import makes is refused once: of what it writes, and of what it publishes.
    assert.ok(phases.has('writing') && phases.has('publishing') && failures >= 8)
  })

  test('a tag is not moved and not lost, and one can always be removed', async () => {
    await using disk = await smallDisk('32m')
    await using store = await testStore({ dataDir: join(disk.path, 'data') })
    const { refs } = store.store.domain(DOMAIN)
    const [one, two] = [
      await importBytes(store, [Buffer.from('1')]),
      await importBytes(store, [Buffer.from('2')]),
    ]
    await refs.compareAndSwap('app', 'latest', 0, { image: one.digest })
    for (const fill of [() => disk.leaveFree(0), () => disk.leaveInodes(0)]) {
      await fill()
      for (const [tag, generation] of [
        ['latest', 1],
        ['new', 0],
      ] as const) {
        await assert.rejects(refs.compareAndSwap('app', tag, generation, { image: two.digest }), {
          code: 'ERR_STORE_FULL',
        })
      }
      assert.equal((await refs.resolve('app', 'latest'))?.image, one.digest)
      await disk.clear()
    }
    await disk.leaveFree(0)
    await disk.leaveInodes(0)
    await refs.delete('app', 'latest', 1)
    assert.deepEqual((await refs.list()).refs, [])
    await disk.clear()
    await refs.compareAndSwap('app', 'latest', 0, { image: two.digest })
  })
})
