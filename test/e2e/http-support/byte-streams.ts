/**
 * Streams of bytes for fuzzing an HTTP server: requests put together from parts that are right, odd and
 * wrong, then changed byte by byte, and WebSocket frames after an upgrade. Everything follows from a Random.
 */
import type { Random } from '../../random.ts'

export interface StreamTargets {
  readonly blob: string
  readonly image: string
  /** `/v1/images/REF` of an image that no stream changes. */
  readonly kept: string
}

/** What a client sends on one connection. */
export interface FuzzStream {
  /** Is answered with 206, for certain, and the rest is sent when the answer begins; empty when nothing is certain. */
  readonly opening: Buffer
  readonly rest: Buffer
}

/** Most requests of one stream: enough for a pipeline that overflows. */
const MAX_REQUESTS = 90

/** One connection's worth of bytes. Half of those that are requests begin with a range of data that is there. */
export function fuzzStream(chance: Random, targets: StreamTargets): FuzzStream {
  const nothing = Buffer.alloc(0)
  if (chance.once(6)) return { opening: nothing, rest: feedStream(chance) }
  const rest = requestStream(chance, targets)
  if (chance.once(2)) return { opening: nothing, rest }
  const opening = rangeOfData(chance, targets)
  switch (chance.next(3)) {
    case 0:
      return { opening: nothing, rest: Buffer.concat([mutate(opening, chance), rest]) }
    case 1:
      return { opening: nothing, rest: Buffer.concat([opening, rest]) }
    default:
      return { opening, rest }
  }
}

/** A request that nothing is wrong with, for data that is hot or cold, in one part or in two. */
function rangeOfData(chance: Random, { blob, kept }: StreamTargets): Buffer {
  const path = chance.of(blob, blob, `${kept}/-/raw`, `${kept}/-/dev/0`)
  const from = chance.next(path === blob ? 20_000_000 : 50_000)
  const spec = chance.of(
    `${from}-${from + chance.next(200_000)}`,
    `${from}-`,
    `-${1 + chance.next(60_000)}`,
    `0-${chance.next(100)},${from}-${from}`,
  )
  const head = `GET ${path} HTTP/1.1\r\nhost: localhost\r\nrange: bytes=${spec}\r\n\r\n`
  return Buffer.from(head, 'latin1')
}

function requestStream(chance: Random, targets: StreamTargets): Buffer {
  const count = chance.once(10) ? 1 + chance.next(MAX_REQUESTS) : 1 + chance.next(6)
  const parts: Buffer[] = []
  for (let i = 0; i < count; i++) parts.push(request(chance, targets))
  const bytes = Buffer.concat(parts)
  return chance.once(2) ? bytes : mutate(bytes, chance)
}

/** An upgrade to the feed and what a client might send over it. */
function feedStream(chance: Random): Buffer {
  const key = chance.of('dGhlIHNhbXBsZSBub25jZQ==', 'short', '')
  const version = chance.of('13', '13', '13', '12', 'x')
  const upgrade =
    `GET /v1/events${chance.of('', '?x=y')} HTTP/1.1\r\nhost: localhost\r\nconnection: ${chance.of('upgrade', 'keep-alive, Upgrade')}\r\n` +
    `upgrade: ${chance.of('websocket', 'websocket', 'WebSocket', 'websocket, h2c')}\r\nsec-websocket-version: ${version}\r\n` +
    `sec-websocket-key: ${chance.once(4) ? key : 'dGhlIHNhbXBsZSBub25jZQ=='}\r\n` +
    `${chance.once(3) ? 'sec-websocket-extensions: permessage-deflate; server_max_window_bits=99\r\n' : ''}\r\n`
  const parts: Buffer[] = [Buffer.from(upgrade, 'latin1')]
  const count = chance.next(chance.once(8) ? 500 : 12)
  for (let i = 0; i < count; i++) parts.push(frame(chance))
  const bytes = Buffer.concat(parts)
  return chance.once(3) ? mutate(bytes, chance) : bytes
}

function request(chance: Random, targets: StreamTargets): Buffer {
  const method = chance.of(
    'GET',
    'GET',
    'GET',
    'GET',
    'HEAD',
    'POST',
    'PUT',
    'DELETE',
    'OPTIONS',
    'TRACE',
    'CONNECT',
    'BREW',
  )
  const version = chance.once(12)
    ? chance.of('HTTP/1.0', 'HTTP/0.9', 'HTTP/2.0', 'HTTP/1.9', '')
    : 'HTTP/1.1'
  const headers: string[] = chance.once(12) ? [] : [chance.once(30) ? 'host: x' : 'host: localhost']
  if (chance.once(2)) headers.push(`range: ${range(chance)}`)
  for (let i = chance.once(3) ? chance.next(4) : 0; i > 0; i--) headers.push(header(chance))
  const [framing, body] = bodyOf(chance, method)
  headers.push(...framing)
  const eol = chance.once(20) ? '\n' : '\r\n'
  const head = `${method} ${target(chance, targets)} ${version}${eol}${headers.map((line) => line + eol).join('')}${eol}`
  return Buffer.concat([Buffer.from(head, 'latin1'), body])
}

