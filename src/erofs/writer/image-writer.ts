/**
 * Lays out a tree as an EROFS image. It never sees file data that lies in blocks: it gives out their places, and
 * the owner of the bytes puts them there.
 *
 * A device is [block 0] [data and large directories] [inodes] [shared xattrs]; with `separateData` the data is a
 * device of its own. Everything is placed in the order of the layers, and what was placed stays: an image with
 * more layers has the same inode numbers and addresses for all that its base has.
 */
import { erofsError } from '../errors.ts'
import { directorySize } from './directory.ts'
import { BLOCK_BITS, BLOCK_SIZE, CHUNK_SIZE, FIRST_INODE_OFFSET, MAX_INLINE } from './geometry.ts'
import type { Body } from './inode-record.ts'
import { joinChunks, recordSize } from './inode-record.ts'
import { liveTree, nodesInOrder } from './live-tree.ts'
import { InodeArea, tailFits } from './placement.ts'
import type { TreeNode } from './tree.ts'
import { DirectoryNode, FileNode, SymlinkNode } from './tree.ts'
import { WrittenImage } from './written-image.ts'
import { encodeXattrBody, SharedXattrs } from './xattrs.ts'

export interface WriterOptions {
  /** Data on a second device, so that nodes may share it between images; otherwise one device holds all. */
  readonly separateData?: boolean
  /** Give every file that is not empty its sha256, so that Linux >= 7.0 shares pages between images. */
  readonly fingerprints?: boolean
}

/** Addresses have 32 bits, and all ones mean "no block". */
const MAX_BLOCKS = 0xfffffffe
const CHUNK_BLOCK_BITS = Math.log2(CHUNK_SIZE) - BLOCK_BITS

export class ImageWriter {
  readonly #options: Required<WriterOptions>
  readonly #area = new InodeArea(BLOCK_SIZE, FIRST_INODE_OFFSET)
  readonly #shared = new SharedXattrs()
  /** Blocks given out on the primary behind block 0, and on the second device. */
  #primaryBlocks = 0
  #secondBlocks = 0

