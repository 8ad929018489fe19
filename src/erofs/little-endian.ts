/** Reads the 64-bit fields that DataView offers only as bigint. EROFS integers are little-endian. */

export const TWO_TO_32 = 0x1_0000_0000

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Exact up to 2^53, rounded beyond: compare with a limit before use. */
export function readUint64(view: DataView, off: number): number {
  return view.getUint32(off + 4, true) * TWO_TO_32 + view.getUint32(off, true)
}

/** Exact from -2^53 to 2^53, rounded beyond. */
export function readInt64(view: DataView, off: number): number {
  return view.getInt32(off + 4, true) * TWO_TO_32 + view.getUint32(off, true)
}
