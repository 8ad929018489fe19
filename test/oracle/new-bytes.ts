/**
 * The independent judge of sharing: how many bytes does image B truly need that image A did not hold? It
 * parses the images by itself (plain, inline and chunk-based layouts) and uses nothing of `src/`, so that a
 * mistake there cannot hide here.
 *
 * U = bytes of B's 4 KiB blocks, counted from each file's own offset 0, whose sha256 no file of A has, plus
 * the bytes of inodes (with their xattrs, chunk tables and link targets) and of directory blocks that A does
 * not have.
 */
import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

const BLOCK = 4096
const HOLE32 = 0xffff_ffff

export interface NewBytes {
  readonly fileBytes: number
  readonly inodeBytes: number
  readonly directoryBytes: number
  /** U. */
  readonly totalBytes: number
  readonly files: number
  readonly differingFiles: number
}

interface Found {
  readonly blocks: Map<string, number>
  readonly inodes: Map<string, number>
  readonly directories: Map<string, number>
  readonly files: Map<number, string[]>
}

/** What B needs beyond A; `devices` are the extra devices of each image. */
export function newBytes(
  imageA: string,
  imageB: string,
  devicesA: readonly string[] = [],
  devicesB: readonly string[] = [],
): NewBytes {
  const a = new Reader(imageA, devicesA)
  const b = new Reader(imageB, devicesB)
  try {
    const inA = a.collect()
    const inB = b.collect()
    const fileBytes = missing(inA.blocks, inB.blocks)
    const inodeBytes = missing(inA.inodes, inB.inodes)
    const directoryBytes = missing(inA.directories, inB.directories)
    const differingFiles = [...inB.files.values()].filter((blocks) =>
      blocks.some((key) => !inA.blocks.has(key)),
    ).length
    return {
      fileBytes,
      inodeBytes,
      directoryBytes,
      totalBytes: fileBytes + inodeBytes + directoryBytes,
      files: inB.files.size,
      differingFiles,
    }
  } finally {
    a.close()
    b.close()
  }
}

function missing(have: Map<string, number>, need: Map<string, number>): number {
  let bytes = 0
  for (const [key, length] of need) if (!have.has(key)) bytes += length
  return bytes
}

class Reader {
  readonly #fds: number[]
  readonly #blockSize: number
  readonly #metaStart: number
  readonly #root: number

  constructor(image: string, devices: readonly string[]) {
    this.#fds = [image, ...devices].map((path) => openSync(path, 'r'))
    const superblock = this.#read(0, 1024, 128)
    if (superblock.readUInt32LE(0) !== 0xe0f5_e1e2) throw new Error(`${image}: no EROFS magic`)
    this.#blockSize = 1 << superblock.readUInt8(12)
    this.#root = superblock.readUInt16LE(14)
    this.#metaStart = superblock.readUInt32LE(40) * this.#blockSize
  }

