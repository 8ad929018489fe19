/**
 * Puts layers of archive entries on top of each other, as unpacking them one after the other would: what comes
 * later replaces what was there, directories are merged, and whiteouts remove what lower layers brought, wherever
 * in their layer they stand (OCI image specification, "Layer Filesystem Changeset").
 */
import type { FileNode, NodeAttributes, TreeNode } from '../../erofs/index.ts'
import {
  DirectoryNode,
  S_IF,
  SpecialNode,
  storableXattr,
  SymlinkNode,
  xattrsFit,
} from '../../erofs/index.ts'
import type { TarEntry } from '../../tar/index.ts'
import { imageError } from '../errors.ts'
import { badPath, checkTarget, latin1, MAX_DEPTH, namesOf } from './tree-path.ts'

/** Each takes some 1.3 KiB while its image is built (measured: 400,000 small files). */
const MAX_ENTRIES = 2_000_000

const WHITEOUT = '.wh.'
const OPAQUE = '.wh..wh..opq'
/** AUFS kept files of its own under such names. */
const AUFS_OWN = '.wh..wh.'
/** Linux gives up after so many (MAXSYMLINKS). */
const MAX_SYMLINKS = 40
/** dev_t of the format: 12 bits of major, 20 of minor. */
const MAX_MAJOR = 0xfff
const MAX_MINOR = 0xfffff

const NO_XATTRS: NodeAttributes['xattrs'] = []

/** Directories that no entry describes. */
const IMPLIED: NodeAttributes = {
  permissions: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNanoseconds: 0,
  xattrs: NO_XATTRS,
}

export interface MergeOptions {
  /** Names of whiteouts remove things, instead of being files. */
  readonly whiteouts: boolean
  /** A file's inode; its content is looked at when an entry of its name is reached. */
  readonly fileOf: (entry: TarEntry, attributes: NodeAttributes) => FileNode
}

export class TreeMerger {
  readonly root = new DirectoryNode(IMPLIED)
  readonly #options: MergeOptions
  /** Names that this layer set or described. */
  #own = new Map<DirectoryNode, Set<string>>()
  #whiteouts: { readonly names: readonly string[]; readonly isOpaque: boolean }[] = []
  #droppedXattrs = 0
  #entries = 0

  constructor(options: MergeOptions) {
    this.#options = options
  }

  /** What of the archives is not in the tree. */
  get notes(): string[] {
    const count = this.#droppedXattrs
    return count === 0 ? [] : [`${count} extended attributes that EROFS cannot store were left out`]
  }

  /** @throws ERR_IMPORT_TREE, ERR_IMPORT_TOO_COMPLEX */
  add(entry: TarEntry): void {
    if (++this.#entries > MAX_ENTRIES) {
      throw imageError('ERR_IMPORT_TOO_COMPLEX', `more than ${MAX_ENTRIES} entries`)
    }
    const names = namesOf(entry.path)
    const name = names.at(-1)
    if (name === undefined) {
      if (entry.type !== 'directory') throw badPath('/', 'is no directory')
      this.root.attributes = this.#attributes(entry)
      return
    }
    if (this.#options.whiteouts && name.startsWith(WHITEOUT)) {
      this.#addWhiteout(names)
      return
    }
    const parent = this.#parent(names, entry.path)
    if (entry.type === 'directory') this.#addDirectory(parent, name, entry)
    else if (entry.type === 'link') this.#set(parent, name, this.#linked(entry))
    else this.#set(parent, name, this.#nodeOf(entry))
  }

  /** Removes what the layer's whiteouts hide. Call behind the last entry of each layer. */
  endLayer(): void {
    for (const { names, isOpaque } of this.#whiteouts) {
      const parent = this.#find(names.slice(0, -1))
      if (!(parent instanceof DirectoryNode)) continue
      if (isOpaque) this.#clear(parent)
      else this.#hide(parent, (names.at(-1) ?? '').slice(WHITEOUT.length))
    }
    this.#whiteouts = []
    this.#own = new Map()
  }

