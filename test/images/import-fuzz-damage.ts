/**
 * Devices that are nearly right: a seeded choice of damage to a fixture, from single bits to blocks moved and devices
 * left out, with the superblock's checksum put right again so that damage reaches the parser.
 */
import { FEATURE_COMPAT } from '../../src/erofs/index.ts'
import { SB, SUPERBLOCK_OFFSET } from '../../src/erofs/layout.ts'
import { checksumLength, superblockChecksum } from '../../src/erofs/superblock.ts'
import type { RandomBelow, Structures } from '../erofs/fuzz-structures.ts'
import { damageStructure } from '../erofs/fuzz-structures.ts'

export interface FuzzedFixture {
  readonly name: string
  readonly devices: readonly Uint8Array[]
  /** Undefined when the directories are compressed. */
  readonly structures: Structures | undefined
}

const BORDERS = [0, 1, 2, 3, 7, 0x1f, 0x7f, 0xff, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0xfffffffe]
const BLOCKS = [512, 4096, 65_536]

/** Changes a device in place. */
type Damage = (bytes: Uint8Array, random: RandomBelow) => void

/** Most of what is parsed lies at the start; some images have metadata elsewhere. */
function place(bytes: Uint8Array, random: RandomBelow): number {
  const areas = [128, 4096, 40_000, 60_000, bytes.length]
  const area = Math.min(areas[random(areas.length)] ?? 0, bytes.length)
  const from = area === 128 ? SUPERBLOCK_OFFSET : 0
  return Math.min(from + random(area), bytes.length - 1)
}

const setByte: Damage = (bytes, random) => {
  bytes[place(bytes, random)] = random(256)
}

const flipBit: Damage = (bytes, random) => {
  const at = place(bytes, random)
  bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8))
}

/** A field of 2, 4 or 8 bytes, aligned as EROFS aligns them. */
const setField: Damage = (bytes, random) => {
  const width = [2, 4, 4, 8][random(4)] ?? 4
  const at = Math.floor(place(bytes, random) / width) * width
  if (at + width > bytes.length) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const value = BORDERS[random(BORDERS.length)] ?? 0
  if (width === 2) view.setUint16(at, value & 0xffff, true)
  else view.setUint32(at, value >>> 0, true)
  if (width === 8) view.setUint32(at + 4, random(3) === 0 ? random(0xffffffff) : 0, true)
}

/** What one inode says, another says too: files over each other and over metadata, directories twice in the tree. */
const copyRecord: Damage = (bytes, random) => {
  const width = [8, 12, 32, 64, 128][random(5)] ?? 32
  const from = Math.floor(place(bytes, random) / 4) * 4
  const to = Math.floor(place(bytes, random) / 4) * 4
  if (Math.max(from, to) + width <= bytes.length) bytes.copyWithin(to, from, from + width)
}

const copyBlock: Damage = (bytes, random) => {
  const size = BLOCKS[random(BLOCKS.length)] ?? 4096
  const blocks = Math.floor(bytes.length / size)
  if (blocks === 0) return
  const from = random(blocks) * size
  bytes.copyWithin(random(blocks) * size, from, from + size)
}

const clearBlock: Damage = (bytes, random) => {
  const size = BLOCKS[random(BLOCKS.length)] ?? 4096
  const at = random(Math.ceil(bytes.length / size)) * size
  bytes.fill(random(2) * 255, at, at + size)
}

const DAMAGES: readonly Damage[] = [
  setByte,
  flipBit,
  setField,
  setField,
  setField,
  copyRecord,
  copyRecord,
  copyBlock,
  clearBlock,
]

function putChecksumRight(bytes: Uint8Array): void {
  const bits = bytes[SUPERBLOCK_OFFSET + SB.blkszbits] ?? 0
  if (bits < 9 || bits > 16) return
  const length = checksumLength(2 ** bits)
  if (bytes.length < SUPERBLOCK_OFFSET + length) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (
    (view.getUint32(SUPERBLOCK_OFFSET + SB.feature_compat, true) & FEATURE_COMPAT.SB_CHKSUM) ===
    0
  )
    return
  const covered = bytes.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_OFFSET + length)
  view.setUint32(SUPERBLOCK_OFFSET + SB.checksum, superblockChecksum(covered), true)
}

/** Sizes and number of devices; rarely, because most such images are refused at once. */
function reshape(devices: readonly Uint8Array[], random: RandomBelow): Uint8Array[] {
  const one = random(devices.length)
  const bytes = devices[one] ?? new Uint8Array(0)
  switch (random(6)) {
    case 0:
      return devices.with(one, bytes.slice(0, 1 + random(bytes.length)))
    case 1: {
      const size = BLOCKS[random(BLOCKS.length)] ?? 4096
      return devices.with(one, bytes.slice(0, Math.max(size, bytes.length - (bytes.length % size))))
    }
    case 2:
      return devices.with(one, Buffer.concat([bytes, Buffer.alloc(1 + random(70_000), random(3))]))
    case 3:
      return devices.toReversed()
    case 4:
      return devices.slice(0, -1)
    default:
      return [...devices, bytes.slice()]
  }
}

export function damaged(fixture: FuzzedFixture, random: RandomBelow): Uint8Array[] {
  let copies: Uint8Array[] = fixture.devices.map((bytes) => Uint8Array.from(bytes))
  const changes = [1, 1, 1, 2, 3, 6, 20][random(7)] ?? 1
  for (let change = 0; change < changes; change++) {
    const one = random(4) === 0 ? random(copies.length) : 0
    const bytes = copies[one]
    if (bytes === undefined) continue
    if (one === 0 && fixture.structures !== undefined && random(2) === 0) {
      damageStructure(bytes, fixture.structures, random)
    } else {
      DAMAGES[random(DAMAGES.length)]?.(bytes, random)
    }
  }
  if (random(8) === 0) copies = reshape(copies, random)
  const [primary] = copies
  if (primary !== undefined && random(10) > 0) putChecksumRight(primary)
  return copies
}
