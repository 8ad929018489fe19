/** Names of exports: the grammar, and paths of any bytes. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'

import { isAppError } from '../../src/core/index.ts'
import { decodePath, encodePath, parseExportName } from '../../src/server/export-name.ts'

const RUNS = { seed: 11, numRuns: process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 500 }
const HEX = 'ab'.repeat(32)

describe('paths', () => {
  test('any bytes survive encoding and decoding', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (path) => {
        assert.deepEqual(new Uint8Array(decodePath(encodePath(path))), path)
      }),
      RUNS,
    )
  })

  test('an encoded path is printable, and text in it stays readable', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 100 }), (text) => {
        const encoded = encodePath(Buffer.from(text, 'utf8'))
        assert.doesNotMatch(encoded, /[\u0000-\u001f\u007f]/)
        if (/^[\p{L}\p{N}/._-]*$/u.test(text)) assert.equal(encoded, text)
      }),
      RUNS,
    )
    assert.equal(encodePath(Buffer.from('usr/läßt 100%')), 'usr/läßt 100%25')
    assert.equal(encodePath(Buffer.from([0x61, 0xff, 0x25])), 'a%FF%25')
    assert.equal(encodePath(Buffer.from('\uFFFD')), '\uFFFD', 'a replacement character is one')
  })

  test('decoding takes any text: bytes, or ERR_INVALID_ARGUMENT', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        try {
          assert.ok(decodePath(text).length <= Buffer.byteLength(text))
        } catch (error) {
          assert.ok(isAppError(error) && error.code === 'ERR_INVALID_ARGUMENT')
          assert.match(text, /%(?![0-9a-fA-F]{2})/)
        }
      }),
      RUNS,
    )
  })
})

describe('names', () => {
  test('each form', () => {
    const ref = { domain: 'd', name: 'a/b', tag: '1' }
    assert.deepEqual(parseExportName('d/a/b:1'), { kind: 'image', ref })
    assert.deepEqual(parseExportName('d/a/b:1/-/raw'), { kind: 'image', ref })
    assert.deepEqual(parseExportName('d/a/b:1/-/dev/0'), { kind: 'device', ref, device: 0 })
    assert.deepEqual(parseExportName('d/a/b:1/-/files/x%2Fy/-/z'), {
      kind: 'file',
      ref,
      path: Buffer.from('x/y/-/z'),
    })
    assert.deepEqual(parseExportName(`d/-/blobs/sha256:${HEX}`), {
      kind: 'blob',
      domain: 'd',
      digest: `sha256:${HEX}`,
    })
    assert.deepEqual(parseExportName(`d/a@sha256:${HEX}`), {
      kind: 'image',
      ref: { domain: 'd', name: 'a', digest: `sha256:${HEX}` },
    })
  })

  test('what is outside of the grammar', () => {
    for (const name of [
      'd/a/-/dev/',
      'd/a/-/dev/01',
      'd/a/-/dev/-1',
      'd/a/-/dev/100000',
      'd/a/-/dev/0/x',
      'd/a/-/nothing',
      'd/a/-/',
      'd/-/blobs/sha256:abc',
      `d/a/-/blobs/sha256:${HEX}`,
      `D/-/blobs/sha256:${HEX}`,
    ]) {
      assert.throws(() => parseExportName(name), { code: 'ERR_EXPORT_NOT_FOUND' }, name)
    }
    for (const name of ['', 'd', '/-/raw', 'd/A', 'd/-/files/x'])
      assert.throws(() => parseExportName(name), { code: 'ERR_REF_INVALID' }, name)
  })

  test('any text is a name or refused with a code', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (name) => {
        try {
          parseExportName(name)
        } catch (error) {
          assert.ok(isAppError(error), String(error))
        }
      }),
      RUNS,
    )
  })
})
