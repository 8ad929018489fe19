/** The fixture images and the list of what they hold. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'

import type { ByteSource } from '../../src/core/index.ts'
import { memorySource } from '../../src/core/index.ts'
import type { ErofsImage, FileExtent, Inode } from '../../src/erofs/index.ts'
import { openErofs } from '../../src/erofs/index.ts'
import { Random } from '../random.ts'

const FOLDER = new URL('../fixtures/erofs/', import.meta.url)

export interface TreeEntry {
  readonly path: string
  readonly mode: string
  readonly uid: number
  readonly gid: number
  readonly mtime_ns: string
  readonly nlink?: number
  readonly size?: number
  readonly sha256?: string
  readonly target?: string
  readonly rdev?: readonly [number, number]
  readonly xattrs?: Readonly<Record<string, string>>
}

export interface Fixture {
  readonly name: string
  /** The bytes of each device, primary first. */
  readonly devices: readonly Uint8Array[]
}

export function fixtureNames(): string[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith('.erofs'))
    .map((file) => file.slice(0, -'.erofs'.length))
    .toSorted()
}

export function loadFixture(name: string): Fixture {
  const blob = new URL(`${name}.blob0`, FOLDER)
  const primary = readFileSync(new URL(`${name}.erofs`, FOLDER))
  return { name, devices: existsSync(blob) ? [primary, readFileSync(blob)] : [primary] }
}

export async function openFixture(name: string): Promise<{ image: ErofsImage; fixture: Fixture }> {
  const fixture = loadFixture(name)
  const image = await openErofs(primarySource(fixture), {
    extraDeviceSizes: fixture.devices.slice(1).map((device) => device.byteLength),
  })
  return { image, fixture }
}

export function primarySource(fixture: Fixture): ByteSource {
  const [primary] = fixture.devices
  if (primary === undefined) throw new Error(`fixture ${fixture.name} has no device`)
  return memorySource(primary)
}

export function readTree(): TreeEntry[] {
  const text = readFileSync(new URL('tree.jsonl', FOLDER), 'utf8').trimEnd()
  return text.split('\n').map((line): TreeEntry => JSON.parse(line))
}

/** Paths in tree.jsonl are bytes shown as Latin-1. */
export function bytesOf(text: string): Uint8Array {
  return Buffer.from(text, 'latin1')
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** The bytes that extents name. */
export function gather(devices: readonly Uint8Array[], extents: readonly FileExtent[]): Uint8Array {
  return Buffer.concat(
    extents.map((extent) => {
      if (extent.kind === 'hole') return new Uint8Array(extent.length)
      const device = devices[extent.device] ?? new Uint8Array(0)
      return device.subarray(extent.deviceOffset, extent.deviceOffset + extent.length)
    }),
  )
}

export async function readWhole(
  image: ErofsImage,
  devices: readonly Uint8Array[],
  inode: Inode,
): Promise<Uint8Array> {
  return gather(devices, await image.mapFile(inode, 0, inode.size))
}

/** A source that counts what is read. */
export class CountingSource implements ByteSource {
  readonly size: number
  reads = 0
  bytes = 0
  largest = 0
  readonly #source: ByteSource

  constructor(source: ByteSource) {
    this.size = source.size
    this.#source = source
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    this.reads++
    this.bytes += length
    this.largest = Math.max(this.largest, length)
    return this.#source.read(offset, length)
  }
}

/** xorshift32: the same numbers for the same seed, everywhere. */
export function randomNumbers(seed: number): (below: number) => number {
  const random = new Random(seed)
  return (below) => random.next(below)
}