  constructor(options: WriterOptions = {}) {
    this.#options = {
      separateData: options.separateData ?? false,
      fingerprints: options.fingerprints ?? false,
    }
  }

  /** Room for file data. @returns its first block in the data space @throws ERR_EROFS_TOO_LARGE */
  allocateData(blocks: number): number {
    if (!this.#options.separateData) return this.#allocatePrimary(blocks)
    const first = this.#secondBlocks
    this.#secondBlocks += blocks
    this.#checkSize()
    return first
  }

  /**
   * Places what a layer brought: new inodes, and directories and attributes that it changed.
   * @throws ERR_EROFS_TOO_LARGE
   */
  placeLayer(root: DirectoryNode): void {
    const stale: TreeNode[] = []
    const fresh: TreeNode[] = []
    const seen = new Set<TreeNode>()
    for (const node of nodesInOrder(root)) {
      if (seen.has(node)) continue
      seen.add(node)
      if (node.placement === undefined) fresh.push(node)
      else if (node.placement.isStale) stale.push(node)
    }
    this.#shared.addCommon([...stale, ...fresh].map((node) => node.attributes.xattrs))
    for (const node of stale) this.#placeAgain(node)
    for (const node of fresh) this.#place(node, node === root)
  }

  /** The image of a tree whose layers were all placed. @throws ERR_EROFS_TOO_LARGE */
  finish(root: DirectoryNode): WrittenImage {
    return new WrittenImage({
      tree: liveTree(root),
      bodyOf: (node) => this.#body(node),
      xattrsOf: (node) => this.#xattrs(node),
      directoryBlocks: this.#primaryBlocks,
      dataDeviceBlocks:
        this.#options.separateData && this.#secondBlocks > 0 ? this.#secondBlocks : undefined,
      areaSize: this.#area.size,
      sharedXattrs: this.#shared.bytes,
      fingerprints: this.#options.fingerprints,
    })
  }

  #place(node: TreeNode, isRoot: boolean): void {
    const inline = this.#inlineBody(node)
    const blocks = inline === undefined ? blocksFor(contentSize(node)) : 0
    const block = blocks === 0 ? undefined : this.#allocatePrimary(blocks)
    const body = inline ?? { kind: 'blocks', size: contentSize(node), block: block ?? 0 }
    const record = recordSize(this.#xattrs(node).byteLength, body)
    const tail = tailOf(body)
    const offset = this.#area.place(record, tail)
    // The root's number has 16 bits: it has room to grow where it is.
    const reserved = isRoot ? this.#area.reserve(offset, BLOCK_SIZE) : record + tail
    node.placement = { offset, reserved, block, blocks, isStale: false, links: 0 }
  }

  /** Where it is, as far as it fits there: its number is in its directory, and in what is below it. */
  #placeAgain(node: TreeNode): void {
    const { placement } = node
    if (placement === undefined) return
    placement.isStale = false
    const xattrBytes = this.#xattrs(node).byteLength
    const inline = this.#inlineBody(node)
    if (inline !== undefined) {
      const record = recordSize(xattrBytes, inline)
      const tail = tailOf(inline)
      const fits =
        record + tail <= placement.reserved && tailFits(placement.offset + record, tail, BLOCK_SIZE)
      if (fits || node instanceof FileNode) {
        placement.block = undefined
        if (!fits) this.#move(node, record, tail)
        return
      }
    }
    const size = contentSize(node)
    const blocks = blocksFor(size)
    if (placement.block === undefined || placement.blocks !== blocks) {
      placement.block = this.#allocatePrimary(blocks)
      placement.blocks = blocks
    }
    const record = recordSize(xattrBytes, { kind: 'blocks', size, block: 0 })
    if (record > placement.reserved) this.#move(node, record, 0)
  }

  #move(node: TreeNode, record: number, tail: number): void {
    if (node.placement === undefined) return
    node.placement.offset = this.#area.place(record, tail)
    node.placement.reserved = record + tail
  }

  /** How the data of an inode lies that was placed. */
  #body(node: TreeNode): Body {
    const block = node.placement?.block
    if (block !== undefined) return { kind: 'blocks', size: contentSize(node), block }
    return this.#inlineBody(node) ?? { kind: 'none' }
  }

  /** Undefined when the data needs blocks outside of the inode that are not file data. */
  #inlineBody(node: TreeNode): Body | undefined {
    if (node instanceof FileNode) {
      const { data } = node
      if (data.size === 0) return { kind: 'none' }
      if (data.kind === 'inline') return { kind: 'inline', size: data.size }
      return {
        kind: 'chunks',
        size: data.size,
        table: joinChunks(data.blocks, CHUNK_BLOCK_BITS),
      }
    }
    const size = contentSize(node)
    if (size === 0) return { kind: 'none' }
    return size <= MAX_INLINE ? { kind: 'inline', size } : undefined
  }

  #xattrs(node: TreeNode): Buffer {
    const sha256 = this.#options.fingerprints && node instanceof FileNode ? node.sha256 : undefined
    const fingerprint =
      sha256 === undefined ? undefined : Buffer.concat([FINGERPRINT_START, sha256])
    return encodeXattrBody(node.attributes.xattrs, this.#shared, fingerprint)
  }

  #allocatePrimary(blocks: number): number {
    const first = this.#primaryBlocks
    this.#primaryBlocks += blocks
    this.#checkSize()
    return first
  }

  #checkSize(): void {
    const metadata = blocksFor(this.#area.size) + blocksFor(this.#shared.size)
    if (1 + this.#primaryBlocks + this.#secondBlocks + metadata <= MAX_BLOCKS) return
    throw erofsError(
      'ERR_EROFS_TOO_LARGE',
      `the tree needs more than ${MAX_BLOCKS} blocks of 4 KiB`,
    )
  }
}

/** What mkfs.erofs writes before the digest of a file's content. Not of Buffer's pool, which it would keep alive. */
const FINGERPRINT_START = new TextEncoder().encode('sha256:')

/** Bytes of a directory or of a link's target. */
function contentSize(node: TreeNode): number {
  if (node instanceof SymlinkNode) return node.target.byteLength
  return node instanceof DirectoryNode ? directorySize(node, BLOCK_SIZE) : 0
}

function tailOf(body: Body): number {
  return body.kind === 'inline' ? body.size : 0
}

function blocksFor(bytes: number): number {
  return Math.ceil(bytes / BLOCK_SIZE)
}
