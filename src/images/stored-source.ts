/**
 * A stored device as a ByteSource straight from the store, past the page cache: for main, which looks at
 * superblocks now and then and serves nobody. Bytes are not checked against their digests here.
 */
import type { ByteSource } from '../core/index.ts'
import { checkRange } from '../core/index.ts'
import type { DeviceMap, DomainStore } from '../store/index.ts'
import { AddressMap } from './address-map.ts'
import type { ViewBlob } from './range-map.ts'

export class StoredSource implements ByteSource {
  readonly size: number
  readonly #domain: DomainStore
  readonly #map: AddressMap

  constructor(domain: DomainStore, map: DeviceMap) {
    this.size = map.size
    this.#domain = domain
    this.#map = new AddressMap(
      map,
      map.blobs.map((blob): ViewBlob => ({ ...blob, blobNo: 0, ordinalBase: 0 })),
    )
  }

  /** @throws ERR_STORE_BLOB_MISSING, ERR_STORE_READ_FAILED */
  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.size, offset, length)
    const bytes = Buffer.alloc(length)
    const pieces: { blob: ViewBlob; from: number; at: number; length: number }[] = []
    let at = 0
    this.#map.visitRange(offset, length, {
      piece: (blob, from, pieceLength) => {
        pieces.push({ blob, from, at, length: pieceLength })
        at += pieceLength
      },
      zeros: (zeroLength) => {
        at += zeroLength
      },
    })
    for (const piece of pieces) {
      const range = { offset: piece.from, length: piece.length }
      await this.#domain.blobs.read(
        piece.blob.digest,
        range,
        bytes.subarray(piece.at, piece.at + piece.length),
      )
    }
    return bytes
  }
}
