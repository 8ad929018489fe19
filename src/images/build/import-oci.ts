/**
 * Imports one image of an archive: an OCI layout, or what docker saved. Its layers are put on each other; what runs in
 * a container of it stays with the image's record.
 */
import { createHash } from 'node:crypto'

import type { Digest } from '../../core/index.ts'
import { MIB } from '../../core/index.ts'
import type { ArchiveMembers, FoundImage, MemberRange, WantedImage } from '../../oci/index.ts'
import { findImage, formatPlatform, ociError } from '../../oci/index.ts'
import { readTar } from '../../tar/index.ts'
import { ProgressMeter } from '../import/progress.ts'
import type { SourceFile } from '../import/source-file.ts'
import type { ImportSummary } from '../import/store-image.ts'
import { ArchiveFile } from './archive-file.ts'
import type { TreeImport } from './build-tree.ts'
import { TreeBuild } from './build-tree.ts'
import { namesOf } from './tree-path.ts'

export interface ImportOciOptions extends TreeImport {
  /** The archive, in the store's uploads. */
  readonly path: string
  readonly wanted: WantedImage
}

const HASH_STEP_BYTES = MIB
/** Links from one member of an archive to another. */
const MAX_LINKS = 8

/** @throws ERR_OCI_*, ERR_IMPORT_ARCHIVE, and as TreeBuild: nothing is visible then */
export async function importOci(options: ImportOciOptions): Promise<ImportSummary> {
  const { path, store, onProgress, signal } = options
  const domain = store.domain(options.domain)
  const from = { domain, onProgress, signal }
  await using resources = new AsyncDisposableStack()
  const archive = resources.use(await ArchiveFile.open({ path, ...from }))
  const image = findImage(new Members(archive.file), options.wanted)
  const build = new TreeBuild(options, { whiteouts: true })
  for (const [index, { offset, length, diffId }] of image.layers.entries()) {
    const range = { offset, length }
    const layer = resources.use(await ArchiveFile.open({ path: archive.path, range, ...from }))
    const meter = new ProgressMeter(layer.file.size, onProgress, signal)
    meter.enter('unpacking')
    const digest = await meter.run(digestOf(layer.file))
    if (digest !== diffId) throw wrongLayer(index, digest, diffId)
    await build.addLayer(layer.file)
  }
  return await build.store({ origin: { format: 'oci' }, oci: recordOf(image) })
}

/** What of the configuration belongs to the image: nothing that says when or how it was made. */
function recordOf({ config }: FoundImage): Readonly<Record<string, unknown>> {
  return { platform: formatPlatform(config.platform), config: config.config }
}

/** Files of an archive by their paths. */
class Members implements ArchiveMembers {
  readonly #file: SourceFile
  readonly #ranges = new Map<string, MemberRange>()
  readonly #links = new Map<string, string>()

  constructor(file: SourceFile) {
    this.#file = file
    for (const entry of readTar(file)) {
      const names = namesOf(entry.path)
      const path = names.join('/')
      if (entry.type === 'file' && entry.segments === undefined) {
        this.#ranges.set(path, { offset: entry.dataOffset, length: entry.size })
      } else if (entry.type === 'link') {
        this.#links.set(path, namesOf(entry.target).join('/'))
      } else if (entry.type === 'symlink') {
        this.#links.set(path, resolveFrom(names.slice(0, -1), entry.target.toString('latin1')))
      }
    }
  }

  find(path: string): MemberRange | undefined {
    let at = path
    for (let links = 0; links < MAX_LINKS; links++) {
      const range = this.#ranges.get(at)
      const target = this.#links.get(at)
      if (range !== undefined || target === undefined) return range
      at = target
    }
    return undefined
  }

  read({ offset, length }: MemberRange): Buffer {
    const bytes = Buffer.alloc(length)
    this.#file.read(bytes, offset)
    return bytes
  }
}

/** docker wrote equal layers once, and links to them. */
function resolveFrom(folder: readonly string[], target: string): string {
  const names = [...folder]
  for (const part of target.split('/')) {
    if (part === '..') names.pop()
    else if (part !== '' && part !== '.') names.push(part)
  }
  return names.join('/')
}

function* digestOf(file: SourceFile): Generator<number, Digest, void> {
  const hasher = createHash('sha256')
  for (let at = 0; at < file.size; at += HASH_STEP_BYTES) {
    const length = Math.min(HASH_STEP_BYTES, file.size - at)
    hasher.update(file.view(at, length))
    yield length
  }
  return `sha256:${hasher.digest('hex')}`
}

function wrongLayer(index: number, digest: Digest, expected: Digest): Error {
  return ociError(
    'ERR_OCI_DIGEST',
    `layer ${index + 1} has the digest ${digest}, the configuration expects ${expected}`,
  )
}
