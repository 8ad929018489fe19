/**
 * The power is cut at every point of a recorded run of imports and tag changes. Of what was not fsynced, nothing,
 * everything or any part is on the disk: the store opens, what was acknowledged is there and whole, nothing
 * half-made can be seen, and the same imports work. The recording is strace's, from outside of the process.
 */
import assert from 'node:assert/strict'
import { mkdir, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import type { Digest } from '../../src/core/index.ts'
import { readImageRecord } from '../../src/images/index.ts'
import { randomNumbers, sha256 } from '../erofs/fixtures.ts'
import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import type { DataFolder, TestStore } from '../store/data-folder.ts'
import { count, dataFolder, testStore } from '../store/data-folder.ts'
import { readBack } from './harness.ts'
import type { DiskState, Fate } from './power-loss/disk-model.ts'
import {
  DiskModel,
  HOLLOW,
  KEPT,
  LOST,
  fingerprint,
  torn,
  writeState,
} from './power-loss/disk-model.ts'
import type { Acknowledged, Source } from './power-loss/scenario.ts'
import { DOMAIN, NOTHING, SOURCES, importSource, sourcePaths } from './power-loss/scenario.ts'
import type { Operation } from './power-loss/syscall-trace.ts'
import { record } from './power-loss/syscall-trace.ts'

const SCENARIO = fileURLToPath(new URL('./power-loss/scenario.ts', import.meta.url))
const SEED = Number(process.env['COMMONPAGE_SEED'] ?? 20_261_123)
/** Ways in which what is not certain may be mixed, for each point. */
const TORN_PER_POINT = count(6, 1)
/** Of all points, so many are tried; each operation matters, so the full count takes all. */
const MAX_POINTS = count(Infinity, 8)

/** What a killed import has made visible last. */
const KILLED_AFTER = /\/(?:blobs|maps|manifests)\//

/** A cut: what the disk may hold, and what had been promised by then. */
interface Cut {
  readonly state: DiskState
  readonly before: Acknowledged
  /** What was under way: it may be there. */
  readonly next: Acknowledged
  readonly name: string
}

async function recordLife(folder: DataFolder, data: string): Promise<Operation[]> {
  const marks = join(folder.path, `${data}.marks`)
  await mkdir(join(folder.path, data), { recursive: true })
  return await record({
    folder: join(folder.path, data),
    marks,
    output: join(folder.path, `${data}.strace`),
    command: [process.execPath, SCENARIO, join(folder.path, data, 'store'), marks],
  })
}

/** Tags as they were said last, and every image that was ever named. */
function acknowledgedBy(operations: readonly Operation[]): Acknowledged {
  let all = NOTHING
  for (const one of operations) {
    if (one.op !== 'mark') continue
    const { images, tags } = JSON.parse(one.text) as Acknowledged
    all = { images: { ...all.images, ...images }, tags }
  }
  return all
}

interface CutOptions {
  /** Operations that a run before this one made, which was killed. */
  readonly earlier?: readonly Operation[]
  /** After which operations the power is cut. */
  readonly isDue: (operation: Operation, index: number) => boolean
}

/** What the disk may hold at the chosen points of a run, each state once. */
function* cuts(operations: readonly Operation[], options: CutOptions): Generator<Cut> {
  const { earlier = [], isDue } = options
  const model = new DiskModel()
  for (const operation of earlier) model.apply(operation)
  const seen = new Set<string>()
  for (const [index, operation] of operations.entries()) {
    model.apply(operation)
    if (!isDue(operation, index)) continue
    const before = acknowledgedBy([...earlier, ...operations.slice(0, index + 1)])
    const mark = operations.slice(index + 1).find((one) => one.op === 'mark')
    const next = mark === undefined ? before : (JSON.parse(mark.text) as Acknowledged)
    for (const fate of fates(index)) {
      const state = model.stateAfter(fate)
      const key = `${fingerprint(state)} ${JSON.stringify(before)}`
      if (seen.has(key)) continue
      seen.add(key)
      yield { state, before, next, name: `operation ${index}, ${fate.name}` }
    }
  }
}

function isMark({ op }: Operation): boolean {
  return op === 'mark'
}

/** About `points` operations, evenly spread. */
function spread(operations: readonly Operation[], points: number): CutOptions['isDue'] {
  const stride = Math.max(1, operations.length / points)
  return (_, index) => Math.floor(index / stride) !== Math.floor((index - 1) / stride)
}

function fates(index: number): Fate[] {
  const mixed = Array.from({ length: TORN_PER_POINT }, (_, turn) => {
    const seed = SEED + index * TORN_PER_POINT + turn
    const random = randomNumbers(seed)
    return torn(seed, () => random(1_000_000) / 1_000_000)
  })
  return [LOST, KEPT, HOLLOW, ...mixed]
}

/** Opens what a cut left and checks it. @throws AssertionError when something is lost, torn or half-made */
async function checkCut(cut: Cut, folder: string): Promise<void> {
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

/** What an fsync is for: a folder's names of one kind, or the bytes of what becomes an object of that kind. */
function purposeOf(operations: readonly Operation[], index: number): string | undefined {
  const operation = operations[index]
  if (operation?.op !== 'sync') return undefined
  const published = operations
    .slice(index)
    .find((one) => (one.op === 'link' || one.op === 'rename') && one.path === operation.path)
  const path = published?.op === 'link' || published?.op === 'rename' ? published.to : undefined
  const kind = /^store\/domains\/[^/]+\/(\w+)\//.exec(`${path ?? operation.path}/`)?.[1]
  if (kind === undefined || kind === 'uploads' || kind === 'index') return undefined
  const suffix = path?.endsWith('.idx') === true ? ' (index)' : ''
  return path === undefined ? `names in ${kind}` : `bytes of ${kind}${suffix}`
}

describe('power loss', { skip: missing('strace') }, () => {
  test('at every operation of imports and tag changes', async () => {
    await using folder = await dataFolder()
    const operations = await recordLife(folder, 'life')
    const isDue = spread(operations, MAX_POINTS)
    let states = 0
    for (const cut of cuts(operations, { isDue })) {
      await checkCut(cut, join(folder.path, `cut-${++states}`))
    }
    evidence('store.power_loss', { operations: operations.length, states, seed: SEED })
    const { images, tags } = acknowledgedBy(operations)
    assert.ok(images.plain !== undefined && tags['app:again'] === images.plain)
  })

  test('after a run that was killed before its names were certain, and another that found them', async () => {
    await using folder = await dataFolder()
    const first = await recordLife(folder, 'first')
    const links = [...first.entries()].filter(
      ([, one]) => one.op === 'link' && KILLED_AFTER.test(one.to),
    )
    let states = 0
    let runs = 0
    for (const [index] of links.slice(0, count(links.length, 3))) {
      const earlier = first.slice(0, index + 1)
      const model = new DiskModel()
      for (const operation of earlier) model.apply(operation)
      const data = `again-${++runs}`
      await mkdir(join(folder.path, data))
      await writeState(model.stateAfter(KEPT), join(folder.path, data))
      const operations = await recordLife(folder, data)
      // The first thing that is promised stands on what was found.
      const lastPoint = count(Infinity, operations.findIndex(isMark))
      const isDue = (one: Operation, at: number) => isMark(one) && at <= lastPoint
      for (const cut of cuts(operations, { earlier, isDue })) {
        await checkCut(cut, join(folder.path, `cut-${++states}`))
      }
    }
    evidence('store.power_loss_after_kill', { runs, states, seed: SEED })
  })

  test('this check sees what is lost when an fsync is left out', async () => {
    await using folder = await dataFolder()
    const operations = await recordLife(folder, 'life')
    const purposes = new Set(operations.flatMap((_, index) => purposeOf(operations, index) ?? []))
    const kinds = ['blobs', 'maps', 'manifests', 'refs']
    const expected = [
      'bytes of blobs (index)',
      ...kinds.flatMap((one) => [`bytes of ${one}`, `names in ${one}`]),
    ]
    assert.deepEqual([...purposes].toSorted(), expected.toSorted())
    let states = 0
    for (const purpose of purposes) {
      const without = operations.filter((_, index) => purposeOf(operations, index) !== purpose)
      let noticed = false
      for (const cut of cuts(without, { isDue: isMark })) {
        noticed = await checkCut(cut, join(folder.path, `cut-${++states}`)).then(
          () => false,
          () => true,
        )
        if (noticed) break
      }
      assert.ok(noticed, `nothing was missed without the fsyncs for ${purpose}`)
    }
    evidence('store.power_loss_self_test', { fsyncsLeftOut: purposes.size, states })
  })
})
