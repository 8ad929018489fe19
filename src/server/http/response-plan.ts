/**
 * Decides what a GET or HEAD of a data route is answered with: preconditions, then the range (RFC 9110
 * §13.2.2), down to status, headers and the byte ranges to send. Pure: no socket, no data.
 */
import { AppError } from '../../core/index.ts'
import type { ConditionalHeaders } from './conditional.ts'
import { evaluatePreconditions, preconditionFailed, rangeApplies } from './conditional.ts'
import { MAX_RANGES } from './limits.ts'
import type { MultipartPlan } from './multipart.ts'
import { contentRange, createBoundary, planMultipart } from './multipart.ts'
import type { ByteRange } from './ranges.ts'
import { parseRange } from './ranges.ts'
import type { Representation } from './representation.ts'

export interface DataRequestHeaders extends ConditionalHeaders {
  readonly range?: string | undefined
}

export interface ResponsePlan {
  readonly status: 200 | 206 | 304
  /** Names and values in turn. */
  readonly headers: readonly string[]
  readonly contentLength: number
  /** What to send; empty for HEAD, 304 and empty representations. */
  readonly ranges: readonly ByteRange[]
  /** Present when `ranges` go out as multipart/byteranges. */
  readonly multipart?: MultipartPlan
}

const NOTHING: readonly ByteRange[] = []

/** @throws ERR_HTTP_PRECONDITION_FAILED, ERR_HTTP_RANGE_NOT_SATISFIABLE, ERR_HTTP_TOO_MANY_RANGES */
export function planResponse(
  head: boolean,
  request: DataRequestHeaders,
  representation: Representation,
): ResponsePlan {
  switch (evaluatePreconditions(request, representation.etag)) {
    case 'failed':
      throw preconditionFailed('if-match', representation.etag)
    case 'not-modified':
      return { status: 304, headers: representation.headers, contentLength: 0, ranges: NOTHING }
    case 'proceed':
      break
  }
  // RFC 9110 §14.2: Range is defined for GET only, so HEAD tells the size of the whole.
  if (head || request.range === undefined || !rangeApplies(request, representation.etag)) {
    return planWhole(head, representation)
  }
  const { size } = representation
  const outcome = parseRange(request.range, size)
  switch (outcome.kind) {
    case 'whole':
      return planWhole(head, representation)
    case 'ranges':
      return planRanges(outcome.ranges, representation)
    case 'unsatisfiable':
      throw notSatisfiable(
        `no range of '${shorten(request.range)}' lies inside of ${size} bytes`,
        size,
      )
    case 'malformed':
      throw notSatisfiable(
        `'${shorten(request.range)}' is not a range, expected bytes=FIRST-LAST`,
        size,
      )
    case 'too-many':
      throw new AppError(
        'ERR_HTTP_TOO_MANY_RANGES',
        `the request has more than ${MAX_RANGES} ranges`,
        { hint: 'split it into several requests' },
      )
  }
}

function planWhole(head: boolean, representation: Representation): ResponsePlan {
  const { size, contentType, headers } = representation
  return {
    status: 200,
    headers: ['Content-Type', contentType, 'Content-Length', String(size), ...headers],
    contentLength: size,
    ranges: head || size === 0 ? NOTHING : [{ offset: 0, length: size }],
  }
}

function planRanges(ranges: readonly ByteRange[], representation: Representation): ResponsePlan {
  const { size, contentType, headers } = representation
  const [first] = ranges
  if (ranges.length === 1 && first !== undefined) {
    const { offset, length } = first
    return {
      status: 206,
      headers: [
        'Content-Type',
        contentType,
        'Content-Length',
        String(length),
        'Content-Range',
        contentRange(offset, length, size),
        ...headers,
      ],
      contentLength: length,
      ranges,
    }
  }
  const multipart = planMultipart(ranges, size, contentType, createBoundary())
  return {
    status: 206,
    headers: [
      'Content-Type',
      multipart.contentType,
      'Content-Length',
      String(multipart.contentLength),
      ...headers,
    ],
    contentLength: multipart.contentLength,
    ranges,
    multipart,
  }
}

function notSatisfiable(message: string, size: number): AppError {
  return new AppError('ERR_HTTP_RANGE_NOT_SATISFIABLE', message, { details: { sizeBytes: size } })
}

function shorten(text: string): string {
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`
}
