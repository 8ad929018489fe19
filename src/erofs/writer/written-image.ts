/** A laid out tree as bytes: the metadata in ascending pieces, then block 0. */
import { INODE_SLOT_SIZE } from '../layout.ts'
import { erofsError } from '../errors.ts'
import { encodeDirectory } from './directory.ts'
import { BLOCK_BITS, BLOCK_SIZE } from './geometry.ts'
import { encodeRecord } from './inode-record.ts'
import type { LiveTree } from './live-tree.ts'
import type { Placement } from './placement.ts'
import { encodeSuperblock } from './superblock.ts'
import type { TreeNode } from './tree.ts'
import { DirectoryNode, FileNode, SymlinkNode } from './tree.ts'

export interface MetadataPiece {
  /** Byte offset on the primary device. */
  readonly offset: number
  readonly bytes: Uint8Array
}

export interface WrittenImageInput {
  readonly tree: LiveTree
  /** Of the primary, behind block 0: large directories, and file data unless it has a device of its own. */
  readonly directoryBlocks: number
  /** Blocks of the second device, if there is one. */
  readonly dataDeviceBlocks: number | undefined
  /** Bytes. */
  readonly areaSize: number
  readonly sharedXattrs: Buffer
  readonly fingerprints: boolean
}

/** Inodes come in pieces of at least this many bytes. */
const PIECE_BYTES = 256 * 1024
const MAX_ROOT_NID = 0xffff
/** Where what is on the primary beside block 0 starts. */
const SPACE_START = 1

export class WrittenImage {
  readonly #input: WrittenImageInput
  readonly #metaBlock: number
  readonly #xattrBlock: number
  readonly #blocks: number

  /** @throws ERR_EROFS_TOO_LARGE */
  constructor(input: WrittenImageInput) {
    this.#input = input
    this.#metaBlock = SPACE_START + input.directoryBlocks
    this.#xattrBlock = this.#metaBlock + Math.ceil(input.areaSize / BLOCK_SIZE)
    this.#blocks = this.#xattrBlock + Math.ceil(input.sharedXattrs.byteLength / BLOCK_SIZE)
    const rootNid = nidOf(input.tree.root)
    if (rootNid <= MAX_ROOT_NID) return
    throw erofsError('ERR_EROFS_TOO_LARGE', 'the attributes of the root directory are too large')
  }

  /** Bytes of the primary device. */
  get primarySize(): number {
    return this.#blocks * BLOCK_SIZE
  }

  /** Bytes of the second device; undefined when the primary holds the data. */
  get dataDeviceSize(): number | undefined {
    const blocks = this.#input.dataDeviceBlocks
    return blocks === undefined ? undefined : blocks * BLOCK_SIZE
  }

  /** Byte where the data space starts, on the primary or on the second device. */
  get dataOffset(): number {
    return this.#dataStart * BLOCK_SIZE
  }

  get inodes(): number {
    return this.#input.tree.nodes.length
  }

  /** The chunks of each file that has some, as its FileData gives them. */
  *chunks(): Generator<Uint32Array, void, void> {
    for (const node of this.#input.tree.nodes) {
      if (node instanceof FileNode && node.data.kind === 'chunks') yield node.data.blocks
    }
  }

  /**
   * All bytes of the primary but block 0 and file data, in ascending order; what lies between is zeros. Reads the
   * content of files that lie in their inodes.
   */
  *metadata(): Generator<MetadataPiece, void, void> {
    yield* this.#outside()
    const areaStart = this.#metaBlock * BLOCK_SIZE
    let parts: Uint8Array[] = []
    let start = 0
    let end = 0
    for (const node of this.#input.tree.nodes) {
      const { offset } = placementOf(node)
      if (end - start >= PIECE_BYTES) {
        yield { offset: areaStart + start, bytes: Buffer.concat(parts, end - start) }
        parts = []
        start = offset
      } else if (offset > end) {
        parts.push(Buffer.alloc(offset - end))
      }
      const record = this.#record(node)
      const inline: Uint8Array =
        placementOf(node).body.kind === 'inline' ? this.#content(node) : EMPTY
      parts.push(record, inline)
      end = offset + record.byteLength + inline.byteLength
    }
    yield { offset: areaStart + start, bytes: Buffer.concat(parts, end - start) }
    const { sharedXattrs } = this.#input
    if (sharedXattrs.byteLength > 0) {
      yield { offset: this.#xattrBlock * BLOCK_SIZE, bytes: sharedXattrs }
    }
  }

  /** Block 0. @param uuid 16 bytes @param dataTag names the second device, at most 64 bytes */
  superblock(uuid: Uint8Array, dataTag: Uint8Array = EMPTY): Buffer {
    const { tree, dataDeviceBlocks, fingerprints } = this.#input
    return encodeSuperblock({
      blockBits: BLOCK_BITS,
      rootNid: nidOf(tree.root),
      inodes: tree.nodes.length,
      blocks: this.#blocks,
      metaBlock: this.#metaBlock,
      xattrBlock: this.#xattrBlock,
      uuid,
      hasChunks: tree.nodes.some((node) => placementOf(node).body.kind === 'chunks'),
      hasFingerprints: fingerprints,
      device:
        dataDeviceBlocks === undefined ? undefined : { blocks: dataDeviceBlocks, tag: dataTag },
    })
  }

  get #dataStart(): number {
    return this.#input.dataDeviceBlocks === undefined ? SPACE_START : 0
  }

  /** Directories and links that do not fit into their inodes, by address. */
  *#outside(): Generator<MetadataPiece, void, void> {
    const outside = this.#input.tree.nodes.flatMap((node) => {
      const { body } = placementOf(node)
      return body.kind === 'blocks' ? [{ node, block: body.block }] : []
    })
    for (const { node, block } of outside.sort((a, b) => a.block - b.block)) {
      yield { offset: (SPACE_START + block) * BLOCK_SIZE, bytes: this.#content(node) }
    }
  }

  #record(node: TreeNode): Buffer {
    const { links, xattrs, body } = placementOf(node)
    return encodeRecord({
      node,
      links,
      ino: nidOf(node),
      xattrs,
      body,
      deviceId: this.#input.dataDeviceBlocks === undefined ? 0 : 1,
      dataStart: this.#dataStart,
      directoryStart: SPACE_START,
    })
  }

  #content(node: TreeNode): Uint8Array {
    if (node instanceof DirectoryNode) {
      const parent = this.#input.tree.parents.get(node) ?? node
      return encodeDirectory(node, parent, BLOCK_SIZE, nidOf)
    }
    if (node instanceof SymlinkNode) return node.target
    return node instanceof FileNode && node.data.kind === 'inline' ? node.data.read() : EMPTY
  }
}

const EMPTY = Buffer.alloc(0)

function placementOf({ placement }: TreeNode): Placement {
  if (placement === undefined) throw new RangeError('an inode was not placed')
  return placement
}

function nidOf(node: TreeNode): number {
  return placementOf(node).offset / INODE_SLOT_SIZE
}
