/**
 * Makes trees for tests: many small files and directories with seeded, unlike and equal contents,
 * links, modes, owners and times, so that an image of one has every kind of metadata in quantity.
 */
import { chmod, chown, link, lutimes, mkdir, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { Random } from '../random.ts'

export interface TreeOptions {
  readonly seed: number
  readonly files: number
  /** Largest file in bytes; most are far smaller. */
  readonly largestBytes?: number
  /** Folder names start with this: a second tree can be laid over the first. */
  readonly prefix?: string
}

const FILES_PER_FOLDER = 60

/** Fills an existing folder. */
export async function makeTree(root: string, options: TreeOptions): Promise<void> {
  const random = new Random(options.seed)
  const prefix = options.prefix ?? 'd'
  let folder = root
  let previous: string | undefined
  for (let i = 0; i < options.files; i++) {
    if (i % FILES_PER_FOLDER === 0) {
      folder = join(
        root,
        `${prefix}${Math.floor(i / FILES_PER_FOLDER / 20)}`,
        `${prefix}${i / FILES_PER_FOLDER}`,
      )
      await mkdir(folder, { recursive: true })
    }
    const path = join(folder, `file-${i}.${['txt', 'py', 'so', 'json'][random.next(4)] ?? 'txt'}`)
    await makeEntry(path, i, random, options.largestBytes ?? 400_000, previous)
    previous = path
  }
}

async function makeEntry(
  path: string,
  i: number,
  random: Random,
  largest: number,
  previous: string | undefined,
): Promise<void> {
  const kind = random.next(100)
  if (kind < 3 && previous !== undefined) {
    await link(previous, path)
    return
  }
  const seconds = 1_500_000_000 + random.next(200_000_000)
  if (kind < 8) {
    await symlink(`../${random.next(50)}/target-${i}`, path)
    await lutimes(path, seconds, seconds)
    return
  }
  await writeFile(path, contents(i, random, largest))
  await chmod(path, [0o644, 0o755, 0o600, 0o4755][random.next(4)] ?? 0o644)
  if (process.getuid?.() === 0 && random.next(10) === 0)
    await chown(path, random.next(70_000), random.next(70_000))
  await utimes(path, seconds, seconds)
}

function contents(i: number, random: Random, largest: number): Buffer {
  const choice = random.next(100)
  if (choice < 3) return Buffer.alloc(0)
  if (choice < 6) return Buffer.alloc(random.next(100_000)) // zeros: holes and zero chunks
  if (choice < 12)
    return Buffer.from(`the same small file ${random.next(20)}\n`.repeat(1 + random.next(200)))
  const length = choice > 97 ? random.next(largest) : random.next(9000)
  return Buffer.concat([Buffer.from(`file ${i} `), text(length, random)])
}

/** Words in no order that repeats, as in programs and documents: no block of it comes twice by chance. */
function text(length: number, random: Random): Buffer {
  const out = Buffer.alloc(length, 0x20)
  for (let at = 0; at < length;)
    at += out.write(`${WORDS[random.next(WORDS.length)] ?? ''}${random.next(1_000_000)} `, at)
  return out
}

const WORDS = [
  'import',
  'const',
  'return',
  'if',
  'export',
  'function',
  'class',
  'self',
  'def',
  'for',
  'while',
  'let',
]
