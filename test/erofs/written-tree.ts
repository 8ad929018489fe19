/** Trees for tests of the writer: files get their bytes, and the result is whole devices in memory. */
import { createHash } from 'node:crypto'

import { memorySource } from '../../src/core/index.ts'
import type {
  Inode,
  NodeAttributes,
  NodeXattr,
  TreeNode,
  WriterOptions,
} from '../../src/erofs/index.ts'
import {
  BLOCK_SIZE,
  CHUNK_SIZE,
  DirectoryNode,
  FileNode,
  HOLE,
  ImageWriter,
  MAX_INLINE_FILE,
  openErofs,
  S_IF,
  SpecialNode,
  SymlinkNode,
} from '../../src/erofs/index.ts'
import { Random } from '../random.ts'
import type { TreeEntry } from './fixtures.ts'
import { latin1, readWhole, sha256 } from './fixtures.ts'

export const ATTRIBUTES: NodeAttributes = {
  permissions: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 1_700_000_000,
  mtimeNanoseconds: 0,
  xattrs: [],
}

/** A writer together with the bytes of its files. Chunks that are equal, or zeros, take no room again. */
export class TreeBuilder {
  readonly root = new DirectoryNode(ATTRIBUTES)
  readonly writer: ImageWriter
  readonly #chunks = new Map<string, number>()
  /** By inode: what files have in them. */
  readonly contents = new Map<TreeNode, Uint8Array>()
  readonly #placed: { readonly block: number; readonly bytes: Uint8Array }[] = []

  constructor(options?: WriterOptions) {
    this.writer = new ImageWriter(options)
  }

  file(bytes: Uint8Array, attributes: Partial<NodeAttributes> = {}): FileNode {
    const node = this.#file(bytes, attributes)
    this.contents.set(node, bytes)
    return node
  }

  #file(bytes: Uint8Array, attributes: Partial<NodeAttributes>): FileNode {
    const own = { ...ATTRIBUTES, permissions: 0o644, ...attributes }
    const digest = createHash('sha256').update(bytes).digest()
    const fingerprint = bytes.byteLength === 0 ? undefined : digest
    if (bytes.byteLength <= MAX_INLINE_FILE) {
      const data = { kind: 'inline', size: bytes.byteLength, read: () => bytes } as const
      return new FileNode(own, data, fingerprint)
    }
    const blocks = new Uint32Array(Math.ceil(bytes.byteLength / CHUNK_SIZE))
    for (const index of blocks.keys()) {
      blocks[index] = this.#chunk(bytes.subarray(index * CHUNK_SIZE, (index + 1) * CHUNK_SIZE))
    }
    return new FileNode(own, { kind: 'chunks', size: bytes.byteLength, blocks }, fingerprint)
  }

  directory(attributes: Partial<NodeAttributes> = {}): DirectoryNode {
    return new DirectoryNode({ ...ATTRIBUTES, ...attributes })
  }

  /** The devices of the image, the primary first. Call after the last layer was placed. */
  devices(): Buffer[] {
    const image = this.writer.finish(this.root)
    const primary = Buffer.alloc(image.primarySize)
    const second =
      image.dataDeviceSize === undefined ? undefined : Buffer.alloc(image.dataDeviceSize)
    for (const { block, bytes } of this.#placed) {
      ;(second ?? primary).set(bytes, image.dataOffset + block * BLOCK_SIZE)
    }
    for (const { offset, bytes } of image.metadata()) primary.set(bytes, offset)
    const uuid = createHash('sha256').update(primary).digest().subarray(0, 16)
    primary.set(image.superblock(uuid), 0)
    return second === undefined ? [primary] : [primary, second]
  }

  #chunk(bytes: Uint8Array): number {
    if (bytes.every((byte) => byte === 0)) return HOLE
    const key = createHash('sha256').update(bytes).digest('hex')
    const known = this.#chunks.get(key)
    if (known !== undefined) return known
    const block = this.writer.allocateData(Math.ceil(bytes.byteLength / BLOCK_SIZE))
    this.#chunks.set(key, block)
    this.#placed.push({ block, bytes })
    return block
  }
}