  #addWhiteout(names: readonly string[]): void {
    const name = names.at(-1) ?? ''
    if (name === OPAQUE) this.#whiteouts.push({ names, isOpaque: true })
    else if (!name.startsWith(AUFS_OWN)) this.#whiteouts.push({ names, isOpaque: false })
  }

  /** Removes a name unless this layer set it, and of a directory all that is not this layer's. */
  #hide(parent: DirectoryNode, name: string): void {
    const node = parent.get(name)
    if (node instanceof DirectoryNode) this.#clear(node)
    if (node !== undefined) this.#hideOne(parent, name, node)
  }

  /** Removes all that lower layers brought into a directory. It may be deeper than the stack is. */
  #clear(top: DirectoryNode): void {
    const directories = [top]
    for (const directory of directories) {
      for (const [, node] of directory.entries()) {
        if (node instanceof DirectoryNode) directories.push(node)
      }
    }
    for (const directory of directories.toReversed()) {
      for (const [name, node] of directory.entries()) this.#hideOne(directory, name, node)
    }
  }

  #hideOne(parent: DirectoryNode, name: string, node: TreeNode): void {
    if (this.#isOwn(parent, name)) return
    if (node instanceof DirectoryNode && node.size > 0) node.attributes = IMPLIED
    else parent.delete(name)
  }

  #addDirectory(parent: DirectoryNode, name: string, entry: TarEntry): void {
    const attributes = this.#attributes(entry)
    const known = parent.get(name)
    if (known instanceof DirectoryNode) {
      known.attributes = attributes
      this.#ownNames(parent).add(name)
      return
    }
    this.#set(parent, name, new DirectoryNode(attributes))
  }

  #set(parent: DirectoryNode, name: string, node: TreeNode): void {
    // a copy, because a part of a string keeps all of the path in memory
    const own = Buffer.from(name, 'latin1').toString('latin1')
    this.#ownNames(parent).add(own)
    parent.set(own, node)
  }

  #isOwn(parent: DirectoryNode, name: string): boolean {
    return this.#own.get(parent)?.has(name) === true
  }

  #ownNames(parent: DirectoryNode): Set<string> {
    let names = this.#own.get(parent)
    if (names === undefined) {
      names = new Set()
      this.#own.set(parent, names)
    }
    return names
  }

  #nodeOf(entry: TarEntry): TreeNode {
    const attributes = this.#attributes(entry)
    switch (entry.type) {
      case 'symlink':
        checkTarget(entry.path, entry.target)
        return new SymlinkNode({ ...attributes, permissions: 0o777 }, entry.target)
      case 'character-device':
      case 'block-device': {
        const { major, minor } = entry.device
        if (major > MAX_MAJOR || minor > MAX_MINOR) {
          throw badPath(
            entry.path,
            `is device ${major}:${minor}, at most ${MAX_MAJOR}:${MAX_MINOR} is possible`,
          )
        }
        const type = entry.type === 'block-device' ? S_IF.BLK : S_IF.CHR
        return new SpecialNode(attributes, type, { major, minor })
      }
      case 'fifo':
        return new SpecialNode(attributes, S_IF.IFO)
      case 'socket':
        return new SpecialNode(attributes, S_IF.SOCK)
      case 'file':
      case 'directory':
      case 'link':
        return this.#options.fileOf(entry, attributes)
    }
  }

  #linked(entry: TarEntry): TreeNode {
    const names = namesOf(entry.target)
    const node = this.#find(names)
    if (node === undefined) {
      throw badPath(
        entry.path,
        `is a hard link to '${latin1(entry.target)}', which is not in the archive before it`,
      )
    }
    if (node instanceof DirectoryNode) throw badPath(entry.path, 'is a hard link to a directory')
    return node
  }

  /** What a path names, without following a symbolic link at its end. */
  #find(names: readonly string[]): TreeNode | undefined {
    const name = names.at(-1)
    if (name === undefined) return this.root
    const parent = this.#walk(names.slice(0, -1), undefined)
    return parent?.get(name)
  }

  /** The directory that an entry lies in; what is missing of it is made. @throws ERR_IMPORT_TREE */
  #parent(names: readonly string[], path: Uint8Array): DirectoryNode {
    const parent = this.#walk(names.slice(0, -1), path)
    if (parent === undefined)
      throw badPath(path, 'leads through too many symbolic links or directories')
    return parent
  }

  /**
   * Follows directories, and symbolic links to them, from the root; nothing leads out of it.
   *
   * @param path of the entry for whose sake missing directories are made; undefined: nothing is made
   */
  #walk(names: readonly string[], path: Uint8Array | undefined): DirectoryNode | undefined {
    const trail = [this.root]
    const pending = names.toReversed()
    let links = 0
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      if (name === '..') {
        if (trail.length > 1) trail.pop()
        continue
      }
      if (trail.length > MAX_DEPTH) return undefined
      const directory = trail.at(-1) ?? this.root
      const node = directory.get(name)
      if (node instanceof DirectoryNode) {
        trail.push(node)
      } else if (node instanceof SymlinkNode) {
        if (++links > MAX_SYMLINKS) return undefined
        const target = latin1(node.target)
        if (target.startsWith('/')) trail.length = 1
        const parts = target.split('/').filter((part) => part !== '' && part !== '.')
        pending.push(...parts.toReversed())
      } else {
        if (path === undefined) return undefined
        if (node !== undefined && this.#isOwn(directory, name)) {
          throw badPath(path, `lies in '${name}', which is no directory`)
        }
        const made = new DirectoryNode(IMPLIED)
        this.#set(directory, name, made)
        trail.push(made)
      }
    }
    return trail.at(-1)
  }

  #attributes(entry: TarEntry): NodeAttributes {
    const xattrs =
      entry.xattrs.length === 0
        ? NO_XATTRS
        : entry.xattrs.filter(({ name, value }) => storableXattr(name, value))
    this.#droppedXattrs += entry.xattrs.length - xattrs.length
    if (!xattrsFit(xattrs))
      throw badPath(entry.path, 'has more extended attributes than an inode holds')
    return {
      permissions: entry.permissions,
      uid: entry.uid,
      gid: entry.gid,
      mtimeSeconds: entry.mtimeSeconds,
      mtimeNanoseconds: entry.mtimeNanoseconds,
      xattrs,
    }
  }
}
