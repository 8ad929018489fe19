/**
 * What every request has to be before any route sees it: HTTP/1.x, for one host, with a target and a framing
 * that have one meaning only. Two layers that read one request differently can be played against each other,
 * so what the parser lets pass and the specification does not is refused here. Pure.
 */
import type { IncomingMessage } from 'node:http'

import { AppError } from '../../core/index.ts'

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
/** RFC 9112 §3.2: uri-host with an optional port, or nothing. */
const HOST = /^(?:[\w\-.~%!$&'()*+,;=]*|\[[\da-fA-F:.]+\])(?::\d{0,5})?$/

/**
 * @param target the request target as it was sent
 * @throws ERR_HTTP_VERSION_UNSUPPORTED, ERR_HTTP_METHOD_UNKNOWN, ERR_HTTP_MALFORMED,
 * ERR_HTTP_CODING_UNSUPPORTED
 */
export function checkRequest(request: IncomingMessage, target: string): void {
  if (request.httpVersionMajor !== 1) {
    // RFC 9110 §15.6.6; node's parser takes 0.9 and 2.0 as well
    throw new AppError(
      'ERR_HTTP_VERSION_UNSUPPORTED',
      `HTTP/${request.httpVersion} is not spoken here, HTTP/1.1 is`,
    )
  }
  if (!METHODS.has(request.method ?? '')) {
    throw new AppError('ERR_HTTP_METHOD_UNKNOWN', `${request.method} is not implemented`, {
      hint: `the methods are ${[...METHODS].join(', ')}`,
    })
  }
  if (target.includes('#')) {
    // RFC 9112 §3.2: a fragment is no part of any form of request target
    throw malformed("the request target has a '#'", "write '#' in a path as %23")
  }
  checkHost(request)
  checkCoding(request)
}

/** RFC 9112 §3.2: 400 without Host (since 1.1), with more than one, and with one that is no host. */
function checkHost({ rawHeaders, headers, httpVersionMinor }: IncomingMessage): void {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? ''
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  if (hosts === 0 && httpVersionMinor === 0) return
  if (hosts !== 1) throw malformed(`the request has ${hosts} Host headers, it needs one`)
  if (!HOST.test(headers.host ?? '')) throw malformed('the Host header is not a host and port')
}

/** RFC 9112 §6.1: no coding but chunked is understood, and HTTP/1.0 has none. */
function checkCoding({ headers, httpVersionMinor }: IncomingMessage): void {
  const coding = headers['transfer-encoding']
  if (coding === undefined) return
  if (httpVersionMinor === 0) throw malformed('HTTP/1.0 has no Transfer-Encoding')
  if (coding.toLowerCase() === 'chunked') return
  throw new AppError(
    'ERR_HTTP_CODING_UNSUPPORTED',
    'the Transfer-Encoding is not chunked, no other is understood',
  )
}

function malformed(message: string, hint?: string): AppError {
  return new AppError('ERR_HTTP_MALFORMED', message, hint === undefined ? {} : { hint })
}
