/**
 * From layers of tar entries to a stored image: what all imports of trees share. Each layer is read, put on those
 * before it, and placed; the image that comes out of it is stored like any other.
 */
import { MIB } from '../../core/index.ts'
import type { WriterOptions } from '../../erofs/index.ts'
import { FileNode, ImageWriter } from '../../erofs/index.ts'
import type { DomainStore, Store } from '../../store/index.ts'
import { readTar } from '../../tar/index.ts'
import type { ImageRecord } from '../image-record.ts'
import { DeviceReader } from '../import/device-reader.ts'
import { openDevices } from '../import/import-devices.ts'
import type { ImportProgress } from '../import/progress.ts'
import { ProgressMeter } from '../import/progress.ts'
import type { SourceFile } from '../import/source-file.ts'
import type { ImportSummary } from '../import/store-image.ts'
import { storeImage } from '../import/store-image.ts'
import { BuiltImage } from './built-image.ts'
import { FileContent } from './file-content.ts'
import { TreeMerger } from './tree-merger.ts'

/** What every import of a tree is given. */
export interface TreeImport {
  readonly store: Store
  readonly domain: string
  readonly signal?: AbortSignal
  /** Called at most ten times a second, and at the start of each phase. */
  readonly onProgress?: (progress: ImportProgress) => void
}

/** Between two steps the process may say how far it is, and may be stopped. */
const STEP_BYTES = 4 * MIB

export class TreeBuild {
  readonly #import: TreeImport
  readonly #domain: DomainStore
  readonly #writer: ImageWriter
  readonly #content: FileContent
  readonly #merger: TreeMerger
  /** The archive of the layer that is being read. */
  #source: SourceFile | undefined

  /** @param whiteouts of OCI layers; without, their names are files like others */
  constructor(
    options: TreeImport,
    { whiteouts, ...writer }: WriterOptions & { whiteouts: boolean },
  ) {
    this.#import = options
    this.#domain = options.store.domain(options.domain)
    this.#writer = new ImageWriter(writer)
    this.#content = new FileContent(this.#writer)
    this.#merger = new TreeMerger({
      whiteouts,
      fileOf: ({ dataOffset: offset, size, segments }, attributes) => {
        const source = this.#source
        if (source === undefined) throw new TypeError('no layer is being read')
        return new FileNode(attributes, this.#content.dataOf({ source, offset, size, segments }))
      },
    })
  }

  /**
   * @param archive stays open until the image is stored: its bytes are the image's
   * @throws ERR_TAR_*, ERR_IMPORT_TREE, ERR_EROFS_TOO_LARGE, ERR_IMPORT_SOURCE, ERR_ABORTED
   */
  async addLayer(archive: SourceFile): Promise<void> {
    const meter = new ProgressMeter(archive.size, this.#import.onProgress, this.#import.signal)
    meter.enter('building')
    this.#source = archive
    await meter.run(this.#addEntries(archive))
    this.#merger.endLayer()
    this.#writer.placeLayer(this.#merger.root)
  }

  /** @param more fields of the image's record @throws as storeImage: nothing is visible then */
  async store(more: Pick<ImageRecord, 'origin' | 'oci'>): Promise<ImportSummary> {
    const { store, onProgress, signal } = this.#import
    const image = this.#writer.finish(this.#merger.root)
    using built = await BuiltImage.create(this.#domain, image, this.#content)
    using reader = DeviceReader.of(built.devices)
    return await storeImage({
      store,
      domain: this.#domain,
      reader,
      meter: new ProgressMeter(reader.totalSize, onProgress, signal),
      opened: await openDevices(reader),
      expected: [],
      ...more,
      notes: this.#merger.notes,
      signal,
    })
  }

  *#addEntries(archive: SourceFile): Generator<number, void, void> {
    let at = 0
    for (const entry of readTar(archive)) {
      this.#merger.add(entry)
      for (const step of this.#content.placeChunks()) {
        yield step
        at += step
      }
      if (entry.offset - at < STEP_BYTES) continue
      yield entry.offset - at
      at = entry.offset
    }
    yield archive.size - at
  }
}
