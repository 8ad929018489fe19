/**
 * The keeper's registry of blobs and domains: it gives the numbers, remembers sizes, and keeps two bits a page
 * for the accounting of the epoch. It knows nothing of frames.
 */
import { AppError } from '../core/index.ts'
import { MAX_DOMAINS } from './counters.ts'

/** Names a blob's bytes. `digest` is opaque to the cache: the page source understands it. */
export interface BlobKey {
  readonly domain: string
  readonly digest: string
  /** Bytes. */
  readonly size: number
}

export interface OpenedBlob {
  readonly blobNo: number
  readonly domainNo: number
}

/** Page numbers are u32: 64 TiB with the smallest frames. */
const MAX_PAGES = 2 ** 32
const MAX_BLOB_NO = 2 ** 31 - 1

export class BlobRecord {
  readonly blobNo: number
  readonly domainNo: number
  readonly key: BlobKey
  /** A dropped blob's number is dead: nothing is filled under it any more. */
  dropped = false
  /** One bit a page: filled in this epoch; its bytes were added to an image in this epoch. */
  readonly #filled: Uint32Array
  readonly #attributed: Uint32Array
  #epoch = 0

  constructor(blobNo: number, domainNo: number, key: BlobKey, frameSize: number) {
    const words = Math.ceil(Math.ceil(key.size / frameSize) / 32)
    this.blobNo = blobNo
    this.domainNo = domainNo
    this.key = key
    this.#filled = new Uint32Array(words)
    this.#attributed = new Uint32Array(words)
  }

  /** Bytes of the page that the blob has; 0 behind its end. */
  validLength(pageNo: number, frameSize: number): number {
    return Math.max(0, Math.min(frameSize, this.key.size - pageNo * frameSize))
  }

  isFilled(epoch: number, pageNo: number): boolean {
    this.#enter(epoch)
    return testBit(this.#filled, pageNo)
  }

  setFilled(epoch: number, pageNo: number): void {
    this.#enter(epoch)
    setBit(this.#filled, pageNo)
  }

  isAttributed(epoch: number, pageNo: number): boolean {
    this.#enter(epoch)
    return testBit(this.#attributed, pageNo)
  }

  setAttributed(epoch: number, pageNo: number): void {
    this.#enter(epoch)
    setBit(this.#attributed, pageNo)
  }

  /** Bits of an earlier epoch are cleared when they are next asked for. */
  #enter(epoch: number): void {
    if (this.#epoch === epoch) return
    this.#filled.fill(0)
    this.#attributed.fill(0)
    this.#epoch = epoch
  }
}

export class BlobTable {
  readonly #frameSize: number
  readonly #byKey = new Map<string, BlobRecord>()
  readonly #byNo = new Map<number, BlobRecord>()
  readonly #domains = new Map<string, number>()
  #lastNo = 0

  constructor(frameSize: number) {
    this.#frameSize = frameSize
  }

  /**
   * The blob's number, given at its first open and never used again for another.
   * @throws ERR_CACHE_RANGE for a size that cannot be numbered, or one that differs from the first open's
   */
  open(key: BlobKey): BlobRecord {
    const name = `${key.domain}/${key.digest}`
    const known = this.#byKey.get(name)
    if (known !== undefined) {
      if (known.key.size === key.size) return known
      throw new AppError(
        'ERR_CACHE_RANGE',
        `blob ${name} has ${known.key.size} bytes in the cache, but is opened with ${key.size}`,
      )
    }
    if (!(
      Number.isSafeInteger(key.size) &&
      key.size >= 0 &&
      key.size <= MAX_PAGES * this.#frameSize
    )) {
      throw new AppError(
        'ERR_CACHE_RANGE',
        `blob ${name} has an impossible size of ${key.size} bytes`,
      )
    }
    if (this.#lastNo === MAX_BLOB_NO)
      throw new AppError('ERR_CACHE_OVERLOADED', 'blob numbers are used up')
    const record = new BlobRecord(++this.#lastNo, this.#domainNo(key.domain), key, this.#frameSize)
    this.#byKey.set(name, record)
    this.#byNo.set(record.blobNo, record)
    return record
  }

  get(blobNo: number): BlobRecord | undefined {
    return this.#byNo.get(blobNo)
  }

  /** From now on the number is dead; the same blob opened again gets a new one. */
  drop(blobNo: number): BlobRecord | undefined {
    const record = this.#byNo.get(blobNo)
    if (record === undefined || record.dropped) return undefined
    record.dropped = true
    this.#byKey.delete(`${record.key.domain}/${record.key.digest}`)
    return record
  }

  /** Forgets a dropped blob when no frame holds its pages any more. */
  forget(blobNo: number): void {
    this.#byNo.delete(blobNo)
  }

  domains(): [domain: string, domainNo: number][] {
    return [...this.#domains]
  }

  /** 1, 2, …; domains beyond the counters' room share 0. */
  #domainNo(domain: string): number {
    const known = this.#domains.get(domain)
    if (known !== undefined) return known
    const domainNo = this.#domains.size + 1
    if (domainNo >= MAX_DOMAINS) return 0
    this.#domains.set(domain, domainNo)
    return domainNo
  }
}

function testBit(words: Uint32Array, index: number): boolean {
  return ((words[index >>> 5] ?? 0) & (1 << (index & 31))) !== 0
}

function setBit(words: Uint32Array, index: number): void {
  words[index >>> 5] = (words[index >>> 5] ?? 0) | (1 << (index & 31))
}
