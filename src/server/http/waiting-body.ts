/**
 * Requests whose bodies cost what they carry while nobody reads them: behind another answer of their connection, or
 * while the file of an upload stands still. node keeps each piece as it came, and counts its bytes only.
 */
const { IncomingMessage } = process.getBuiltinModule('node:http')

const FIRST_JOINED_BYTES = 1_024

export class WaitingBodyRequest extends IncomingMessage {
  /** What came behind the piece that waits to be read, `#size` bytes; nothing unless one waits. */
  #joined: Buffer | undefined
  #size = 0

  override push(piece: unknown): boolean {
    if (!(piece instanceof Uint8Array)) this.#handOver()
    else if (this.readableLength > 0) return this.#join(piece)
    return super.push(piece)
  }

  override read(size?: number): unknown {
    const bytes: unknown = super.read(size)
    if (this.readableLength === 0) this.#handOver()
    return bytes
  }

  #join(piece: Uint8Array): boolean {
    const end = this.#size + piece.length
    let joined = this.#joined
    if (joined === undefined || end > joined.length) {
      const capacity = Math.max(end, 2 * (joined?.length ?? FIRST_JOINED_BYTES / 2))
      const larger = Buffer.allocUnsafeSlow(capacity) // only what was written of it is read
      joined?.copy(larger, 0, 0, this.#size)
      this.#joined = joined = larger
    }
    joined.set(piece, this.#size)
    this.#size = end
    return this.readableLength + end < this.readableHighWaterMark
  }

  #handOver(): void {
    const joined = this.#joined?.subarray(0, this.#size)
    this.#joined = undefined
    this.#size = 0
    if (joined !== undefined) super.push(joined)
  }
}
