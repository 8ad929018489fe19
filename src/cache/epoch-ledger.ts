/**
 * The keeper's side of the accounting: at each fill it decides for whom the page was brought in, at each
 * eviction it learns who claimed it, and it can prove that nothing was lost:
 *
 *   Σ added over images + unattributed = valid bytes of pages whose first fill was in this epoch
 *
 * The left side is summed from what images, readers and frames hold, the right side is counted at the fills.
 */
import { FILLER, FRAME, recordOf, unattributed } from './frame-table.ts'
import type { BlobRecord, BlobTable } from './blob-table.ts'
import { ImageAccounting, type ImageAccountingMemory } from './image-accounting.ts'
import { CONTROL } from './memory.ts'

export interface AccountingTotals {
  readonly epoch: number
  /** Σ added of all images, those since unregistered included. */
  readonly addedBytes: number
  /** Brought in for no image, and read by none since. */
  readonly unattributedBytes: number
  /** Valid bytes of pages whose first fill was in this epoch. */
  readonly broughtBytes: number
  /** The last two of each domain that brought in anything. */
  readonly domains: readonly DomainTotals[]
}

export interface DomainTotals {
  readonly domainNo: number
  readonly unattributedBytes: number
  readonly broughtBytes: number
}

/** Of one domain, in this epoch. */
interface DomainBytes {
  brought: number
  /** Brought in for no image, and evicted before one read it. */
  evictedUnattributed: number
}

export class EpochLedger {
  readonly #table: Int32Array
  readonly #control: Int32Array
  readonly #images = new Map<number, ImageAccounting>()
  readonly #blobs: Pick<BlobTable, 'get'>
  readonly #domains = new Map<number, DomainBytes>()
  #retiredAddedBytes = 0

  constructor(table: Int32Array, control: Int32Array, blobs: Pick<BlobTable, 'get'>) {
    this.#table = table
    this.#control = control
    this.#blobs = blobs
  }

  get epoch(): number {
    return Atomics.load(this.#control, CONTROL.EPOCH)
  }

  registerImage(imageId: number, memory: ImageAccountingMemory): void {
    this.#images.set(imageId, new ImageAccounting(memory))
  }

  /** The image must be closed in every worker. What it added stays in the epoch's sum. */
  unregisterImage(imageId: number): void {
    const image = this.#images.get(imageId)
    if (image === undefined) return
    this.#retiredAddedBytes += image.addedBytes(this.epoch)
    this.#images.delete(imageId)
  }

  /**
   * Accounts for a page about to be published, and returns its filler word. The bytes of a page are added once
   * in an epoch, to the first image that it was brought in for or that read it.
   * @param imageId 0: on behalf of no image
   */
  onFill(blob: BlobRecord, pageNo: number, validBytes: number, imageId: number): number {
    const epoch = this.epoch
    const domain = this.#domain(blob)
    const first = !blob.isFilled(epoch, pageNo)
    if (first) {
      blob.setFilled(epoch, pageNo)
      domain.brought += validBytes
    }
    if (blob.isAttributed(epoch, pageNo)) return imageId === 0 ? FILLER.ACCOUNTED : imageId
    if (!first) domain.evictedUnattributed -= validBytes
    const image = this.#images.get(imageId)
    if (image === undefined) return unattributed(epoch)
    image.add(epoch, validBytes)
    blob.setAttributed(epoch, pageNo)
    return imageId
  }

  /** Reads the filler word of a frame that is being taken from its page. */
  onEvict(blob: BlobRecord, pageNo: number, validBytes: number, filler: number): void {
    const epoch = this.epoch
    if (filler === unattributed(epoch)) this.#domain(blob).evictedUnattributed += validBytes
    else if (blob.isFilled(epoch, pageNo)) blob.setAttributed(epoch, pageNo)
  }

  /** True if the page had been filled in this epoch: it is read again after eviction. */
  isRefill(blob: BlobRecord, pageNo: number): boolean {
    return blob.isFilled(this.epoch, pageNo)
  }

  /**
   * Starts an epoch. Pages in memory stay where they are: nothing was brought in yet. Readers see the new epoch
   * from the moment of the store; a claim made under the old one counts in the old half.
   */
  reset(): void {
    const next = this.epoch + 1
    for (const image of this.#images.values()) image.prepare(next)
    Atomics.store(this.#control, CONTROL.EPOCH, next)
    const old = unattributed(next - 1)
    for (let word = FRAME.FILLER; word < this.#table.length; word += recordOf(1)) {
      if (this.#table[word] === old) {
        Atomics.compareExchange(this.#table, word, old, FILLER.ACCOUNTED)
      }
    }
    this.#domains.clear()
    this.#retiredAddedBytes = 0
  }

  /** Exact while no reader is between its claim of a page and counting it. */
  totals(): AccountingTotals {
    const epoch = this.epoch
    let addedBytes = this.#retiredAddedBytes
    for (const image of this.#images.values()) addedBytes += image.addedBytes(epoch)
    const domains = this.#domainTotals(epoch)
    const sum = (of: (row: DomainTotals) => number) =>
      domains.reduce((all, row) => all + of(row), 0)
    return {
      epoch,
      addedBytes,
      unattributedBytes: sum((row) => row.unattributedBytes),
      broughtBytes: sum((row) => row.broughtBytes),
      domains,
    }
  }

  #domainTotals(epoch: number): DomainTotals[] {
    const resident = new Map<number, number>()
    const mark = unattributed(epoch)
    for (let record = 0; record < this.#table.length; record += recordOf(1)) {
      if (this.#table[record + FRAME.FILLER] !== mark) continue
      const domainNo = this.#blobs.get(this.#table[record + FRAME.BLOB] ?? 0)?.domainNo
      if (domainNo === undefined) continue
      const bytes = this.#table[record + FRAME.VALID] ?? 0
      resident.set(domainNo, (resident.get(domainNo) ?? 0) + bytes)
    }
    return Array.from(this.#domains, ([domainNo, { brought, evictedUnattributed }]) => ({
      domainNo,
      unattributedBytes: evictedUnattributed + (resident.get(domainNo) ?? 0),
      broughtBytes: brought,
    }))
  }

  #domain({ domainNo }: BlobRecord): DomainBytes {
    let domain = this.#domains.get(domainNo)
    if (domain === undefined) {
      domain = { brought: 0, evictedUnattributed: 0 }
      this.#domains.set(domainNo, domain)
    }
    return domain
  }
}
