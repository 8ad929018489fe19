/**
 * multipart/byteranges (RFC 9110 §14.6) as pure functions: the text before each part, the text at the end,
 * and the exact length of the whole, so that Content-Length is known before the first byte is read.
 */
import { randomBytes } from 'node:crypto'

import type { ByteRange } from './ranges.ts'

export interface MultipartPlan {
  readonly contentType: string
  readonly contentLength: number
  /** What stands before the bytes of each range, in order. */
  readonly partHeaders: readonly Buffer[]
  readonly trailer: Buffer
}

/** A boundary that no content can contain by guess: 96 random bits. */
export function createBoundary(): string {
  return `commonpage-${randomBytes(12).toString('hex')}`
}

export function planMultipart(
  ranges: readonly ByteRange[],
  size: number,
  partType: string,
  boundary: string,
): MultipartPlan {
  const partHeaders: Buffer[] = []
  let contentLength = 0
  for (const { offset, length } of ranges) {
    const header = Buffer.from(
      `${partHeaders.length === 0 ? '' : '\r\n'}--${boundary}\r\nContent-Type: ${partType}\r\n` +
        `Content-Range: ${contentRange(offset, length, size)}\r\n\r\n`,
      'latin1',
    )
    partHeaders.push(header)
    contentLength += header.length + length
  }
  const trailer = Buffer.from(`\r\n--${boundary}--\r\n`, 'latin1')
  return {
    contentType: `multipart/byteranges; boundary=${boundary}`,
    contentLength: contentLength + trailer.length,
    partHeaders,
    trailer,
  }
}

/** RFC 9110 §14.4. */
export function contentRange(offset: number, length: number, size: number): string {
  return `bytes ${offset}-${offset + length - 1}/${size}`
}
