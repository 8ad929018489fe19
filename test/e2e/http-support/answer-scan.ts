/**
 * Finds the status lines in what a server sends, as it comes and however it is cut into pieces, without keeping it.
 * It reads no framing: after damaged requests nobody knows whose answer ends where.
 */

const STATUS_LINE = /HTTP\/1\.1 (\d{3}) [A-Z]/g
const STATUS_LINE_LENGTH = 'HTTP/1.1 200 O'.length
/** What a server answers with for want of anything better. */
const FAULT = 'ERR_INTERNAL'

export class AnswerScan {
  readonly statuses: string[] = []
  /** Whether the server owned up to a fault of its own. */
  hasFault = false
  /** The end of what came, where a status line or a fault may have begun: too short for a whole status line. */
  #tail = ''

  push(chunk: Buffer): void {
    const text = this.#tail + chunk.toString('latin1')
    for (const [, status = ''] of text.matchAll(STATUS_LINE)) this.statuses.push(status)
    this.hasFault ||= text.includes(FAULT)
    this.#tail = text.slice(-(STATUS_LINE_LENGTH - 1))
  }
}
