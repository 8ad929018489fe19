/**
 * Archives as they come: plain, or compressed with gzip, zstd or xz. What is compressed is unpacked to a file of the
 * store first, because the bytes of an archive are read several times.
 */
import { createReadStream } from 'node:fs'
import type { Transform } from 'node:stream'
import { pipeline, Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { createGunzip, createZstdDecompress } from 'node:zlib'

import type * as XzModule from 'xz-decompress'

import { isAppError } from '../../core/index.ts'
import type { DomainStore, StagedUpload } from '../../store/index.ts'
import { imageError } from '../errors.ts'
import type { ImportProgress } from '../import/progress.ts'
import { ProgressMeter } from '../import/progress.ts'
import { SourceFile } from '../import/source-file.ts'

const READ_BYTES = 256 * 1024

type XzLibrary = typeof XzModule
type Unpack = (compressed: Readable) => AsyncIterable<Uint8Array>

interface Format {
  readonly name: string
  /** The first bytes of a file. */
  readonly magic: readonly number[]
  /** Undefined: known by name only. */
  readonly unpack?: Unpack
}

const FORMATS: readonly Format[] = [
  // RFC 1952, 2.3.1
  { name: 'gzip', magic: [0x1f, 0x8b], unpack: (from) => through(from, createGunzip()) },
  // RFC 8878, 3.1.1
  {
    name: 'zstd',
    magic: [0x28, 0xb5, 0x2f, 0xfd],
    unpack: (from) => through(from, createZstdDecompress()),
  },
  // The .xz File Format, 2.1.1.1
  { name: 'xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unpack: unpackXz },
  { name: 'bzip2', magic: [0x42, 0x5a, 0x68] },
  { name: 'lzip', magic: [0x4c, 0x5a, 0x49, 0x50] },
]

export interface OpenArchiveOptions {
  readonly path: string
  /** The part of the file that is the archive; default: all of it. */
  readonly range?: { readonly offset: number; readonly length: number }
  readonly domain: DomainStore
  readonly onProgress: ((progress: ImportProgress) => void) | undefined
  readonly signal: AbortSignal | undefined
}

/** An archive whose bytes can be read anywhere. */
export class ArchiveFile implements AsyncDisposable {
  readonly file: SourceFile
  /** Of the file, for further archives inside. */
  readonly path: string
  readonly #staged: StagedUpload | undefined

  private constructor(file: SourceFile, path: string, staged?: StagedUpload) {
    this.file = file
    this.path = path
    this.#staged = staged
  }

  /** @throws ERR_IMPORT_SOURCE, ERR_IMPORT_ARCHIVE, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_ABORTED */
  static async open(options: OpenArchiveOptions): Promise<ArchiveFile> {
    const { path, range, domain, onProgress, signal } = options
    const file = SourceFile.open(path, range)
    const format = formatOf(file)
    if (format === undefined) return new ArchiveFile(file, path)
    const meter = new ProgressMeter(file.size, onProgress, signal)
    file[Symbol.dispose]()
    const { name, unpack } = format
    if (unpack === undefined) {
      throw imageError(
        'ERR_IMPORT_ARCHIVE',
        `the archive is compressed with ${name}, which is not supported`,
        { hint: 'plain archives and those of gzip, zstd and xz can be imported' },
      )
    }
    meter.enter('unpacking')
    const staged = await domain.stageUpload(undefined)
    try {
      await staged.receive(unpacked(options, name, unpack, meter), signal)
      return new ArchiveFile(SourceFile.open(staged.path), staged.path, staged)
    } catch (error) {
      await staged[Symbol.asyncDispose]()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.file[Symbol.dispose]()
    await this.#staged?.[Symbol.asyncDispose]()
  }
}

function formatOf(file: SourceFile): Format | undefined {
  return FORMATS.find(({ magic }) => {
    if (file.size < magic.length) return false
    return file.view(0, magic.length).equals(Buffer.from(magic))
  })
}

async function* unpacked(
  { path, range }: OpenArchiveOptions,
  name: string,
  unpack: Unpack,
  meter: ProgressMeter,
): AsyncGenerator<Uint8Array, void, void> {
  const part =
    range === undefined ? {} : { start: range.offset, end: range.offset + range.length - 1 }
  const source = createReadStream(path, { highWaterMark: READ_BYTES, ...part })
  source.on('data', (piece) => meter.advance(piece.length))
  try {
    yield* unpack(source)
  } catch (error) {
    if (isAppError(error)) throw error
    const why = error instanceof Error ? error.message : String(error)
    throw imageError(
      'ERR_IMPORT_ARCHIVE',
      `the ${name} data of the archive is damaged or cut short: ${why}`,
      { cause: error },
    )
  } finally {
    source.destroy()
  }
}

/** What reading the source fails with, reading the result fails with. */
function through(source: Readable, transform: Transform): Transform {
  pipeline(source, transform, () => undefined)
  return transform
}

/** Loaded when it is needed first: few archives are of this kind. Its types speak of named exports, which it has not. */
async function* unpackXz(compressed: Readable): AsyncGenerator<Uint8Array, void, void> {
  const library = (await import('xz-decompress')) as unknown as { readonly default: XzLibrary }
  const { XzReadableStream } = library.default
  yield* new XzReadableStream(Readable.toWeb(compressed) as ReadableStream<Uint8Array>)
}
