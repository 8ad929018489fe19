/** Collects where a logical range lies, joining neighbours that continue each other. */

/** A piece of a file: bytes on a device, or zeros. Lengths and offsets in bytes; no length is 0. */
export type FileExtent =
  | {
      readonly kind: 'data'
      readonly device: number
      readonly deviceOffset: number
      readonly length: number
    }
  | { readonly kind: 'hole'; readonly length: number }

export class ExtentList {
  readonly #extents: FileExtent[] = []

  addData(device: number, deviceOffset: number, length: number): void {
    if (length === 0) return
    const last = this.#extents.at(-1)
    if (
      last?.kind === 'data' &&
      last.device === device &&
      last.deviceOffset + last.length === deviceOffset
    ) {
      this.#extents[this.#extents.length - 1] = { ...last, length: last.length + length }
    } else {
      this.#extents.push({ kind: 'data', device, deviceOffset, length })
    }
  }

  addHole(length: number): void {
    if (length === 0) return
    const last = this.#extents.at(-1)
    if (last?.kind === 'hole') {
      this.#extents[this.#extents.length - 1] = { kind: 'hole', length: last.length + length }
    } else {
      this.#extents.push({ kind: 'hole', length })
    }
  }

  /** The list so far; ends the use of this collector. */
  take(): FileExtent[] {
    return this.#extents
  }
}
