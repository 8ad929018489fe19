import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { promisify } from 'node:util'

import fc from 'fast-check'

import { digestToRaw } from '../../src/core/index.ts'
import { missing } from '../requires.ts'
import { readMultipart } from './multipart.ts'
import { RawClient } from './raw-client.ts'
import { SMALL_TEXT, startTestServer } from './test-server.ts'

const run = promisify(execFile)
const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 2_000 : 60
const server = await startTestServer()
after(() => server[Symbol.asyncDispose]())
const { big, blob, image, planes } = server

const BLOB = `/v1/blobs/demo/${blob}`
const TAGGED = '/v1/images/demo/team/app:1'
const PINNED = `/v1/images/demo/team/app@${image}`

async function get(path: string, headers: Record<string, string> = {}, method = 'GET') {
  const response = await fetch(server.url + path, { method, headers })
  return {
    status: response.status,
    headers: response.headers,
    body: Buffer.from(await response.arrayBuffer()),
  }
}

function assertNothingHeld(): void {
  assert.equal(planes.ledger.heldLeases, 0)
  assert.equal(planes.ledger.doubleReleases, 0)
}

describe('bytes', () => {
  for (const path of [
    BLOB,
    `${TAGGED}/-/raw`,
    `${PINNED}/-/raw`,
    `${TAGGED}/-/dev/0`,
    `${TAGGED}/-/files/big.bin`,
  ]) {
    test(`whole: ${path}`, async () => {
      const { status, headers, body } = await get(path)
      assert.equal(status, 200)
      assert.equal(headers.get('content-length'), '1000000')
      assert.equal(headers.get('accept-ranges'), 'bytes')
      assert.equal(headers.get('content-type'), 'application/octet-stream')
      assert.equal(headers.get('x-content-type-options'), 'nosniff')
      assert.equal(headers.get('content-encoding'), null)
      assert.match(headers.get('etag') ?? '', /^"[^"]+"$/)
      assert.ok(headers.get('x-request-id'))
      assert.ok(body.equals(big))
      assertNothingHeld()
    })

    test(`HEAD ignores Range and reads nothing: ${path}`, async () => {
      const { leases, copies } = planes.ledger
      const { status, headers } = await get(path, { range: 'bytes=0-9' }, 'HEAD')
      assert.equal(status, 200)
      assert.equal(headers.get('content-length'), '1000000')
      assert.equal(headers.get('accept-ranges'), 'bytes')
      assert.deepEqual([planes.ledger.leases, planes.ledger.copies], [leases, copies])
    })
  }

  test('a single range has everything that clients insist on', async () => {
    const { status, headers, body } = await get(BLOB, { range: 'bytes=100-199' })
    assert.equal(status, 206)
    assert.equal(headers.get('content-range'), 'bytes 100-199/1000000')
    assert.equal(headers.get('content-length'), '100')
    assert.equal(headers.get('accept-ranges'), 'bytes')
    assert.equal(headers.get('content-type'), 'application/octet-stream')
    assert.equal(headers.get('etag'), `"${blob}"`)
    assert.equal(headers.get('repr-digest'), `sha-256=:${digestToRaw(blob).toString('base64')}:`)
    assert.equal(headers.get('cache-control'), 'public, max-age=31536000, immutable')
    assert.ok(body.equals(big.subarray(100, 200)))
  })

  test('caching follows the name: tags are asked again, digests never', async () => {
    assert.equal(
      (await get(`${TAGGED}/-/raw`, {}, 'HEAD')).headers.get('cache-control'),
      'public, no-cache',
    )
    assert.match(
      (await get(`${PINNED}/-/raw`, {}, 'HEAD')).headers.get('cache-control') ?? '',
      /immutable/,
    )
  })

  test('no content-coding whatever is accepted', async () => {
    const { headers } = await get(BLOB, {
      'accept-encoding': 'zstd;q=1.0, gzip;q=0.8',
      range: 'bytes=0-99',
    })
    assert.equal(headers.get('content-encoding'), null)
    assert.equal(headers.get('content-length'), '100')
  })

  test('an empty file is whole, whatever the range', async () => {
    const { status, headers, body } = await get(`${TAGGED}/-/files/empty`, { range: 'bytes=0-' })
    assert.equal(status, 200)
    assert.equal(headers.get('content-length'), '0')
    assert.equal(body.length, 0)
  })

  test('304 repeats what caches need', async () => {
    const { status, headers, body } = await get(BLOB, {
      'if-none-match': `"${blob}"`,
      range: 'bytes=0-1',
    })
    assert.equal(status, 304)
    assert.equal(headers.get('etag'), `"${blob}"`)
    assert.match(headers.get('cache-control') ?? '', /immutable/)
    assert.equal(body.length, 0)
  })

  test('416 tells the size', async () => {
    const { status, headers, body } = await get(BLOB, { range: 'bytes=1000000-' })
    assert.equal(status, 416)
    assert.equal(headers.get('content-range'), 'bytes */1000000')
    assert.equal(headers.get('content-length'), String(body.length))
    assert.equal(JSON.parse(body.toString()).code, 'ERR_HTTP_RANGE_NOT_SATISFIABLE')
  })

  test('unknown query parameters are ignored', async () => {
    assert.equal((await get(`${BLOB}?ns=docker.io`, { range: 'bytes=0-0' })).status, 206)
  })

  test('any single range equals the bytes', async () => {
    const range = fc.tuple(fc.nat(999_999), fc.oneof(fc.nat(20_000), fc.nat(999_999)))
    await fc.assert(
      fc.asyncProperty(range, fc.boolean(), async ([first, length], cold) => {
        planes.weather.cold = cold
        const last = Math.min(first + length, 999_999)
        const { status, body } = await get(`${PINNED}/-/dev/0`, { range: `bytes=${first}-${last}` })
        assert.equal(status, 206)
        assert.ok(body.equals(big.subarray(first, last + 1)))
      }),
      { numRuns: RUNS, seed: 11 },
    )
    planes.weather.cold = false
    assertNothingHeld()
  })
})