function target(chance: Random, { blob, image }: StreamTargets): string {
  const files = `${image}/-/files`
  return chance.of(
    blob,
    blob,
    `${image}/-/raw`,
    `${image}/-/raw`,
    `${image}/-/dev/${chance.of('0', '1', '00', '-1', '65536')}`,
    image,
    files,
    `${files}/${chance.of('big/holes.bin', 'big', 'absent', '..', '%2e%2e/x', '%2f', '%00', '%', '%zz', '//big///')}`,
    `${files}/big?${chance.of('stat', 'limit=1', 'limit=-1', 'cursor=x', 'cursor=%00', 'limit=1&limit=2', '__proto__=x')}`,
    `http://${chance.of('localhost', '127.0.0.1:1', 'x')}${blob}`,
    '*',
    '/',
    '/livez',
    '/readyz?verbose',
    '/metrics',
    '/v1/stats',
    '/v1/jobs/x?wait=1ms',
    '/v1/images?limit=1',
    '/v1/images/fuzz/new:1',
    '/v1/blobs/fuzz',
    `/v1/blobs/demo/sha256:${'0'.repeat(64)}`,
    `/${'%41'.repeat(chance.next(2_000))}`,
    `${files}/${'a/'.repeat(chance.next(4_000))}`,
    '/v1/events',
    '/openapi.json#x',
  )
}

function range(chance: Random): string {
  const spec = (): string =>
    chance.of(
      `${chance.next(25_000_000)}-`,
      `${chance.next(400_000)}-${chance.next(500_000)}`,
      `-${chance.next(300_000)}`,
      '0-0',
      '-',
      '99999999999999999999-',
      '0-99999999999999999999',
      '',
    )
  const count = chance.once(20) ? 1 + chance.next(1_100) : 1 + chance.next(3)
  return `${chance.of('bytes', 'bytes', 'bytes', 'Bytes', 'items')}=${Array.from({ length: count }, spec).join(chance.of(',', ', ', ' ,'))}`
}

function header(chance: Random): string {
  return chance.of(
    'connection: close',
    'connection: keep-alive',
    'connection: upgrade',
    'upgrade: h2c',
    'upgrade: websocket',
    'expect: 100-continue',
    'expect: tea',
    'host: y',
    'host: a b',
    'if-none-match: *',
    'if-match: "x"',
    'if-range: W/"x"',
    'accept-encoding: gzip',
    'content-type: application/json',
    'content-encoding: gzip',
    'origin: http://evil.example',
    'x-request-id: \u00ff',
    'x y: z',
    ': z',
    ' folded',
    'te: trailers',
    'transfer-encoding: gzip',
    'content-length: 5',
    `x: ${'y'.repeat(chance.next(chance.once(10) ? 80_000 : 100))}`,
  )
}

/** Headers that frame a body, and the body: mostly right, sometimes not. */
function bodyOf(chance: Random, method: string): [string[], Buffer] {
  const has = method === 'POST' || method === 'PUT' || chance.once(10)
  if (!has || chance.once(6)) return [[], Buffer.alloc(0)]
  const body = chance.once(2)
    ? Buffer.from(JSON.stringify({ from: 'demo/plain:1' }))
    : chance.bytes(chance.next(2_000))
  if (chance.once(2)) {
    const length = chance.once(8) ? chance.of(body.length + 1_000, 0, 1e15, -1) : body.length
    return [[`content-length: ${length}`], body]
  }
  const size = chance.once(8)
    ? chance.of('zz', '-1', 'fffffffffffffffff', '')
    : body.length.toString(16)
  const end = chance.once(8) ? chance.of('', '0\r\n', '1\r\n') : '0\r\n\r\n'
  const chunks = Buffer.concat([Buffer.from(`${size}\r\n`), body, Buffer.from(`\r\n${end}`)])
  return [['transfer-encoding: chunked'], chunks]
}

/** RFC 6455 §5.2: masked as a client has to, mostly. */
function frame(chance: Random): Buffer {
  const opcode = chance.of(1, 1, 2, 0, 8, 9, 9, 10, 3, 15)
  const first = (chance.once(5) ? 0 : 0x80) | (chance.once(20) ? 0x40 : 0) | opcode
  const payload = chance.once(3)
    ? Buffer.from('{"type":"resync"}')
    : chance.bytes(chance.once(10) ? chance.next(3_000) : chance.next(126))
  const masked = chance.once(15) ? 0 : 0x80
  const length =
    payload.length < 126
      ? Buffer.from([masked | payload.length])
      : Buffer.from([masked | 126, payload.length >> 8, payload.length & 255])
  const claimed = chance.once(40) ? Buffer.from([masked | 127, ...chance.bytes(8)]) : length
  return Buffer.concat([
    Buffer.from([first]),
    claimed,
    masked === 0 ? Buffer.alloc(0) : Buffer.alloc(4), // a mask of zeros changes nothing
    payload,
  ])
}

function mutate(bytes: Buffer, chance: Random): Buffer {
  let result: Buffer = Buffer.from(bytes)
  for (let i = 1 + chance.next(5); i > 0 && result.length > 0; i--) {
    const at = chance.next(result.length)
    const to = Math.min(result.length, at + 1 + chance.next(40))
    switch (chance.next(5)) {
      case 0:
        result[at] = chance.next(256)
        break
      case 1:
        result = Buffer.concat([result.subarray(0, at), result.subarray(to)])
        break
      case 2:
        result = Buffer.concat([result.subarray(0, to), result.subarray(at)])
        break
      case 3:
        result = Buffer.concat([
          result.subarray(0, at),
          chance.bytes(1 + chance.next(8)),
          result.subarray(at),
        ])
        break
      default:
        result = result.subarray(0, to)
    }
  }
  return result
}
