/**
 * What is no good HTTP request, byte by byte, and what each has to be answered with. One table for the
 * application alone and for a whole server. Sections are those of RFC 9112 unless they say otherwise.
 */

export interface MalformedRequest {
  readonly name: string
  /** One character for each byte. */
  readonly bytes: string
  readonly status: number
  readonly code: string
  /** The connection cannot be used any more. */
  readonly closes: boolean
}

/** Requests that look odd and have to be served all the same. */
export interface OddRequest {
  readonly name: string
  readonly bytes: string
  readonly statuses: readonly number[]
}

export interface MalformedTargets {
  /** Of at least two bytes. */
  readonly blob: string
  /** `/v1/images/REF` of an image that is there. */
  readonly image: string
}

const HOST = 'host: localhost\r\n'
const CHUNKED = 'transfer-encoding: chunked\r\n'

export function malformedRequests({ blob, image }: MalformedTargets): MalformedRequest[] {
  const rows: MalformedRequest[] = []
  const add = (
    status: number,
    code: string,
    closes: boolean,
    list: Record<string, string>,
  ): void => {
    for (const [name, bytes] of Object.entries(list))
      rows.push({ name, bytes, status, code, closes })
  }
  const get = (target: string, headers = '', version = 'HTTP/1.1'): string =>
    `GET ${target} ${version}\r\n${HOST}${headers}\r\n`
  const upload = (headers: string, body: string, version = 'HTTP/1.1'): string =>
    `POST /v1/blobs/demo ${version}\r\n${HOST}${headers}\r\n${body}`

  add(400, 'ERR_HTTP_MALFORMED', true, {
    'no HTTP': 'NBDMAGIC nonsense\r\n\r\n',
    'TLS to a plain port': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
    'an unknown method': `BREW /livez HTTP/1.1\r\n${HOST}\r\n`,
    'a method in lower case': `get /livez HTTP/1.1\r\n${HOST}\r\n`,
    'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'HTTP/1.2': get('/livez', '', 'HTTP/1.2'),
    'HTTP/11': get('/livez', '', 'HTTP/11'),
    'HTTP/1.1 in lower case': get('/livez', '', 'http/1.1'),
    'a line that ends in LF (§2.2)': `GET /livez HTTP/1.1\n${HOST}\r\n`,
    'a header that ends in LF (§2.2)': 'GET /livez HTTP/1.1\r\nhost: test\n\r\n',
    'a bare CR in a header (§2.2)': get('/livez', 'x: a\rb\r\n'),
    'NUL in a header (RFC 9110 §5.5)': get('/livez', 'x: a\0b\r\n'),
    'a folded header (§5.2)': get('/livez', 'x: a\r\n b\r\n'),
    'a space before the colon (§5.1)': get('/livez', 'x : a\r\n'),
    'a header without a name': get('/livez', ': a\r\n'),
    'a header without a colon': get('/livez', 'nocolon\r\n'),
    'a space in a header name': get('/livez', 'x y: a\r\n'),
    'a space before the first header (§2.2)': `GET /livez HTTP/1.1\r\n ${HOST}\r\n`,
    'a tab in the target': get('/livez\tx'),
    'a control character in the target': get('/livez\x01'),
    'DEL in the target': get('/livez\x7f'),
    'a byte outside ASCII in the target': get(`${image}/-/files/caf\xe9`),
    'UTF-8 in the target': get(`${image}/-/files/caf\xc3\xa9`),
    'a target in authority-form (§3.2.3)': get('example.org:80'),
    'a target without a slash': get('livez'),
    'an empty target': `GET  HTTP/1.1\r\n${HOST}\r\n`,
    'two equal lengths (§6.3)': upload('content-length: 3\r\ncontent-length: 3\r\n', 'abc'),
    'two unequal lengths (§6.3)': upload('content-length: 3\r\ncontent-length: 4\r\n', 'abcd'),
    'a list of lengths (§6.3)': upload('content-length: 3, 3\r\n', 'abc'),
    'a negative length': upload('content-length: -1\r\n', ''),
    'a signed length': upload('content-length: +3\r\n', 'abc'),
    'a length in hex': upload('content-length: 0x3\r\n', 'abc'),
    'a length with a fraction': upload('content-length: 3.0\r\n', 'abc'),
    'an empty length': upload('content-length:\r\n', ''),
    'a length beyond 64 bits': upload('content-length: 99999999999999999999999\r\n', 'abc'),
    'length, then coding (§6.1)': upload(`content-length: 3\r\n${CHUNKED}`, '0\r\n\r\n'),
    'coding, then length (§6.1)': upload(`${CHUNKED}content-length: 3\r\n`, '0\r\n\r\n'),
    'chunked twice (§6.1)': upload(CHUNKED + CHUNKED, '0\r\n\r\n'),
    'chunked not last (§6.1)': upload('transfer-encoding: chunked, gzip\r\n', '0\r\n\r\n'),
    'a coding in HTTP/1.0 (§6.1)': upload(CHUNKED, '0\r\n\r\n', 'HTTP/1.0'),
    'a chunk size that is no number': upload(CHUNKED, 'zz\r\nabc\r\n0\r\n\r\n'),
    'a negative chunk size': upload(CHUNKED, '-1\r\nabc\r\n0\r\n\r\n'),
    'a chunk size with 0x': upload(CHUNKED, '0x3\r\nabc\r\n0\r\n\r\n'),
    'a chunk size beyond 64 bits': upload(CHUNKED, 'fffffffffffffffff\r\nabc\r\n0\r\n\r\n'),
    'a chunk longer than its size': upload(CHUNKED, '3\r\nabcX\r\n0\r\n\r\n'),
    'chunks that end in LF (§2.2)': upload(CHUNKED, '3\nabc\n0\n\n'),
    'a chunk extension of 40 KiB': upload(CHUNKED, `3;${'a'.repeat(40_000)}\r\nabc\r\n0\r\n\r\n`),
    'a coding with a vertical tab': upload('transfer-encoding: \x0bchunked\r\n', '0\r\n\r\n'),
    'a bad trailer': upload(CHUNKED, '3\r\nabc\r\n0\r\nno colon\r\n\r\n'),
  })
  add(400, 'ERR_HTTP_MALFORMED', true, {
    'an upgrade to the feed with two Hosts (§3.2)': get(
      '/v1/events',
      'host: other\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
    ),
  })
  add(400, 'ERR_HTTP_MALFORMED', false, {
    'no Host (§3.2)': 'GET /livez HTTP/1.1\r\n\r\n',
    'two Hosts (§3.2)': get('/livez', 'Host: other\r\n'),
    'two equal Hosts (§3.2)': get('/livez', HOST),
    'a Host with a space (§3.2)': 'GET /livez HTTP/1.1\r\nhost: a b\r\n\r\n',
    'a Host with a path (§3.2)': 'GET /livez HTTP/1.1\r\nhost: a/b\r\n\r\n',
    'a Host with a user (§3.2)': 'GET /livez HTTP/1.1\r\nhost: user@a\r\n\r\n',
    'a Host with a bad port (§3.2)': 'GET /livez HTTP/1.1\r\nhost: a:80x\r\n\r\n',
    'a list of Hosts (§3.2)': 'GET /livez HTTP/1.1\r\nhost: a,b:1,c\r\n\r\n',
    'a fragment behind a blob (§3.2)': get(`${blob}#x`),
    'a fragment behind a file (§3.2)': get(`${image}/-/files/a#b`),
    'a fragment behind a query (§3.2)': get('/livez?x#y'),
  })
  add(400, 'ERR_HTTP_HEADERS_TOO_LARGE', true, {
    'a header of 1 MiB': get('/livez', `x: ${'a'.repeat(1 << 20)}\r\n`),
    'a target of 70 KiB': get(`/${'a'.repeat(70 * 1024)}`),
    '20,000 headers': get('/livez', 'a:\r\n'.repeat(20_000)),
    '3,000 headers, the last one meaningful': get(
      blob,
      `${'a: b\r\n'.repeat(3_000)}range: bytes=0-0\r\n`,
    ),
  })
  add(501, 'ERR_HTTP_METHOD_UNKNOWN', true, {
    CONNECT: `CONNECT example.org:80 HTTP/1.1\r\n${HOST}\r\n`,
  })
  add(501, 'ERR_HTTP_METHOD_UNKNOWN', false, {
    TRACE: `TRACE /livez HTTP/1.1\r\n${HOST}\r\n`,
    'TRACE of a file': `TRACE ${image}/-/raw HTTP/1.1\r\n${HOST}\r\n`,
    PROPFIND: `PROPFIND ${blob} HTTP/1.1\r\n${HOST}\r\n`,
    QUERY: `QUERY /v1/images HTTP/1.1\r\n${HOST}\r\n`,
  })
  add(501, 'ERR_HTTP_CODING_UNSUPPORTED', true, {
    'a body in gzip, chunked (§6.1)': upload(
      'transfer-encoding: gzip, chunked\r\n',
      '3\r\nabc\r\n0\r\n\r\n',
    ),
    'a body in gzip (§6.1)': upload('transfer-encoding: gzip\r\n', 'abc'),
    'a coding that is nearly chunked': upload('transfer-encoding: xchunked\r\n', '0\r\n\r\n'),
    'identity (§7)': upload('transfer-encoding: identity\r\n', 'abc'),
  })
  add(505, 'ERR_HTTP_VERSION_UNSUPPORTED', true, {
    'HTTP/0.9': 'GET /livez\r\n\r\n',
    'HTTP/0.9, said': get('/livez', '', 'HTTP/0.9'),
    'HTTP/2.0': get('/livez', '', 'HTTP/2.0'),
  })
  add(417, 'ERR_HTTP_EXPECTATION_FAILED', true, {
    'an expectation that is not known': get('/livez', 'expect: tea\r\n'),
  })
  add(415, 'ERR_HTTP_MEDIA_TYPE_UNSUPPORTED', true, {
    'an upload in gzip': upload('content-encoding: gzip\r\ncontent-length: 3\r\n', 'abc'),
    'JSON that is none': `PUT ${image} HTTP/1.1\r\n${HOST}content-type: ;;;\r\ncontent-length: 2\r\n\r\n{}`,
  })
  add(400, 'ERR_HTTP_REQUEST_INVALID', true, {
    'an upload of a part': upload('content-range: bytes 5-7/8\r\ncontent-length: 3\r\n', 'abc'),
  })
  add(413, 'ERR_HTTP_BODY_TOO_LARGE', true, {
    'JSON of 5 MB': `PUT ${image} HTTP/1.1\r\n${HOST}content-type: application/json\r\ncontent-length: 5000000\r\n\r\n{`,
    'JSON of 100 kB in chunks': `PUT ${image} HTTP/1.1\r\n${HOST}content-type: application/json\r\n${CHUNKED}\r\n186a0\r\n${' '.repeat(100_000)}`,
  })
  return rows
}

