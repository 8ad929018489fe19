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
import type { Placement } from './placement.ts'
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
    const stale: { readonly node: TreeNode; readonly placement: Placement }[] = []
    const fresh: TreeNode[] = []
    const seen = new Set<TreeNode>()
    for (const node of nodesInOrder(root)) {
      if (seen.has(node)) continue
      seen.add(node)
      const { placement } = node
      if (placement === undefined) fresh.push(node)
      else if (placement.isStale) stale.push({ node, placement })
    }
    const changed = stale.map(({ node }) => node).concat(fresh)
    this.#shared.addCommon(changed.map((node) => node.attributes.xattrs))
    for (const { node, placement } of stale) this.#placeAgain(node, placement)
    for (const node of fresh) this.#place(node, node === root)
  }

  /** The image of a tree whose layers were all placed. @throws ERR_EROFS_TOO_LARGE */
  finish(root: DirectoryNode): WrittenImage {
    return new WrittenImage({
      tree: liveTree(root),
      directoryBlocks: this.#primaryBlocks,
      dataDeviceBlocks:
        this.#options.separateData && this.#secondBlocks > 0 ? this.#secondBlocks : undefined,
      areaSize: this.#area.size,
      sharedXattrs: this.#shared.bytes,
      fingerprints: this.#options.fingerprints,
    })
  }

  #place(node: TreeNode, isRoot: boolean): void {
    const xattrs = this.#xattrs(node)
    const body = this.#innerBody(node) ?? this.#outerBody(node)
    const record = recordSize(xattrs.byteLength, body)
    const tail = tailOf(body)
    const offset = this.#area.place(record, tail)
    // The root's number has 16 bits: it has room to grow where it is.
    const reserved = isRoot ? this.#area.reserve(offset, BLOCK_SIZE) : record + tail
    node.placement = { offset, reserved, body, xattrs, isStale: false, links: 0 }
  }

  /** Where it is, as far as it fits there: its number is in its directory, and in what is below it. */
  #placeAgain(node: TreeNode, placement: Placement): void {
    const xattrs = this.#xattrs(node)
    const inner = this.#innerBody(node)
    const fits = (body: Body): boolean => {
      const record = recordSize(xattrs.byteLength, body)
      const tail = tailOf(body)
      return (
        record + tail <= placement.reserved && tailFits(placement.offset + record, tail, BLOCK_SIZE)
      )
    }
    const staysInside = inner !== undefined && (fits(inner) || !(node instanceof DirectoryNode))
    const body = staysInside ? inner : this.#outerBody(node, placement.body)
    if (!fits(body)) {
      const record = recordSize(xattrs.byteLength, body)
      placement.offset = this.#area.place(record, tailOf(body))
      placement.reserved = record + tailOf(body)
    }
    placement.body = body
    placement.xattrs = xattrs
    placement.isStale = false
  }

  /** Blocks of its own for a directory or a target; those that it has, if they are as many as it needs. */
  #outerBody(node: TreeNode, before?: Body): Body {
    const size = contentSize(node)
    const blocks = blocksFor(size)
    const keeps = before?.kind === 'blocks' && blocksFor(before.size) === blocks
    return { kind: 'blocks', size, block: keeps ? before.block : this.#allocatePrimary(blocks) }
  }

  /** Undefined when the data needs blocks outside of the inode that are not file data. */
  #innerBody(node: TreeNode): Body | undefined {
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