  close(): void {
    for (const fd of this.#fds) closeSync(fd)
  }

  collect(): Found {
    const found: Found = {
      blocks: new Map(),
      inodes: new Map(),
      directories: new Map(),
      files: new Map(),
    }
    const seen = new Set<number>()
    const todo = [this.#root]
    for (let nid = todo.pop(); nid !== undefined; nid = todo.pop()) {
      if (seen.has(nid)) continue
      seen.add(nid)
      for (const child of this.#visit(nid, found)) todo.push(child)
    }
    return found
  }

  /** Books one inode; returns the inodes that a directory names. */
  #visit(nid: number, found: Found): number[] {
    const at = this.#metaStart + nid * 32
    const head = this.#read(0, at, 64)
    const format = head.readUInt16LE(0)
    const extended = (format & 1) === 1
    const layout = (format >> 1) & 7
    const type = head.readUInt16LE(4) & 0xf000
    const size = extended ? Number(head.readBigUInt64LE(8)) : head.readUInt32LE(8)
    const xattrCount = head.readUInt16LE(2)
    const headerBytes = (extended ? 64 : 32) + (xattrCount === 0 ? 0 : 12 + 4 * (xattrCount - 1))
    const union = head.readUInt32LE(16)
    const special = type !== 0x8000 && type !== 0x4000 && type !== 0xa000
    let recordBytes = headerBytes
    let pieces: { device: number; offset: number; length: number }[] = []
    if (!special && layout === 4) {
      const chunked = this.#chunks(at + headerBytes, union, size)
      pieces = chunked.pieces
      recordBytes = chunked.end - at
    } else if (!special && (layout === 0 || layout === 2)) {
      const inlineBytes = layout === 2 ? size % this.#blockSize : 0
      const plainBytes = size - inlineBytes
      if (plainBytes > 0) {
        const hole = union === HOLE32
        pieces.push({ device: hole ? -1 : 0, offset: union * this.#blockSize, length: plainBytes })
      }
      if (inlineBytes > 0) pieces.push({ device: 0, offset: at + headerBytes, length: inlineBytes })
    } else if (!special) {
      throw new Error(`inode ${nid} has layout ${layout}, which the judge does not read`)
    }
    let record = this.#read(0, at, recordBytes)
    if (type === 0xa000) record = Buffer.concat([record, this.#gather(pieces)])
    found.inodes.set(sha256(record), record.length)
    if (type === 0x8000) {
      const keys: string[] = []
      this.#eachBlock(pieces, (block) => {
        const key = sha256(block)
        found.blocks.set(key, block.length)
        keys.push(key)
      })
      found.files.set(nid, keys)
    }
    if (type !== 0x4000) return []
    const data = this.#gather(pieces)
    const children: number[] = []
    for (let start = 0; start < data.length; start += this.#blockSize) {
      const block = data.subarray(start, Math.min(data.length, start + this.#blockSize))
      found.directories.set(sha256(block), block.length)
      const count = block.readUInt16LE(8) / 12
      for (let k = 0; k < count; k++) children.push(Number(block.readBigUInt64LE(k * 12)))
    }
    return children
  }

  #chunks(tableAt: number, union: number, size: number) {
    const format = union & 0xffff
    const chunkBytes = this.#blockSize * 2 ** (format & 31)
    const entryBytes = (format & 0x20) === 0 ? 4 : 8
    const start = Math.ceil(tableAt / entryBytes) * entryBytes
    const count = Math.ceil(size / chunkBytes)
    const table = this.#read(0, start, count * entryBytes)
    const pieces = []
    for (let k = 0; k < count; k++) {
      const length = Math.min(chunkBytes, size - k * chunkBytes)
      const block = entryBytes === 4 ? table.readUInt32LE(k * 4) : table.readUInt32LE(k * 8 + 4)
      const device = entryBytes === 4 ? 0 : table.readUInt16LE(k * 8 + 2)
      pieces.push({
        device: block === HOLE32 ? -1 : device,
        offset: block * this.#blockSize,
        length,
      })
    }
    return { pieces, end: start + count * entryBytes }
  }

  #gather(pieces: readonly { device: number; offset: number; length: number }[]): Buffer {
    const parts: Buffer[] = []
    this.#eachBlock(pieces, (block) => parts.push(Buffer.from(block)))
    return Buffer.concat(parts)
  }

  /** Calls back with each 4 KiB of the file, from its own offset 0; the last may be shorter. */
  #eachBlock(
    pieces: readonly { device: number; offset: number; length: number }[],
    visit: (block: Buffer) => void,
  ): void {
    const block = Buffer.alloc(BLOCK)
    let filled = 0
    for (const piece of pieces) {
      for (let done = 0; done < piece.length;) {
        const length = Math.min(BLOCK - filled, piece.length - done)
        if (piece.device < 0) block.fill(0, filled, filled + length)
        else this.#read(piece.device, piece.offset + done, length).copy(block, filled)
        filled += length
        done += length
        if (filled === BLOCK) {
          visit(block)
          filled = 0
        }
      }
    }
    if (filled > 0) visit(block.subarray(0, filled))
  }

  #read(device: number, offset: number, length: number): Buffer {
    const fd = this.#fds[device]
    if (fd === undefined) throw new Error(`no device ${device}`)
    const bytes = Buffer.alloc(length)
    const available = Math.max(0, Math.min(length, fstatSync(fd).size - offset))
    for (let done = 0; done < available;) {
      const got = readSync(fd, bytes, done, available - done, offset + done)
      if (got === 0) break
      done += got
    }
    return bytes
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('base64')
}

if (process.argv[1] === import.meta.filename) {
  const [a, b] = process.argv.slice(2)
  if (a === undefined || b === undefined) throw new Error('usage: new-bytes.ts IMAGE-A IMAGE-B')
  process.stdout.write(`${JSON.stringify(newBytes(a, b), undefined, 2)}\n`)
}
