/** Error codes of the HTTP front end: requests that it refuses itself. What the planes refuse has their codes. */
import { defineErrors } from '../../core/index.ts'

export const HTTP_ERRORS = defineErrors({
  ERR_HTTP_ROUTE_NOT_FOUND: {
    http: 404,
    exit: 3,
    doc: 'No route has this path; `/openapi.json` lists them.',
  },
  ERR_HTTP_METHOD_NOT_ALLOWED: {
    http: 405,
    exit: 2,
    doc: 'The resource has no such method; the `Allow` header lists what it has.',
  },
  ERR_HTTP_REQUEST_INVALID: {
    http: 400,
    exit: 2,
    doc: 'A parameter or body of the request is not of the documented form.',
  },
  ERR_HTTP_PATH_INVALID: {
    http: 400,
    exit: 2,
    doc: 'A path is not percent-encoded as it must be, or has a `..` segment, an encoded slash or a NUL byte.',
  },
  ERR_HTTP_HEADERS_TOO_LARGE: {
    http: 400,
    exit: 2,
    doc: 'The request line and headers are longer than 64 KiB, or are too many; ask for fewer ranges at once.',
  },
  ERR_HTTP_TOO_MANY_RANGES: {
    http: 400,
    exit: 2,
    doc: 'More than 1,024 ranges in one request; split the request.',
  },
  ERR_HTTP_RANGE_NOT_SATISFIABLE: {
    http: 416,
    exit: 2,
    doc: 'No range of the request lies inside the resource, or the Range header is malformed; `Content-Range` has the size.',
  },
  ERR_HTTP_PRECONDITION_FAILED: {
    http: 412,
    exit: 4,
    doc: 'If-Match names no current entity tag, or If-None-Match of a change names the current one: what is behind the name is not what was expected.',
  },
  ERR_HTTP_FORMAT_UNSUPPORTED: {
    http: 400,
    exit: 2,
    doc: 'The import format is not supported.',
  },
  ERR_HTTP_BODY_TOO_LARGE: {
    http: 413,
    exit: 1,
    doc: 'The body is larger than this request allows.',
  },
  ERR_HTTP_HEADERS_TIMEOUT: {
    http: 408,
    exit: 1,
    doc: 'The header of the request was not complete 30 s after its first byte.',
  },
  ERR_HTTP_BODY_TIMEOUT: {
    http: 408,
    exit: 1,
    doc: 'The body of the request came too slowly.',
  },
  ERR_HTTP_UPLOAD_ABORTED: {
    http: 400,
    exit: 1,
    doc: 'The connection ended before the body was complete; nothing of it is kept.',
  },
  ERR_HTTP_MEDIA_TYPE_UNSUPPORTED: {
    http: 415,
    exit: 2,
    doc: 'The Content-Type or the Content-Encoding of the body is not one that this route reads.',
  },
  ERR_HTTP_PIPELINE_FULL: {
    http: 503,
    exit: 1,
    doc: 'Too many requests wait on this connection; read answers before sending more, or use more connections.',
  },
  ERR_HTTP_EVENTS_EXHAUSTED: {
    http: 503,
    exit: 1,
    doc: 'Too many clients follow the event feed; close one or poll /v1/stats.',
  },
  ERR_HTTP_UPGRADE_REQUIRED: {
    http: 426,
    exit: 2,
    doc: 'The event feed speaks WebSocket only.',
  },
  ERR_HTTP_EXPECTATION_FAILED: {
    http: 417,
    exit: 2,
    doc: 'The Expect header asks for something other than 100-continue.',
  },
  ERR_HTTP_CROSS_SITE: {
    http: 403,
    exit: 4,
    doc: 'A page of another site tried to change something, or to follow the event feed, through a browser.',
  },
  ERR_HTTP_HOST_NOT_ALLOWED: {
    http: 421,
    exit: 4,
    doc: 'The Host header has a name that the server does not know to be its own: a page of another site may have made that name mean this machine. `--http-allowed-hosts` adds names.',
  },
  ERR_HTTP_VERSION_UNSUPPORTED: {
    http: 505,
    exit: 2,
    doc: 'The request is in a version of HTTP other than 1.0 and 1.1.',
  },
  ERR_HTTP_METHOD_UNKNOWN: {
    http: 501,
    exit: 2,
    doc: 'No resource of the server has this method: CONNECT and TRACE, and the methods of WebDAV.',
  },
  ERR_HTTP_CODING_UNSUPPORTED: {
    http: 501,
    exit: 2,
    doc: 'The body has a Transfer-Encoding other than chunked.',
  },
  ERR_HTTP_MALFORMED: { http: 400, exit: 2, doc: 'The request is not valid HTTP/1.1.' },
})

export type HttpErrorCode = keyof typeof HTTP_ERRORS