type Row = { -readonly [K in keyof TreeEntry]: TreeEntry[K] }

/** What a builder's tree is, in the form of list-tree.py. */
export function rowsOfTree({ root, contents }: TreeBuilder): TreeEntry[] {
  const rows: TreeEntry[] = []
  const links = new Map<TreeNode, number>()
  visit(root, '', (node) => links.set(node, (links.get(node) ?? 0) + 1))
  visit(root, '', (node, path) => {
    const { attributes } = node
    const row: Row = {
      path: path === '' ? '/' : path,
      mode: `0o${node.mode.toString(8)}`,
      uid: attributes.uid,
      gid: attributes.gid,
      mtime_ns: nanosecondsOf(attributes.mtimeSeconds, attributes.mtimeNanoseconds),
      nlink: links.get(node) ?? 0,
    }
    if (node instanceof DirectoryNode) {
      row.nlink = 2 + node.entries().filter(([, child]) => child instanceof DirectoryNode).length
    }
    if (node instanceof FileNode) {
      const bytes = contents.get(node) ?? new Uint8Array(0)
      row.size = bytes.byteLength
      row.sha256 = sha256(bytes)
    }
    if (node instanceof SymlinkNode) row.target = latin1(node.target)
    if (node instanceof SpecialNode && node.device !== undefined) {
      row.rdev = [node.device.major, node.device.minor]
    }
    if (attributes.xattrs.length > 0) row.xattrs = xattrsOf(attributes.xattrs)
    rows.push(row)
  })
  return sorted(rows)
}

function visit(node: TreeNode, path: string, take: (node: TreeNode, path: string) => void): void {
  take(node, path)
  if (!(node instanceof DirectoryNode)) return
  for (const [name, child] of node.entries()) visit(child, `${path}/${name}`, take)
}

/** The same, as our own reader sees an image. */
export async function rowsOfImage(devices: readonly Uint8Array[]): Promise<TreeEntry[]> {
  const image = await openErofs(memorySource(devices[0] ?? new Uint8Array(0)), {
    deviceCount: devices.length,
    extraDeviceSizes: devices.slice(1).map((device) => device.byteLength),
  })
  const rows: TreeEntry[] = []
  const add = async (inode: Inode, path: string): Promise<void> => {
    const row: Row = {
      path: path === '' ? '/' : path,
      mode: `0o${inode.mode.toString(8)}`,
      uid: inode.uid,
      gid: inode.gid,
      mtime_ns: nanosecondsOf(inode.mtimeSeconds, inode.mtimeNanoseconds),
      nlink: inode.nlink,
    }
    if (inode.isFile) {
      row.size = inode.size
      row.sha256 = sha256(await readWhole(image, devices, inode))
    }
    if (inode.isSymlink) row.target = latin1(await image.readLink(inode))
    if (inode.rdev !== undefined) row.rdev = [inode.rdev.major, inode.rdev.minor]
    const xattrs = await image.xattrs(inode)
    const listed = xattrs.filter(({ hidden }) => !hidden)
    if (listed.length > 0) row.xattrs = xattrsOf(listed)
    rows.push(row)
    if (!inode.isDirectory) return
    for await (const entry of image.readDirectory(inode)) {
      const name = latin1(entry.name)
      await add(await image.readInode(entry.nid), `${path}/${name}`)
    }
  }
  await add(await image.root(), '')
  return sorted(rows)
}

function xattrsOf(xattrs: readonly NodeXattr[]): Record<string, string> {
  const shown = xattrs.map(({ name, value }) => [
    Buffer.from(name).toString(),
    Buffer.from(value).toString('hex'),
  ])
  return Object.fromEntries(shown.toSorted(([a = ''], [b = '']) => (a < b ? -1 : 1)))
}

function sorted(rows: readonly TreeEntry[]): TreeEntry[] {
  return rows.toSorted((a, b) => (a.path < b.path ? -1 : 1))
}

