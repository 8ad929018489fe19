/**
 * An image that was laid out, as devices that can be read: its metadata goes to a spool file, its data stays where it
 * came from.
 */
import { createHash } from 'node:crypto'

import type { WrittenImage } from '../../erofs/index.ts'
import type { DomainStore } from '../../store/index.ts'
import { SourceFile } from '../import/source-file.ts'
import { BuiltDevice } from './built-device.ts'
import type { FileContent } from './file-content.ts'

const UUID_BYTES = 16

export class BuiltImage implements Disposable {
  /** The primary first. They live as long as this and the sources of the content. */
  readonly devices: readonly BuiltDevice[]
  readonly #resources: DisposableStack

  private constructor(devices: readonly BuiltDevice[], resources: DisposableStack) {
    this.devices = devices
    this.#resources = resources
  }

  /** @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, ERR_IMPORT_SOURCE */
  static async create(
    domain: DomainStore,
    image: WrittenImage,
    content: FileContent,
  ): Promise<BuiltImage> {
    using resources = new DisposableStack()
    const spool = resources.use(await domain.createSpool())
    const primary = new BuiltDevice(image.primarySize)
    const written: { readonly start: number; readonly length: number; readonly at: number }[] = []
    const append = (start: number, bytes: Uint8Array): void => {
      written.push({ start, length: bytes.byteLength, at: spool.length })
      spool.append(bytes)
    }
    // The same metadata has the same identifier, on every server and at any time.
    const identifier = createHash('sha256')
    for (const { offset, bytes } of image.metadata()) {
      identifier.update(bytes)
      append(offset, bytes)
    }
    append(0, image.superblock(identifier.digest().subarray(0, UUID_BYTES)))
    spool.flush()
    const metadata = resources.use(SourceFile.open(spool.path))
    for (const { start, length, at } of written) primary.add(start, length, metadata, at)
    const second =
      image.dataDeviceSize === undefined ? undefined : new BuiltDevice(image.dataDeviceSize)
    content.addTo(second ?? primary, image.dataOffset, image.chunks())
    const devices = second === undefined ? [primary] : [primary, second]
    return new BuiltImage(devices, resources.move())
  }

  [Symbol.dispose](): void {
    this.#resources.dispose()
  }
}
