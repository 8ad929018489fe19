import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { isAppError } from '../../src/core/index.ts'
import {
  checkPreconditions,
  evaluatePreconditions,
  rangeApplies,
} from '../../src/server/http/conditional.ts'
import { describe as represent } from '../../src/server/http/representation.ts'
import { planResponse } from '../../src/server/http/response-plan.ts'
import type { DataRequestHeaders } from '../../src/server/http/response-plan.ts'

const ETAG = '"abc"'

describe('preconditions (RFC 9110 §13.2.2)', () => {
  const table: [Parameters<typeof evaluatePreconditions>[0], string][] = [
    [{}, 'proceed'],
    [{ 'if-match': '"abc"' }, 'proceed'],
    [{ 'if-match': '*' }, 'proceed'],
    [{ 'if-match': '"x", "abc"' }, 'proceed'],
    [{ 'if-match': '"x"' }, 'failed'],
    [{ 'if-match': 'W/"abc"' }, 'failed'],
    [{ 'if-match': 'abc' }, 'failed'],
    [{ 'if-none-match': '"abc"' }, 'not-modified'],
    [{ 'if-none-match': 'W/"abc"' }, 'not-modified'],
    [{ 'if-none-match': '*' }, 'not-modified'],
    [{ 'if-none-match': '"x","y,z", "abc"' }, 'not-modified'],
    [{ 'if-none-match': '"x"' }, 'proceed'],
    [{ 'if-none-match': '"x,abc"' }, 'proceed'],
    [{ 'if-match': '"x"', 'if-none-match': '"abc"' }, 'failed'],
    [{ 'if-match': '"abc"', 'if-none-match': '"abc"' }, 'not-modified'],
  ]
  for (const [headers, expected] of table) {
    test(`${JSON.stringify(headers)} → ${expected}`, () => {
      assert.equal(evaluatePreconditions(headers, ETAG), expected)
    })
  }

  test('what is not there matches nothing, not even *', () => {
    assert.equal(evaluatePreconditions({ 'if-match': '*' }, undefined), 'failed')
    assert.equal(evaluatePreconditions({ 'if-match': ETAG }, undefined), 'failed')
    assert.equal(evaluatePreconditions({ 'if-none-match': '*' }, undefined), 'proceed')
    assert.equal(evaluatePreconditions({}, undefined), 'proceed')
  })

  test('a change is made when all of them hold', () => {
    const code = 'ERR_HTTP_PRECONDITION_FAILED'
    checkPreconditions({ 'if-match': ETAG, 'if-none-match': '"x"' }, ETAG)
    assert.throws(() => checkPreconditions({ 'if-match': '"x"' }, ETAG), { code })
    assert.throws(() => checkPreconditions({ 'if-none-match': '*' }, ETAG), { code })
  })

  test('If-Range compares strongly', () => {
    assert.equal(rangeApplies({}, ETAG), true)
    assert.equal(rangeApplies({ 'if-range': '"abc"' }, ETAG), true)
    assert.equal(rangeApplies({ 'if-range': 'W/"abc"' }, ETAG), false)
    assert.equal(rangeApplies({ 'if-range': '"x"' }, ETAG), false)
    assert.equal(rangeApplies({ 'if-range': 'Wed, 21 Oct 2015 07:28:00 GMT' }, ETAG), false)
  })
})

describe('planned answers', () => {
  const representation = represent({ size: 100, etag: ETAG, immutable: true, publicCaching: true })
  const answer = (headers: DataRequestHeaders, head = false): string => {
    try {
      const plan = planResponse(head, headers, representation)
      return `${plan.status} ${plan.ranges.map(({ offset, length }) => `${offset}+${length}`).join(' ')}`.trim()
    } catch (error) {
      return isAppError(error) ? error.code : String(error)
    }
  }
  const table: [DataRequestHeaders, string, string][] = [
    [{}, '200 0+100', '200'],
    [{ range: 'bytes=0-4' }, '206 0+5', '200'],
    [{ range: 'bytes=0-4', 'if-none-match': ETAG }, '304', '304'],
    [
      { range: 'bytes=0-4', 'if-match': '"x"' },
      'ERR_HTTP_PRECONDITION_FAILED',
      'ERR_HTTP_PRECONDITION_FAILED',
    ],
    [{ range: 'bytes=0-4', 'if-range': '"x"' }, '200 0+100', '200'],
    [{ range: 'bytes=0-4', 'if-range': ETAG }, '206 0+5', '200'],
    [{ range: 'bytes=100-', 'if-range': '"x"' }, '200 0+100', '200'],
    [{ range: 'bytes=100-' }, 'ERR_HTTP_RANGE_NOT_SATISFIABLE', '200'],
    [{ range: 'bytes=9-1' }, 'ERR_HTTP_RANGE_NOT_SATISFIABLE', '200'],
    [{ range: 'bytes=0-1,4-5' }, '206 0+2 4+2', '200'],
    [{ range: 'items=0-1' }, '200 0+100', '200'],
  ]
  for (const [headers, get, head] of table) {
    test(`${JSON.stringify(headers)} → GET ${get}, HEAD ${head}`, () => {
      assert.equal(answer(headers), get)
      assert.equal(answer(headers, true), head)
    })
  }

  test('names of content are immutable, tags are not, private stays private', () => {
    const caching = (immutable: boolean, publicCaching: boolean) => {
      const { headers } = represent({ size: 1, etag: ETAG, immutable, publicCaching })
      return headers[headers.indexOf('Cache-Control') + 1]
    }
    assert.equal(caching(true, true), 'public, max-age=31536000, immutable')
    assert.equal(caching(false, true), 'public, no-cache')
    assert.equal(caching(true, false), 'private, max-age=31536000, immutable')
  })

  test('what a browser would run is offered for download', () => {
    const of = (fileName: string) =>
      represent({ size: 1, etag: ETAG, immutable: true, publicCaching: true, fileName })
    for (const name of ['a.html', 'a.SVG', 'a.xhtml']) {
      assert.ok(of(name).headers.includes('attachment'), name)
      assert.ok(of(name).headers.includes("sandbox; default-src 'none'"), name)
    }
    assert.ok(!of('a.png').headers.includes('attachment'))
    assert.equal(of('a.png').contentType, 'image/png')
    assert.equal(of('a.constructor').contentType, 'application/octet-stream')
    assert.equal(of('.html').contentType, 'application/octet-stream')
  })
})
