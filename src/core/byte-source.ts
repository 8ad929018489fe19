/**
 * Random-access bytes, wherever they come from. Format code (erofs, images) reads through this and never
 * sees a path or a file handle.
 */
export interface ReadOptions {
  readonly signal?: AbortSignal
}

export interface ByteSource {
  /** Bytes. */
  readonly size: number
  /**
   * Exactly `length` bytes from `offset`. The caller owns the result and must not write to it. A range
   * that is not inside [0, size) is refused with RangeError: check bounds first.
   */
  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array>
}

/** A ByteSource over bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.byteLength,
    read(offset, length) {
      checkRange(bytes.byteLength, offset, length)
      return Promise.resolve(bytes.subarray(offset, offset + length))
    },
  }
}

/** @throws RangeError unless [offset, offset + length) lies in [0, size). */
export function checkRange(size: number, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset <= size && length <= size - offset)) {
    throw new RangeError(`range ${offset}+${length} is outside of ${size} bytes`)
  }
}
