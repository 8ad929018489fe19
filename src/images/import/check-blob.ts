/**
 * Whether the pages that an image needs of a stored blob have the digests that are recorded of them: read as the
 * server reads them, past the kernel's page cache, so that what passes here can be served. Synchronous: for the
 * import process. What to do about damage is decided elsewhere.
 */
import { hash } from 'node:crypto'

import type { AppError, Digest } from '../../core/index.ts'
import { DIGEST_BYTES, isAppError, MIB } from '../../core/index.ts'
import type { LocalPageSource } from '../../store/index.ts'
import { DIGEST_PAGE_BYTES, isDamage } from '../../store/index.ts'
import type { RangeSet } from '../range-set.ts'

export interface CheckedBlob {
  readonly domain: string
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
}

/** Pages of one read: 1 MiB. */
const PAGES_PER_READ = MIB / DIGEST_PAGE_BYTES
const WASM_PAGE_BYTES = 64 * 1024

/** The part of the WebAssembly API that is used here; TypeScript has it only in its DOM library. */
interface WebAssemblyMemories {
  readonly Memory: new (descriptor: { initial: number }) => { readonly buffer: ArrayBuffer }
}

let buffer: Buffer | undefined

/**
 * Memory for one read, aligned to the machine's pages as O_DIRECT wants it: one for the process, because it is
 * filled and looked at without a pause between.
 */
function readBuffer(): Buffer {
  const { WebAssembly } = globalThis as unknown as { WebAssembly: WebAssemblyMemories }
  buffer ??= Buffer.from(new WebAssembly.Memory({ initial: MIB / WASM_PAGE_BYTES }).buffer)
  return buffer
}

/**
 * @param pages ranges of 16 KiB page numbers
 * @returns the first damage found, in words, or undefined. Yields the bytes of each step.
 */
export function* findDamage(
  source: LocalPageSource,
  blob: CheckedBlob,
  pages: RangeSet,
): Generator<number, string | undefined, void> {
  try {
    source.openBlob(blob)
    for (let range = 0; range < pages.count; range++) {
      const end = pages.end(range)
      for (let page = pages.start(range); page < end; page += PAGES_PER_READ) {
        const count = Math.min(PAGES_PER_READ, end - page)
        const offset = page * DIGEST_PAGE_BYTES
        const length = Math.min(count * DIGEST_PAGE_BYTES, blob.size - offset)
        const target = readBuffer()
        source.readPages(blob, offset, [target.subarray(0, count * DIGEST_PAGE_BYTES)], length)
        const digests = source.pageDigests(blob, page, count)
        const bad = firstBadPage(target.subarray(0, length), digests)
        if (bad >= 0) {
          const at = offset + bad * DIGEST_PAGE_BYTES
          return `the page at byte ${at} does not have its recorded digest`
        }
        yield length
      }
    }
    return undefined
  } catch (error) {
    if (!isDamage(error) && !isMissing(error)) throw error
    return error.message
  }
}

function isMissing(error: unknown): error is AppError {
  return isAppError(error) && error.code === 'ERR_STORE_BLOB_MISSING'
}

function firstBadPage(bytes: Buffer, digests: Uint8Array): number {
  for (let page = 0; page * DIGEST_PAGE_BYTES < bytes.length; page++) {
    const at = page * DIGEST_PAGE_BYTES
    const found = hash('sha256', bytes.subarray(at, at + DIGEST_PAGE_BYTES), 'buffer')
    if (!found.equals(digests.subarray(page * DIGEST_BYTES, (page + 1) * DIGEST_BYTES))) return page
  }
  return -1
}
