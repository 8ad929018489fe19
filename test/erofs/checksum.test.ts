import assert from 'node:assert/strict'
import { test } from 'node:test'

import { crc32c } from '../../src/erofs/index.ts'

test('crc32c without final inversion', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0x1cf96d7c)
  assert.equal((crc32c(Buffer.from('123456789')) ^ 0xffffffff) >>> 0, 0xe3069283)
  assert.equal(crc32c(new Uint8Array(0)), 0xffffffff)
})

test('crc32c continues from its own result', () => {
  const bytes = Buffer.from('the quick brown fox')
  for (let split = 0; split <= bytes.length; split++) {
    const head = crc32c(bytes.subarray(0, split))
    assert.equal(crc32c(bytes.subarray(split), head), crc32c(bytes))
  }
})
