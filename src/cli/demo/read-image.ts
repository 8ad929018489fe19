/**
 * What a machine does when it starts from an image, without a kernel: the start of the disk over NBD, then
 * files over HTTP. Every byte is compared: over NBD with the image as it was downloaded, over HTTP with the tree that it was made of.
 */
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { AppError, KIB, MIB } from '../../core/index.ts'
import type { Ref } from '../../core/index.ts'
import type { ListenAddress } from '../../server/config.ts'
import type { ApiClient } from '../api/client.ts'
import { imagePath } from '../api/routes.ts'
import { listTree } from '../commands/image-tree.ts'
import type { TreeEntry } from '../commands/image-tree.ts'
import { NbdReader } from './nbd-reader.ts'

/** What a Linux client asks for when it reads ahead. */
const REQUEST_BYTES = 128 * KIB
const START_BYTES = 12 * MIB
/** Folders at the root that are looked into, entries listed and files read of each. */
const MAX_FOLDERS = 4
const MAX_LISTED = 400
const MAX_FILES = 40
const LIST_DEPTH = 6

export interface ReadResult {
  readonly nbdBytes: number
  readonly files: number
  readonly fileBytes: number
  /** A file to show in an example, in the API's encoding. */
  readonly examplePath: string | undefined
}

export interface Demonstrated {
  readonly client: ApiClient
  readonly nbd: ListenAddress
  readonly ref: Ref
  readonly exportName: string
  /** The image's only device. */
  readonly file: string
  /** The folder that the image was made of. */
  readonly tree: string
}

/** @throws ERR_CLI_NBD, ERR_CLI_DEMO when a byte differs, and what ApiClient throws */
export async function readImage({
  client,
  nbd,
  ref,
  exportName,
  file,
  tree,
}: Demonstrated): Promise<ReadResult> {
  const nbdBytes = await readStart(nbd, exportName, file, client.signal)
  const files = await pickFiles(client, ref)
  let fileBytes = 0
  for (const { path } of files) {
    const stream = await client.stream(`${imagePath(ref)}/-/files/${path}`)
    const chunks: Buffer[] = []
    for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk)
    const bytes = Buffer.concat(chunks)
    if (!bytes.equals(await readFile(join(tree, decodeURIComponent(path))))) {
      throw new AppError('ERR_CLI_DEMO', `${path} differs from the file that was imported`)
    }
    fileBytes += bytes.length
  }
  return { nbdBytes, files: files.length, fileBytes, examplePath: files.at(-1)?.path }
}

async function readStart(
  nbd: ListenAddress,
  exportName: string,
  imageFile: string,
  signal: AbortSignal,
): Promise<number> {
  await using reader = await NbdReader.open(nbd, exportName, signal)
  await using original = await open(imageFile, 'r')
  const length = Math.min(reader.size, START_BYTES)
  const expected = Buffer.allocUnsafe(REQUEST_BYTES)
  for (let offset = 0; offset < length; offset += REQUEST_BYTES) {
    const wanted = Math.min(REQUEST_BYTES, length - offset)
    const bytes = await reader.read(offset, wanted)
    const { bytesRead } = await original.read(expected, 0, wanted, offset)
    if (!bytes.equals(expected.subarray(0, bytesRead))) {
      throw new AppError(
        'ERR_CLI_DEMO',
        `${exportName} differs over NBD and HTTP in the ${wanted} bytes from ${offset}`,
      )
    }
  }
  return length
}

/** Some files of each folder at the root: of the base, and of the application where there is one. */
async function pickFiles(client: ApiClient, ref: Ref): Promise<TreeEntry[]> {
  const root = await listTree(client, ref, '', { depth: 1, limit: MAX_FOLDERS })
  const picked: TreeEntry[] = []
  for (const folder of root.filter(({ type }) => type === 'directory')) {
    const options = { depth: LIST_DEPTH, limit: MAX_LISTED }
    const entries = await listTree(client, ref, folder.path, options)
    picked.push(...spread(entries.filter(isPlainFile), MAX_FILES))
  }
  return picked
}

function isPlainFile(entry: TreeEntry): boolean {
  return entry.type === 'file' && (entry.sizeBytes ?? 0) > 0
}

/** `count` items, evenly from the whole list. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items]
  return items.filter(
    (_, index) =>
      Math.floor((index * count) / items.length) !==
      Math.floor(((index - 1) * count) / items.length),
  )
}
