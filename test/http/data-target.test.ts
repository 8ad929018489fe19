import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import fc from 'fast-check'

import { isAppError } from '../../src/core/index.ts'
import {
  decodeUrlPath,
  INNER_ROUTES,
  parseDataTarget,
  routeUrl,
} from '../../src/server/http/data-target.ts'

const HEX = 'a'.repeat(64)
const codeOf = (run: () => unknown): string => {
  try {
    run()
    return 'no error'
  } catch (error) {
    return isAppError(error) ? error.code : String(error)
  }
}

describe('data URLs', () => {
  test('names may have slashes, and take both forms', () => {
    assert.deepEqual(parseDataTarget('/v1/images/d/a/b/c:1.0/-/raw'), {
      kind: 'raw',
      ref: { domain: 'd', name: 'a/b/c', tag: '1.0' },
    })
    assert.deepEqual(parseDataTarget(`/v1/images/d/a@sha256:${HEX}/-/dev/3`), {
      kind: 'device',
      ref: { domain: 'd', name: 'a', digest: `sha256:${HEX}` },
      device: 3,
    })
    assert.deepEqual(parseDataTarget(`/v1/images/d/a%40sha256%3a${HEX}/-/raw`), {
      kind: 'raw',
      ref: { domain: 'd', name: 'a', digest: `sha256:${HEX}` },
    })
    assert.deepEqual(parseDataTarget(`/v1/blobs/d/sha256:${HEX}`), {
      kind: 'blob',
      domain: 'd',
      digest: `sha256:${HEX}`,
    })
  })

  test('a path may hold the separator again', () => {
    const target = parseDataTarget('/v1/images/d/a/-/files/x/-/raw')
    assert.equal(target.kind === 'file' && Buffer.from(target.path).toString(), 'x/-/raw')
  })

  test('the router sees fixed names', () => {
    assert.equal(routeUrl('/v1/images/d/a:1'), INNER_ROUTES.image)
    assert.equal(routeUrl('/v1/images/d/a:1?format=erofs'), `${INNER_ROUTES.image}?format=erofs`)
    assert.equal(routeUrl('/v1/images/d/a/-/files/%ff?stat'), `${INNER_ROUTES.files}?stat`)
    assert.equal(routeUrl('/v1/images/d/a/-/files'), INNER_ROUTES.files)
    assert.equal(routeUrl('/v1/images/d/a/-/filesystem'), INNER_ROUTES.unknown)
    assert.equal(routeUrl('/v1/images/d/a/-/dev/0'), INNER_ROUTES.device)
    assert.equal(routeUrl('/v1/images?x=/-/'), '/v1/images?x=/-/')
    assert.equal(routeUrl('/v1/images/d/a?x=/-/raw'), `${INNER_ROUTES.image}?x=/-/raw`)
  })

  const refused: [string, string][] = [
    ['/v1/images/-/raw/-/raw', 'ERR_REF_INVALID'],
    ['/v1/images/-/files', 'ERR_REF_INVALID'],
    ['/v1/images/d/a/-/dev/01', 'ERR_DEVICE_NOT_FOUND'],
    ['/v1/images/d/a/-/dev/-1', 'ERR_DEVICE_NOT_FOUND'],
    ['/v1/images/d/a/-/dev/999999', 'ERR_DEVICE_NOT_FOUND'],
    ['/v1/images/d/A/-/raw', 'ERR_REF_INVALID'],
    ['/v1/images/d%2fa/-/raw', 'ERR_REF_INVALID'],
    ['/v1/images/d/a/-/rawr', 'ERR_HTTP_ROUTE_NOT_FOUND'],
    ['/v1/blobs/d/sha256:xyz', 'ERR_DIGEST_INVALID'],
    ['/v1/blobs/D/sha256:xyz', 'ERR_REF_INVALID'],
    ['/v1/images/d/a/-/files/a%2Fb', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/a%2fb', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/a%00', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/..', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/a/../b', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/%2e%2E', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/.%2e/b', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/100%', 'ERR_HTTP_PATH_INVALID'],
    ['/v1/images/d/a/-/files/%zz', 'ERR_HTTP_PATH_INVALID'],
  ]
  for (const [path, code] of refused) {
    test(`${path} → ${code}`, () =>
      assert.equal(
        codeOf(() => parseDataTarget(path)),
        code,
      ))
  }

  test('is decoded once: %252F is a name with a percent sign', () => {
    assert.equal(Buffer.from(decodeUrlPath('%252F')).toString(), '%2F')
    assert.equal(Buffer.from(decodeUrlPath('a..b/...')).toString(), 'a..b/...')
  })

  test('any bytes but NUL and slash come back', () => {
    const byte = fc.integer({ min: 1, max: 255 }).filter((value) => value !== 0x2f)
    fc.assert(
      fc.property(fc.array(byte, { minLength: 1, maxLength: 40 }), fc.boolean(), (bytes, upper) => {
        const name = Buffer.from(bytes)
        if (name.equals(Buffer.from('..'))) return
        const encoded = bytes
          .map((value) => `%${value.toString(16).padStart(2, '0')}`)
          .map((text) => (upper ? text.toUpperCase() : text))
          .join('')
        assert.deepEqual(Buffer.from(decodeUrlPath(encoded)), name)
      }),
      { numRuns: 500, seed: 3 },
    )
  })
})
