/**
 * Entity tags that follow from where the bytes are stored: the sha256 over the canonical list of a range's
 * runs. Files that share their storage have equal tags in all images of a domain, and no byte is read.
 */
import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'

import type { PieceVisitor, RangeMap, ViewBlob } from './range-map.ts'

/** Beyond so many runs (8 ms of work) a tag must come from somewhere else. */
const MAX_ETAG_RUNS = 8192

/** A strong entity tag in quotes (RFC 9110, "ETag"); undefined when the bytes lie in too many runs. */
export function contentEtag(map: RangeMap): string | undefined {
  const visitor = new RunHasher()
  try {
    map.visitRange(0, map.size, visitor)
  } catch (error) {
    if (error === TOO_MANY) return undefined
    throw error
  }
  return quoteEtag(visitor.digest())
}

export function quoteEtag(text: string): string {
  return `"${text}"`
}

const TOO_MANY = new Error('too many runs')

/** Joins runs that continue each other, so that the list depends on the bytes' places alone. */
class RunHasher implements PieceVisitor {
  readonly #hash: Hash = createHash('sha256').update('commonpage runs 1\n')
  #blob: ViewBlob | undefined
  #offset = 0
  #length = 0
  #runs = 0

  piece(blob: ViewBlob, blobOffset: number, length: number): void {
    const continues =
      this.#blob?.digest === blob.digest && this.#offset + this.#length === blobOffset
    if (!continues) this.#start(blob, blobOffset)
    this.#length += length
  }

  zeros(length: number): void {
    if (this.#blob !== undefined) this.#start(undefined, 0)
    this.#length += length
  }

  digest(): string {
    this.#flush()
    return this.#hash.digest('hex')
  }

  #start(blob: ViewBlob | undefined, offset: number): void {
    this.#flush()
    if (++this.#runs > MAX_ETAG_RUNS) throw TOO_MANY
    this.#blob = blob
    this.#offset = offset
    this.#length = 0
  }

  #flush(): void {
    if (this.#length === 0) return
    const place = this.#blob === undefined ? 'zeros' : `${this.#blob.digest} ${this.#offset}`
    this.#hash.update(`${place} ${this.#length}\n`)
  }
}