function nanosecondsOf(seconds: number, nanoseconds: number): string {
  return String(BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds))
}

/** A tree of everything in several layers, different for each seed; the last layer is not placed yet. */
export function randomTree(seed: number, options?: WriterOptions): TreeBuilder {
  const random = new Random(seed)
  const builder = new TreeBuilder(options)
  const directories = [builder.root]
  const linkable: TreeNode[] = []
  builder.root.attributes = randomAttributes(random)
  for (let index = 0; index < 40 + random.next(200); index++) {
    if (random.once(50)) builder.writer.placeLayer(builder.root)
    const parent = directories[random.next(directories.length)] ?? builder.root
    const name = randomName(random, index)
    const attributes = randomAttributes(random)
    switch (random.next(10)) {
      case 0:
      case 1: {
        const made = builder.directory(attributes)
        directories.push(made)
        parent.set(name, made)
        break
      }
      case 2: {
        const target = random
          .bytes(1 + random.next(random.once(5) ? 4095 : 80))
          .map((byte) => byte || 1)
        parent.set(
          name,
          new SymlinkNode({ ...withoutUser(attributes), permissions: 0o777 }, target),
        )
        break
      }
      case 3:
        parent.set(name, randomSpecial(random, withoutUser(attributes)))
        break
      case 4:
        parent.set(
          name,
          linkable[random.next(linkable.length)] ?? builder.file(new Uint8Array(0), attributes),
        )
        break
      default: {
        const file = builder.file(randomContent(random), attributes)
        linkable.push(file)
        parent.set(name, file)
      }
    }
  }
  return builder
}

/** Only files and directories have attributes of this namespace (xattr(7)). */
function withoutUser(attributes: NodeAttributes): NodeAttributes {
  const xattrs = attributes.xattrs.filter(({ name }) => !latin1(name).startsWith('user.'))
  return { ...attributes, xattrs }
}

function randomSpecial(random: Random, attributes: NodeAttributes): SpecialNode {
  const type = random.of(S_IF.CHR, S_IF.BLK, S_IF.IFO, S_IF.SOCK)
  const hasDevice = type === S_IF.CHR || type === S_IF.BLK
  const device = { major: random.next(0x1000), minor: random.next(0x100000) }
  return hasDevice ? new SpecialNode(attributes, type, device) : new SpecialNode(attributes, type)
}

function randomName(random: Random, index: number): string {
  const length = random.once(8) ? 255 : 1 + random.next(30)
  const name = random.bytes(length).toString('latin1').replace(/[\0/]/g, '-')
  // no two alike, and neither of the dots
  return `${String.fromCharCode(33 + (index % 14))}${index}${name}`
    .slice(0, 255)
    .replaceAll('/', '_')
}

function randomContent(random: Random): Uint8Array {
  const size = random.of(
    0,
    random.next(1025),
    random.next(5000),
    random.next(200_000),
    CHUNK_SIZE,
    1025,
  )
  const bytes = random.once(4)
    ? Buffer.alloc(size, random.next(3))
    : Buffer.alloc(size, random.bytes(97))
  if (random.once(5)) bytes.fill(0, random.next(size + 1))
  return bytes
}

function randomAttributes(random: Random): NodeAttributes {
  const xattrs = Array.from({ length: random.once(3) ? random.next(5) : 0 }, (_, index) => ({
    name: Buffer.from(`${random.of('user.', 'trusted.', 'security.')}${index}${random.next(3)}`),
    value: random.once(2)
      ? Buffer.from('the same')
      : random.bytes(random.next(random.once(4) ? 3000 : 60)),
  }))
  return {
    permissions: random.next(0o10000),
    uid: random.of(0, random.next(70_000), 4_000_000_000),
    gid: random.of(0, random.next(70_000), 4_294_967_294),
    mtimeSeconds: random.of(
      0,
      -random.next(1_000_000),
      1_700_000_000 + random.next(1000),
      5_000_000_000,
    ),
    mtimeNanoseconds: random.of(0, random.next(1_000_000_000)),
    xattrs,
  }
}
