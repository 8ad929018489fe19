/**
 * What the cache's threads say to each other. Every message is a batch: readers gather a tick's requests, the
 * keeper answers at the end of each batch that it worked off. Page lists are plain arrays of numbers, which
 * structured clone copies fastest.
 */
import type { ErrorRecord } from '../core/index.ts'
import type { BlobKey, OpenedBlob } from './blob-table.ts'
import type { EvictionReason } from './counters.ts'
import type { AccountingTotals } from './epoch-ledger.ts'
import type { ImageAccountingMemory } from './image-accounting.ts'

/** blobNo, pageNo, blobNo, pageNo, …; no page twice. */
export type PageList = readonly number[]

/** Asks for all pages of a list, pinned, or an error. */
export interface ReadRequest {
  readonly type: 'read'
  /** The reader's own number for it. */
  readonly id: number
  /** 0: none. */
  readonly imageId: number
  readonly pages: PageList
}

/** Nobody waits for a read any more: it is answered with an error, unless its answer is on the way already. */
export interface CancelRequest {
  readonly type: 'cancel'
  /** Of the ReadRequest. */
  readonly id: number
}

/** Asks that pages be brought in when there is room. Not answered: what is read ahead is bounded by what is read. */
export interface ReadaheadRequest {
  readonly type: 'readahead'
  readonly imageId: number
  readonly pages: PageList
}

/** The same because a client said so, which costs it nothing: answered, so that the reader can wait with the next. */
export interface PrefetchRequest {
  readonly type: 'prefetch'
  readonly id: number
  readonly imageId: number
  readonly pages: PageList
}

export type FetchRequest = ReadaheadRequest | PrefetchRequest

export type ReaderRequest = ReadRequest | CancelRequest | FetchRequest

/** How the keeper came by a page. It leaves telling hits from shared hits to the reader. */
export const GRANTED = { RESIDENT: 0, COALESCED: 1, FILLED: 2 } as const

/**
 * The frames of a ReadRequest's pages, in its order, each pinned once for the reader. The answer to a
 * PrefetchRequest, all of whose pages have been taken or dropped, has none.
 */
export interface ReadGrant {
  readonly id: number
  readonly frames: readonly number[]
  /** GRANTED.x per page. */
  readonly how: readonly number[]
}

export interface ReadRefusal {
  readonly id: number
  readonly error: ErrorRecord
}

export type ReaderAnswer = ReadGrant | ReadRefusal

/** A fill thread reads pages that follow each other with one call, up to so many bytes: reports of the first wait for the last. */
export const MAX_FILL_READ_BYTES = 262_144

export interface FillerMessage {
  /** Blobs that the fills name for the first time. */
  readonly blobs: readonly (readonly [blobNo: number, key: BlobKey])[]
  /** Pages that somebody waits for: frame, blobNo, pageNo, valid bytes, … */
  readonly demand: readonly number[]
  /** The others, likewise: done when nobody waits. */
  readonly background: readonly number[]
  /** Blobs that will not be named again. */
  readonly forget: readonly number[]
}

export interface FillReport {
  readonly frame: number
  /** Absent: the page is in its frame and has its digest. */
  readonly error?: ErrorRecord
}

/** What the keeper does for whoever holds its control port. */
export interface KeeperCalls {
  openBlobs(keys: readonly BlobKey[]): OpenedBlob[]
  /** Resolves when none of its pages is in memory. */
  dropBlob(blobNo: number): Promise<void>
  registerImage(imageId: number, accounting: ImageAccountingMemory): void
  unregisterImage(imageId: number): void
  /** Evicts unpinned pages until at least `bytes` are free of pages; returns the bytes evicted. */
  evict(reason: EvictionReason, bytes: number): number
  resetEpoch(): AccountingTotals
  accounting(): AccountingTotals
  domains(): [domain: string, domainNo: number][]
}

export type KeeperCallName = keyof KeeperCalls

/** Who is at the other end of a port that comes with a `connect`. */
export type PortRole = 'reader' | 'filler'

export type ControlMessage =
  | {
      readonly type: 'call'
      readonly id: number
      readonly name: KeeperCallName
      readonly args: readonly unknown[]
    }
  | { readonly type: 'connect'; readonly role: PortRole }

export interface ControlAnswer {
  readonly id: number
  readonly result?: unknown
  readonly error?: ErrorRecord
}