describe('multipart', () => {
  test('parts come in the order of the request, none joined', async () => {
    const { status, headers, body } = await get(BLOB, { range: 'bytes=500-509,0-9,10-19,-5' })
    assert.equal(status, 206)
    assert.equal(headers.get('content-range'), null)
    assert.equal(headers.get('content-length'), String(body.length))
    const parts = readMultipart(headers.get('content-type') ?? '', body)
    assert.deepEqual(
      parts.map((part) => part.contentRange),
      [
        'bytes 500-509/1000000',
        'bytes 0-9/1000000',
        'bytes 10-19/1000000',
        'bytes 999995-999999/1000000',
      ],
    )
    assert.deepEqual(
      new Set(parts.map((part) => part.contentType)),
      new Set(['application/octet-stream']),
    )
  })

  test('1,024 ranges are answered, 1,025 give 400', async () => {
    const header = (count: number) =>
      `bytes=${Array.from({ length: count }, (_, i) => `${900_000 + i * 3}-${900_001 + i * 3}`).join(',')}`
    const { status, headers, body } = await get(BLOB, { range: header(1024) })
    assert.equal(status, 206)
    const parts = readMultipart(headers.get('content-type') ?? '', body)
    assert.equal(parts.length, 1024)
    for (const [i, part] of parts.entries()) {
      assert.ok(part.bytes.equals(big.subarray(900_000 + i * 3, 900_002 + i * 3)))
    }
    const refused = await get(BLOB, { range: header(1025) })
    assert.equal(refused.status, 400)
    assert.equal(JSON.parse(refused.body.toString()).code, 'ERR_HTTP_TOO_MANY_RANGES')
  })

  test('any set of ranges equals the bytes, warm and cold, beyond the pin budget too', async () => {
    const range = fc.tuple(fc.nat(999_999), fc.oneof(fc.nat(300), fc.nat(40_000), fc.nat(200_000)))
    await fc.assert(
      fc.asyncProperty(
        fc.array(range, { minLength: 2, maxLength: 12 }),
        fc.boolean(),
        async (asked, cold) => {
          planes.weather.cold = cold
          planes.weather.pinBudgetBytes = 65_536
          const spans = asked.map(
            ([first, length]) => [first, Math.min(first + length, 999_999)] as const,
          )
          const total = spans.reduce((sum, [first, last]) => sum + last - first + 1, 0)
          const header = `bytes=${spans.map(([first, last]) => `${first}-${last}`).join(', ')}`
          const { status, headers, body } = await get(BLOB, { range: header })
          if (total > big.length) {
            assert.equal(status, 200)
            assert.ok(body.equals(big))
            return
          }
          assert.equal(status, 206)
          const parts = readMultipart(headers.get('content-type') ?? '', body)
          assert.equal(parts.length, spans.length)
          for (const [i, [first, last]] of spans.entries()) {
            assert.equal(parts[i]?.contentRange, `bytes ${first}-${last}/1000000`)
            assert.ok(parts[i]?.bytes.equals(big.subarray(first, last + 1)))
          }
        },
      ),
      { numRuns: RUNS, seed: 12 },
    )
    planes.weather.cold = false
    planes.weather.pinBudgetBytes = 1 << 20
    assertNothingHeld()
  })
})

