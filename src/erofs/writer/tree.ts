/**
 * A file tree as the writer takes it: inodes, and directories that name them. An inode under several names is
 * a hard link. It says what is in the tree, never where it lies in an image.
 */
import type { DeviceNumber } from '../inode.ts'
import { S_IF } from '../layout.ts'
import type { Placement } from './placement.ts'

export interface NodeXattr {
  /** Full name with its prefix, as bytes. */
  readonly name: Uint8Array
  readonly value: Uint8Array
}

export interface NodeAttributes {
  /** With setuid, setgid and sticky: 0 to 0o7777. */
  readonly permissions: number
  /** 0 to 2^32 - 1. */
  readonly uid: number
  readonly gid: number
  /** Since 1970, negative before; a safe integer. */
  readonly mtimeSeconds: number
  /** 0 to 999,999,999. */
  readonly mtimeNanoseconds: number
  /** In any order; the names differ. Those that `storableXattr` refuses must not be here. */
  readonly xattrs: readonly NodeXattr[]
}

/** Where a chunk of zeros would start: it takes no block. */
export const HOLE = 0xffffffff

/**
 * The content of a regular file: in its inode, or in blocks of the data space, chunk by chunk. A chunk starts
 * at a multiple of the writer's chunk size; the blocks of one chunk lie together, the last one padded with zeros.
 */
export type FileData =
  | { readonly kind: 'inline'; readonly size: number; readonly read: () => Uint8Array }
  | {
      readonly kind: 'chunks'
      readonly size: number
      /** First block of each chunk in the data space, or HOLE. */
      readonly blocks: Uint32Array
    }

abstract class BaseNode {
  /** File type bits of st_mode. */
  abstract readonly type: number
  #attributes: NodeAttributes
  /** The writer's: where the inode lies, once it does. */
  placement: Placement | undefined

  constructor(attributes: NodeAttributes) {
    this.#attributes = attributes
  }

  get attributes(): NodeAttributes {
    return this.#attributes
  }

  get mode(): number {
    return this.type | this.#attributes.permissions
  }

  set attributes(attributes: NodeAttributes) {
    this.#attributes = attributes
    if (this.placement !== undefined) this.placement.isStale = true
  }
}

export class FileNode extends BaseNode {
  readonly type = S_IF.REG
  readonly data: FileData
  /** sha256 of the content, for images with fingerprints. */
  readonly sha256: Uint8Array | undefined

  constructor(attributes: NodeAttributes, data: FileData, sha256?: Uint8Array) {
    super(attributes)
    this.data = data
    this.sha256 = sha256
  }
}

export class SymlinkNode extends BaseNode {
  readonly type = S_IF.LNK
  /** 1 to 4,095 bytes. */
  readonly target: Uint8Array

  constructor(attributes: NodeAttributes, target: Uint8Array) {
    super(attributes)
    this.target = target
  }
}

/** Device node, fifo or socket. */
export class SpecialNode extends BaseNode {
  readonly type: number
  /** Of character and block devices. */
  readonly device: DeviceNumber | undefined

  constructor(
    attributes: NodeAttributes,
    type: typeof S_IF.CHR | typeof S_IF.BLK | typeof S_IF.IFO | typeof S_IF.SOCK,
    device?: DeviceNumber,
  ) {
    super(attributes)
    this.type = type
    this.device = device
  }
}

/**
 * Names are kept as strings of one character for each byte ("latin1"): the order of such strings is that of
 * the bytes.
 */
export class DirectoryNode extends BaseNode {
  readonly type = S_IF.DIR
  readonly #entries = new Map<string, TreeNode>()
  #sorted: readonly (readonly [string, TreeNode])[] | undefined

  get size(): number {
    return this.#entries.size
  }

  get(name: string): TreeNode | undefined {
    return this.#entries.get(name)
  }

  set(name: string, node: TreeNode): void {
    this.#entries.set(name, node)
    this.#changed()
  }

  delete(name: string): void {
    this.#entries.delete(name)
    this.#changed()
  }

  /** In the order of the format: by bytes. */
  entries(): readonly (readonly [string, TreeNode])[] {
    this.#sorted ??= [...this.#entries].sort(([a], [b]) => (a < b ? -1 : 1))
    return this.#sorted
  }

  #changed(): void {
    this.#sorted = undefined
    if (this.placement !== undefined) this.placement.isStale = true
  }
}

export type TreeNode = FileNode | SymlinkNode | SpecialNode | DirectoryNode
