/** Bounds of the shared memory: refused sizes, segments, and what is resident before anything is read. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'

import { createCacheMemory, FRAME_SIZES } from '../../src/cache/index.ts'
import { openCacheMemory } from '../../src/cache/memory.ts'
import { GIB, MIB } from '../../src/core/index.ts'

/** Resident bytes of mappings of at least `atLeast` bytes. */
function residentOfMappings(atLeast: number): number {
  let resident = 0
  let counts = false
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line)
    if (range)
      counts = Number.parseInt(range[2] ?? '', 16) - Number.parseInt(range[1] ?? '', 16) >= atLeast
    const rss = /^Rss:\s+(\d+) kB/.exec(line)
    if (rss && counts) resident += Number(rss[1]) * 1024
  }
  return resident
}

describe('createCacheMemory', () => {
  test('refuses less than 64 MiB, and less than 8 frames even if tiny is allowed', () => {
    const code = 'ERR_CACHE_TOO_SMALL'
    assert.throws(() => createCacheMemory({ cacheBytes: 64 * MIB - 1, threads: 1 }), { code })
    assert.throws(() => createCacheMemory({ cacheBytes: NaN, threads: 1 }), { code })
    const tiny = { threads: 1, allowTiny: true, frameSize: 16_384 } as const
    assert.throws(() => createCacheMemory({ ...tiny, cacheBytes: 7 * 16_384 }), { code })
    assert.equal(createCacheMemory({ ...tiny, cacheBytes: 8 * 16_384 }).frames, 8)
    assert.equal(createCacheMemory({ cacheBytes: 64 * MIB, threads: 1 }).segments.length, 1)
  })

  test('the pin budget is a 64th of the frames, at least four and at most 8 MiB', () => {
    for (const frameSize of FRAME_SIZES) {
      const budget = (cacheBytes: number) =>
        createCacheMemory({ cacheBytes, frameSize, threads: 1, allowTiny: true }).pinBudgetFrames
      assert.equal(budget(64 * MIB), MIB / frameSize)
      assert.equal(budget(16 * frameSize), 4)
      assert.equal(budget(2 * GIB), (8 * MIB) / frameSize)
    }
  })

  test('segments are joined by frame numbers, and a view never crosses their border', () => {
    const options = {
      frameSize: 16_384,
      threads: 1,
      allowTiny: true,
      segmentBytes: 4 * 16_384,
    } as const
    const memory = createCacheMemory({ ...options, cacheBytes: 10 * 16_384 })
    assert.equal(memory.segments.length, 3)
    const { arena } = openCacheMemory(memory)
    for (let frame = 0; frame < 10; frame++) arena.view(frame, 0, 16_384).fill(frame + 1)
    const target = Buffer.alloc(10)
    for (let frame = 0; frame < 10; frame++) arena.copy(frame, 16_383, 1, target, frame)
    assert.deepEqual([...target], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert.equal(arena.adjacent(2, 3), true)
    assert.equal(arena.adjacent(3, 4), false)
    assert.equal(arena.adjacent(3, 5), false)
    assert.throws(() => arena.view(12, 0, 1), RangeError)
  })

  test('views and copies of frames at every border of 32 bits are of the same bytes', () => {
    const frameSize = 16_384
    const memory = createCacheMemory({ cacheBytes: 9 * GIB, frameSize, threads: 1 })
    const { arena } = openCacheMemory(memory)
    const perGib = GIB / frameSize
    const borders = [0, 2, 4, 6, 8, 9].map((gib) => gib * perGib)
    const frames = borders
      .flatMap((border) => [border - 1, border])
      .filter((frame) => frame >= 0 && frame < memory.frames)
    for (const frame of frames) arena.view(frame, 0, frameSize).writeUInt32LE(frame, 4096)
    const target = Buffer.alloc(4)
    for (const frame of frames) {
      arena.copy(frame, 4096, 4, target, 0)
      assert.equal(target.readUInt32LE(), frame)
      assert.equal(arena.view(frame, 4096, 4).readUInt32LE(), frame)
    }
  })

  test(
    'nothing of a large cache is resident before it is used, then whole frames are',
    {
      skip: process.platform === 'linux' ? false : 'needs /proc',
    },
    () => {
      const before = residentOfMappings(512 * MIB)
      const memory = createCacheMemory({ cacheBytes: 20 * GIB, frameSize: 65_536, threads: 1 })
      assert.equal(memory.segments.length, 5)
      const { arena } = openCacheMemory(memory)
      const grown = () => residentOfMappings(512 * MIB) - before
      assert.ok(grown() < MIB, `${grown()} bytes are resident`)
      for (let frame = 0; frame < 64; frame++)
        arena.view(memory.frames - 1 - frame, 0, 65_536).fill(1)
      assert.ok(Math.abs(grown() - 4 * MIB) <= 0.05 * 4 * MIB, `${grown()} bytes of 4 MiB`)
    },
  )
})