export function oddRequests({ blob, image }: MalformedTargets): OddRequest[] {
  const row = (name: string, bytes: string, ...statuses: number[]): OddRequest => ({
    name,
    bytes,
    statuses,
  })
  const get = (target: string, headers = ''): string =>
    `GET ${target} HTTP/1.1\r\n${HOST}${headers}\r\n`
  return [
    row('absolute-form (§3.2.2)', get('http://localhost:1/livez'), 200),
    row(
      'absolute-form of an image',
      get(`http://localhost${image}/-/raw`, 'range: bytes=0-1\r\n'),
      206,
    ),
    row('absolute-form of a blob', get(`HTTPS://[::1]:8080${blob}`, 'range: bytes=0-1\r\n'), 206),
    row('absolute-form without a path', get('http://localhost?x'), 200),
    row('asterisk-form (§3.2.4)', `OPTIONS * HTTP/1.1\r\n${HOST}\r\n`, 204),
    row('empty lines before the request (§2.2)', `\r\n\r\n${get('/livez')}`, 200),
    row('an empty Host (§3.2)', 'GET /livez HTTP/1.1\r\nhost:\r\n\r\n', 200),
    row('a Host of IPv6', 'GET /livez HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n', 200),
    row('HTTP/1.0 without Host', 'GET /livez HTTP/1.0\r\n\r\n', 200),
    row('HTTP/1.0 of a range', `GET ${blob} HTTP/1.0\r\nrange: bytes=0-1\r\n\r\n`, 206),
    row(
      'a GET with a body, then another',
      `${get('/livez', 'content-length: 3\r\n')}abc${get('/livez')}`,
      200,
      200,
    ),
    row(
      'an upgrade to h2c (RFC 9110 §7.8)',
      get(
        blob,
        'range: bytes=0-1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n',
      ),
      206,
    ),
    row(
      'an upgrade to WebSocket elsewhere',
      get('/livez', 'connection: upgrade\r\nupgrade: websocket\r\n'),
      200,
    ),
    row(
      'an upgrade to something else at the feed',
      get('/v1/events', 'connection: upgrade\r\nupgrade: h2c\r\n'),
      426,
    ),
    row('an empty Upgrade', get('/livez', 'connection: upgrade\r\nupgrade:\r\n'), 200),
    row('the feed without an upgrade', get('/v1/events'), 426),
    row(
      'a chunked body with extensions and trailers',
      `POST /v1/blobs/demo HTTP/1.1\r\n${HOST}${CHUNKED}\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n${get('/livez')}`,
      201,
      200,
    ),
    row(
      'chunked in capitals',
      `POST /v1/blobs/demo HTTP/1.1\r\n${HOST}Transfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n`,
      201,
    ),
    row('two Range headers', get(blob, 'range: bytes=0-0\r\nrange: bytes=1-1\r\n'), 416),
    row(
      'a body that nobody wants',
      `POST /livez HTTP/1.1\r\n${HOST}content-length: 3\r\n\r\nabc`,
      405,
    ),
    row(
      'good, bad and unreachable',
      `${get('/livez')}${get(blob, 'range: bytes=0-1\r\n')}NONSENSE\r\n\r\n${get('/livez')}`,
      200,
      206,
      400,
    ),
    row(
      'good, then a version that is not',
      `${get(blob, 'range: bytes=1-1\r\n')}GET / HTTP/2.0\r\n${HOST}\r\n`,
      206,
      505,
    ),
    row(
      'good, then CONNECT',
      `${get(blob, 'range: bytes=1-1\r\n')}CONNECT a:1 HTTP/1.1\r\n${HOST}\r\n`,
      206,
      501,
    ),
    row(
      'a smuggled request behind two lengths',
      `POST /v1/blobs/demo HTTP/1.1\r\n${HOST}content-length: 0\r\ncontent-length: 44\r\n\r\nDELETE /v1/images/demo/x HTTP/1.1\r\nhost: a\r\n\r\n`,
      400,
    ),
  ]
}
