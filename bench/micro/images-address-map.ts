/**
 * What a look-up in an address map of a million extents costs, and how long such a map takes to be opened from
 * its bytes: the figures of the design are 300 ns and 100 ms. `COMMONPAGE_SMOKE=1` runs with few extents.
 */
import { bench, do_not_optimize, run } from 'mitata'

import { RunList } from '../../src/cache/index.ts'
import type { Digest } from '../../src/core/index.ts'
import { AddressMap } from '../../src/images/index.ts'
import { decodeMap, MapBuilder } from '../../src/store/index.ts'

const EXTENTS = process.env['COMMONPAGE_SMOKE'] === '1' ? 1000 : 1_000_000
const EXTENT_BYTES = 4096
const PLACES = 65_536

const digest: Digest = `sha256:${'0'.repeat(64)}`
const blob = { digest, size: EXTENTS * EXTENT_BYTES * 2 }

const builder = new MapBuilder()
const source = builder.addSource()
for (let index = 0; index < EXTENTS; index++) {
  // Every other block of the blob, so that no extent continues the one before.
  builder.addPiece(EXTENT_BYTES, source, index * 2 * EXTENT_BYTES)
}
const facts = { parsedAsErofs: false, logicalBytes: 0, inodeCount: 0 }
const encoded = builder.encode([{ blob, base: 0 }], facts)
const shared = new Uint8Array(new SharedArrayBuffer(encoded.byteLength))
shared.set(encoded)

const blobs = [{ ...blob, blobNo: 1, ordinalBase: 0 }]
const map = new AddressMap(decodeMap(shared), blobs)
const places = Float64Array.from({ length: PLACES }, () =>
  Math.floor(Math.random() * (map.size - 16 * EXTENT_BYTES)),
)
const runs = new RunList()
let next = 0

bench(`mapRange of 1 byte at a random place of ${EXTENTS} extents`, () => {
  runs.clear()
  map.mapRange(places[next++ & (PLACES - 1)] ?? 0, 1, runs)
  return do_not_optimize(runs.count)
})

bench('mapRange of 64 KiB, 17 extents, at a random place', () => {
  runs.clear()
  map.mapRange(places[next++ & (PLACES - 1)] ?? 0, 16 * EXTENT_BYTES, runs)
  return do_not_optimize(runs.count)
})

bench('open: decode and check the map in shared memory', () =>
  do_not_optimize(new AddressMap(decodeMap(shared), blobs).size),
)

await run()
