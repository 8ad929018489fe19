/** What of a tree goes into the image: every inode once, with the names that it has and where it hangs. */
import type { TreeNode } from './tree.ts'
import { DirectoryNode } from './tree.ts'

export interface LiveTree {
  readonly root: DirectoryNode
  /** Every inode once, in the order of their places. */
  readonly nodes: readonly TreeNode[]
  /** The directory that a directory is in; the root's is itself. */
  readonly parents: ReadonlyMap<DirectoryNode, DirectoryNode>
}

/**
 * The root, then what each directory holds, side by side and by name, before what is below: a listing reads
 * forward. An inode with several names comes several times.
 */
export function* nodesInOrder(root: DirectoryNode): Generator<TreeNode, void, void> {
  yield root
  const pending = [root]
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    const below: DirectoryNode[] = []
    for (const [, node] of directory.entries()) {
      yield node
      if (node instanceof DirectoryNode) below.push(node)
    }
    while (below.length > 0) pending.push(below.pop() ?? root)
  }
}

/** Sets the link counts of all placements. @throws RangeError for an inode that has none */
export function liveTree(root: DirectoryNode): LiveTree {
  const parents = new Map<DirectoryNode, DirectoryNode>([[root, root]])
  const seen = new Set<TreeNode>()
  for (const node of nodesInOrder(root)) {
    const { placement } = node
    if (placement === undefined) throw new RangeError('an inode was not placed')
    if (!seen.has(node)) placement.links = node instanceof DirectoryNode ? 2 : 0
    seen.add(node)
    if (!(node instanceof DirectoryNode)) {
      placement.links++
      continue
    }
    for (const [, child] of node.entries()) {
      if (!(child instanceof DirectoryNode)) continue
      parents.set(child, node)
      placement.links++
    }
  }
  const nodes = [...seen].sort((a, b) => (a.placement?.offset ?? 0) - (b.placement?.offset ?? 0))
  return { root, nodes, parents }
}
