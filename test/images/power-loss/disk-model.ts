/**
 * A disk that has seen a list of operations, and what of them may be there after the power is cut. Only what was
 * fsynced is certain: bytes by fsync of their file, names by fsync of their folder. Everything later may have
 * reached the disk or not, each part for itself and in any order. It is stricter than file systems in use are:
 * fsync of a new file does not bring its name along, and the two sides of a rename are independent.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import type { Operation } from './syscall-trace.ts'

interface FileNode {
  readonly kind: 'file'
  synced: Buffer
  pending: { readonly offset: number; readonly bytes: Buffer }[]
}

interface FolderNode {
  readonly kind: 'folder'
  readonly synced: Map<string, Node>
  pending: EntryChange[]
}

interface EntryChange {
  readonly name: string
  /** undefined: the name was removed. */
  readonly node: Node | undefined
}

type Node = FileNode | FolderNode

/** Decides what becomes of each thing that was not fsynced. */
export interface Fate {
  readonly name: string
  keepsName(): boolean
  /** `zeros`: the file has its length, not its bytes. A number: so much of the write, 0 to 1. */
  writeOutcome(): number | 'zeros'
}

/** Nothing that was not fsynced is there. */
export const LOST: Fate = { name: 'lost', keepsName: () => false, writeOutcome: () => 0 }
/** Everything is there: the process was killed, not the machine. */
export const KEPT: Fate = { name: 'kept', keepsName: () => true, writeOutcome: () => 1 }
/** Names are there and bytes are not: what a journal of names only leaves. */
export const HOLLOW: Fate = { name: 'hollow', keepsName: () => true, writeOutcome: () => 'zeros' }

/** Each name and each write fares on its own: kept, dropped, torn or turned into zeros. */
export function torn(seed: number, random: () => number): Fate {
  return {
    name: `torn ${seed}`,
    keepsName: () => random() < 0.5,
    writeOutcome: () => ([0, 1, 'zeros', random()] as const)[Math.floor(random() * 4)] ?? 0,
  }
}

/** Paths to contents; folders are undefined. */
export type DiskState = ReadonlyMap<string, Buffer | undefined>

export class DiskModel {
  readonly #root: FolderNode = { kind: 'folder', synced: new Map(), pending: [] }

  apply(operation: Operation): void {
    switch (operation.op) {
      case 'mark':
        return
      case 'create':
        if (this.#find(operation.path) !== undefined) return
        return this.#set(operation.path, { kind: 'file', synced: Buffer.alloc(0), pending: [] })
      case 'mkdir':
        return this.#set(operation.path, { kind: 'folder', synced: new Map(), pending: [] })
      case 'unlink':
      case 'rmdir':
        return this.#set(operation.path, undefined)
      case 'write': {
        const file = this.#find(operation.path)
        assert.ok(file?.kind === 'file', `write to ${operation.path}`)
        file.pending.push(operation)
        return
      }
      case 'sync':
        return this.#sync(operation.path)
      case 'link':
      case 'rename': {
        const node = this.#find(operation.path)
        assert.ok(node !== undefined, `${operation.op} of ${operation.path}`)
        this.#set(operation.to, node)
        if (operation.op === 'rename') this.#set(operation.path, undefined)
        return
      }
    }
  }

  /** One of the states that a cut of the power may leave. */
  stateAfter(fate: Fate): DiskState {
    const state = new Map<string, Buffer | undefined>()
    const contents = new Map<FileNode, Buffer>()
    const visit = (folder: FolderNode, path: string): void => {
      for (const [name, node] of survivingNames(folder, fate)) {
        const at = join(path, name)
        // A file of two names has one content.
        const bytes =
          node.kind === 'folder' ? undefined : (contents.get(node) ?? survivingBytes(node, fate))
        state.set(at, bytes)
        if (node.kind === 'folder') visit(node, at)
        else if (bytes !== undefined) contents.set(node, bytes)
      }
    }
    visit(this.#root, '')
    return state
  }

  #sync(path: string): void {
    const node = this.#find(path)
    assert.ok(node !== undefined, `fsync of ${path}`)
    if (node.kind === 'file') {
      node.synced = survivingBytes(node, KEPT)
    } else {
      for (const { name, node: child } of node.pending) {
        if (child === undefined) node.synced.delete(name)
        else node.synced.set(name, child)
      }
    }
    node.pending = []
  }

  #set(path: string, node: Node | undefined): void {
    const parent = dirname(path)
    const folder = this.#find(parent === '.' ? '' : parent)
    assert.ok(folder?.kind === 'folder', `${path} has no folder`)
    folder.pending.push({ name: path.slice(path.lastIndexOf('/') + 1), node })
  }

  /** As the running system sees it. */
  #find(path: string): Node | undefined {
    let node: Node | undefined = this.#root
    for (const name of path === '' ? [] : path.split('/')) {
      if (node?.kind !== 'folder') return undefined
      const change: EntryChange | undefined = node.pending.findLast((one) => one.name === name)
      node = change === undefined ? node.synced.get(name) : change.node
    }
    return node
  }
}

function survivingNames(folder: FolderNode, fate: Fate): Map<string, Node> {
  const names = new Map(folder.synced)
  for (const { name, node } of folder.pending) {
    if (!fate.keepsName()) continue
    if (node === undefined) names.delete(name)
    else names.set(name, node)
  }
  return names
}

function survivingBytes(file: FileNode, fate: Fate): Buffer {
  let bytes = file.synced
  for (const write of file.pending) {
    const outcome = fate.writeOutcome()
    if (outcome === 0) continue
    const length =
      outcome === 'zeros' ? write.bytes.byteLength : Math.floor(write.bytes.byteLength * outcome)
    const grown = Buffer.alloc(Math.max(bytes.byteLength, write.offset + length))
    bytes.copy(grown)
    if (outcome !== 'zeros') write.bytes.copy(grown, write.offset, 0, length)
    bytes = grown
  }
  return bytes
}

/** The same for states between which nothing that opens the store could see a difference. */
export function fingerprint(state: DiskState): string {
  const hash = createHash('sha256')
  for (const [path, bytes] of [...state].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const isUnfinished = path.includes('/uploads/')
    hash.update(`${path}\0${bytes === undefined ? '/' : bytes.byteLength}\0`)
    if (bytes !== undefined && !isUnfinished) hash.update(bytes)
  }
  return hash.digest('hex')
}

/** Writes a state into an empty folder. */
export async function writeState(state: DiskState, folder: string): Promise<void> {
  for (const [path, bytes] of state) {
    // Folders come before what is in them.
    if (bytes === undefined) await mkdir(join(folder, path))
    else await writeFile(join(folder, path), bytes)
  }
}