describe('files', () => {
  const FILES = `${TAGGED}/-/files`

  test('names of any bytes', async () => {
    assert.equal((await get(`${FILES}/etc/caf%E9%ff`)).body.toString(), 'bytes')
    assert.equal((await get(`${FILES}/etc/a%20b%25`)).body.toString(), 'space')
  })

  test('the last symlink is followed, ?stat shows the link itself', async () => {
    assert.equal((await get(`${FILES}/etc/link`)).body.toString(), SMALL_TEXT)
    const stat = JSON.parse((await get(`${FILES}/etc/link?stat`)).body.toString())
    assert.equal(stat.type, 'symlink')
    assert.equal(stat.target, 'etc/hosts')
    assert.deepEqual(stat.xattrs, { 'user.a': '00ff' })
    assert.equal(stat.mtime, '2023-11-14T22:13:20Z')
  })

  test('a directory is listed in pages', async () => {
    const names: string[] = []
    let cursor = ''
    for (;;) {
      const page = JSON.parse((await get(`${FILES}/etc/?limit=2${cursor}`)).body.toString())
      names.push(...page.entries.map((entry: { name: string }) => entry.name))
      if (page.nextCursor === undefined) break
      cursor = `&cursor=${page.nextCursor}`
    }
    assert.deepEqual(names, ['a b%25', 'caf%E9%FF', 'hosts', 'link', 'page.html'])
    const root = JSON.parse((await get(FILES)).body.toString())
    assert.equal(root.entries.length, 4)
  })

  test('what a browser would run cannot run', async () => {
    const { headers } = await get(`${FILES}/etc/page.html`)
    assert.equal(headers.get('content-security-policy'), "sandbox; default-src 'none'")
    assert.equal(headers.get('content-disposition'), 'attachment')
  })

  const refused: [string, number, string][] = [
    ['/dev-null', 403, 'ERR_FILE_SPECIAL'],
    ['/nope', 404, 'ERR_FILE_NOT_FOUND'],
    ['/etc/hosts/', 400, 'ERR_FILE_NOT_DIRECTORY'],
    ['/etc%2Fhosts', 400, 'ERR_HTTP_PATH_INVALID'],
    ['/a%00b', 400, 'ERR_HTTP_PATH_INVALID'],
    ['/x/%2e%2e/etc/hosts', 400, 'ERR_HTTP_PATH_INVALID'],
    ['/etc?limit=0', 400, 'ERR_HTTP_REQUEST_INVALID'],
    ['/etc?cursor=..', 400, 'ERR_HTTP_REQUEST_INVALID'],
  ]
  for (const [path, status, code] of refused) {
    test(`${path} → ${status} ${code}`, async () => {
      // fetch would normalise the path away
      await using client = await RawClient.open(server.port)
      client.get(FILES + path)
      const response = await client.next()
      assert.equal(response?.status, status)
      assert.equal(JSON.parse(String(response.body)).code, code)
    })
  }

  test('nothing stays open but what connections keep', async () => {
    server.app.server.closeIdleConnections()
    server.app.server.closeAllConnections()
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(planes.ledger.open, 0)
    assertNothingHeld()
  })
})

describe('curl', () => {
  test('-r and -C - give the bytes', { skip: missing('curl') }, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-curl-'))
    const file = join(folder, 'out')
    await run('curl', ['-sf', '-r', '1000-99999', '-o', file, server.url + BLOB])
    assert.ok((await readFile(file)).equals(big.subarray(1000, 100_000)))
    await writeFile(file, big.subarray(0, 123_456))
    await run('curl', ['-sf', '-C', '-', '-o', file, server.url + BLOB])
    assert.ok((await readFile(file)).equals(big))
    await rm(folder, { recursive: true })
  })
})
