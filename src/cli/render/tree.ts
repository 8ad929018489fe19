/** A tree in the manner of `tree`. Only drawing: what the nodes are is decided by who builds them. */
import { PLAIN_STYLE } from './style.ts'
import type { Style } from './style.ts'

export interface TreeNode {
  /** Safe for a terminal. */
  readonly label: string
  /** Shown after the label, dimmed: a size, a link's target. */
  readonly note?: string
  readonly children?: readonly TreeNode[]
}

export function renderTree(root: TreeNode, style: Style = PLAIN_STYLE): string {
  const lines = [describe(root, style)]
  draw(root.children ?? [], '', lines, style)
  return lines.join('\n')
}

/** The depth of the recursion is the depth of the drawn tree, which the caller bounds. */
function draw(nodes: readonly TreeNode[], indent: string, lines: string[], style: Style): void {
  for (const [index, node] of nodes.entries()) {
    const last = index === nodes.length - 1
    lines.push(`${indent}${last ? '└── ' : '├── '}${describe(node, style)}`)
    draw(node.children ?? [], `${indent}${last ? '    ' : '│   '}`, lines, style)
  }
}

function describe(node: TreeNode, style: Style): string {
  return node.note === undefined ? node.label : `${node.label}  ${style.dim(node.note)}`
}
