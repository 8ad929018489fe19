/** `image tree`: the files of an image, bounded in depth and number, read directory by directory. */
import { AppError, formatRef, formatSize, parseRef } from '../../core/index.ts'
import type { Ref } from '../../core/index.ts'
import type { DirectoryEntry, DirectoryListing } from '../../server/http/schemas.ts'
import type { ApiClient } from '../api/client.ts'
import { imagePath, isListing, query, suggesting } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import {
  encodeListedName,
  encodePathArgument,
  formatCount,
  plural,
  showEncodedName,
} from '../render/text.ts'
import { renderTree } from '../render/tree.ts'
import type { TreeNode } from '../render/tree.ts'

export interface ImageTreeOptions {
  readonly depth: number
  readonly limit: number
}

/** An entry with its path inside the image, in the API's encoding. */
export interface TreeEntry extends DirectoryEntry {
  readonly path: string
  readonly children?: readonly TreeEntry[]
}

interface Walk {
  readonly client: ApiClient
  readonly ref: Ref
  readonly base: string
  readonly depth: number
  left: number
  truncated: boolean
}

/** Largest page of a directory that is asked for at once. */
const PAGE_ENTRIES = 1000

export async function runImageTree(
  invocation: Invocation,
  refText: string,
  pathText: string | undefined,
  options: ImageTreeOptions,
): Promise<void> {
  const { client, output } = invocation
  const ref = parseRef(refText)
  const path = encodePathArgument(pathText ?? '')
  const walk = { ...walkOf(client, ref, options), truncated: false }
  const children = await suggesting(client, ref, () => readDirectory(walk, path, 1))
  if (invocation.json) return output.printJson(flatten(children))
  const root: TreeNode = {
    label: `${refText}:/${showEncodedName(path)}`,
    children: nodesOf(children),
  }
  await output.print(renderTree(root, output.style))
  await output.print(`\n${summarize(flatten(children))}`)
  if (walk.truncated) {
    output.say(`more than ${formatCount(options.limit)} entries: the rest is left out (--limit N)`)
  }
}

/** Entries below a directory (in the API's encoding) in the order of a depth-first walk, at most `limit`. */
export async function listTree(
  client: ApiClient,
  ref: Ref,
  path: string,
  options: ImageTreeOptions,
): Promise<TreeEntry[]> {
  return flatten(await readDirectory(walkOf(client, ref, options), path, 1))
}

function walkOf(client: ApiClient, ref: Ref, options: ImageTreeOptions): Walk {
  const base = `${imagePath(ref)}/-/files/`
  return { client, ref, base, depth: options.depth, left: options.limit, truncated: false }
}

async function readDirectory(walk: Walk, path: string, level: number): Promise<TreeEntry[]> {
  if (walk.left === 0) {
    walk.truncated = true
    return []
  }
  const entries: TreeEntry[] = []
  let cursor: string | undefined
  do {
    const limit = Math.min(PAGE_ENTRIES, walk.left + 1)
    const page = await readPage(walk, path, { cursor, limit })
    for (const entry of page.entries) {
      if (walk.left === 0) {
        walk.truncated = true
        return entries
      }
      walk.left -= 1
      const name = encodeListedName(entry.name)
      entries.push({ ...entry, path: path === '' ? name : `${path}/${name}` })
    }
    cursor = page.nextCursor
  } while (cursor !== undefined)
  if (level >= walk.depth) return entries
  const complete: TreeEntry[] = []
  for (const entry of entries) {
    const isDirectory = entry.type === 'directory'
    complete.push(
      isDirectory
        ? { ...entry, children: await readDirectory(walk, entry.path, level + 1) }
        : entry,
    )
  }
  return complete
}

/** @throws ERR_CLI_USAGE when the path names a file: its answer is the file's bytes, which are not read */
async function readPage(
  walk: Walk,
  path: string,
  parameters: Readonly<Record<string, string | number | undefined>>,
): Promise<DirectoryListing> {
  const { client } = walk
  const response = await client.stream(query(walk.base + path, parameters))
  if (isListing(response)) return client.readJson<DirectoryListing>(response, walk.base + path)
  response.destroy()
  throw new AppError('ERR_CLI_USAGE', `/${showEncodedName(path)} is not a directory`, {
    hint: `commonpage image cat ${formatRef(walk.ref)} ${path}`,
  })
}

function nodesOf(entries: readonly TreeEntry[]): TreeNode[] {
  return entries.map((entry) => {
    const isDirectory = entry.type === 'directory'
    const note =
      entry.type === 'file'
        ? formatSize(entry.sizeBytes ?? 0)
        : isDirectory
          ? undefined
          : entry.type
    return {
      label: showEncodedName(entry.name) + (isDirectory ? '/' : ''),
      ...(note === undefined ? {} : { note }),
      ...(entry.children === undefined ? {} : { children: nodesOf(entry.children) }),
    }
  })
}

function flatten(entries: readonly TreeEntry[]): TreeEntry[] {
  return entries.flatMap(({ children, ...entry }) => [entry, ...flatten(children ?? [])])
}

function summarize(entries: readonly TreeEntry[]): string {
  const files = entries.filter(({ type }) => type === 'file')
  const directories = entries.filter(({ type }) => type === 'directory')
  const others = entries.length - files.length - directories.length
  const bytes = files.reduce((sum, { sizeBytes }) => sum + (sizeBytes ?? 0), 0)
  const parts = [plural(directories.length, 'directory'), plural(files.length, 'file')]
  if (others > 0) parts.push(`${formatCount(others)} other`)
  return `${parts.join(', ')}, ${formatSize(bytes)}`
}
