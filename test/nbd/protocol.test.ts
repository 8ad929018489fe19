import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import {
  commandIndex,
  errorColumn,
  latencyBucket,
  nameOf,
  NBD_COUNTER,
  NBD_COUNTER_NAMES,
  NBD_CMD,
  NBD_E,
  NBD_LATENCY_BUCKETS,
  NBD_OPT,
  NBD_REP,
  NBD_SIZE_BUCKETS,
  sizeBucket,
  toNbdErrno,
} from '../../src/nbd/index.ts'
import { NBD_MAGIC } from '../../src/nbd/protocol.ts'

describe('constants', () => {
  test('magics spell what the specification says', () => {
    const text = ([high, low]: readonly [number, number]): string => {
      const bytes = Buffer.alloc(8)
      bytes.writeUInt32BE(high, 0)
      bytes.writeUInt32BE(low, 4)
      return bytes.toString('latin1')
    }
    assert.equal(text(NBD_MAGIC.INIT), 'NBDMAGIC')
    assert.equal(text(NBD_MAGIC.OPTION), 'IHAVEOPT')
  })

  test('option errors are 2^31 and a number', () => {
    for (const [name, value] of Object.entries(NBD_REP)) {
      assert.equal(value >= 2 ** 31, name.startsWith('ERR_'), name)
    }
  })

  test('nameOf gives the name, or hex', () => {
    assert.equal(nameOf(NBD_OPT, 'NBD_OPT', 7), 'NBD_OPT_GO')
    assert.equal(nameOf(NBD_OPT, 'NBD_OPT', 0x2a), 'NBD_OPT_0x2a')
  })
})

describe('toNbdErrno', () => {
  const cases: [unknown, string][] = [
    [Object.assign(new Error('x'), { code: 'EROFS' }), 'EPERM'],
    [Object.assign(new Error('x'), { code: 'EDQUOT' }), 'ENOSPC'],
    [Object.assign(new Error('x'), { code: 'ENOMEM' }), 'ENOMEM'],
    [Object.assign(new Error('x'), { code: 'ERR_SOMETHING' }), 'EIO'],
    [Object.assign(new Error('x'), { code: 5 }), 'EIO'],
    [new Error('x'), 'EIO'],
    ['text', 'EIO'],
    [null, 'EIO'],
    // What Object.prototype holds is no errno.
    [Object.assign(new Error('x'), { code: 'toString' }), 'EIO'],
  ]
  for (const [error, errno] of cases) {
    test(`${String(error)} is ${errno}`, () => assert.equal(toNbdErrno(error), errno))
  }
})

describe('counters', () => {
  test('names are unique and the groups follow each other', () => {
    assert.equal(new Set(NBD_COUNTER_NAMES).size, NBD_COUNTER_NAMES.length)
    const starts = Object.values(NBD_COUNTER)
    assert.deepEqual(
      starts,
      starts.toSorted((a, b) => a - b),
    )
  })

  test('columns are found by command and errno', () => {
    assert.equal(NBD_COUNTER_NAMES[errorColumn(NBD_CMD.READ, 'EIO')], 'errors.READ.EIO')
    assert.equal(NBD_COUNTER_NAMES[errorColumn(999, 'EINVAL')], 'errors.OTHER.EINVAL')
    assert.equal(
      NBD_COUNTER_NAMES[NBD_COUNTER.REQUESTS + commandIndex(NBD_CMD.CACHE)],
      'requests.CACHE',
    )
    assert.equal(Object.keys(NBD_E).length, 8)
  })

  test('size buckets have inclusive upper bounds', () => {
    NBD_SIZE_BUCKETS.forEach((bound, bucket) => {
      assert.equal(sizeBucket(bound), bucket)
      assert.equal(sizeBucket(bound + 1), bucket + 1)
    })
    assert.equal(sizeBucket(1), 0)
    assert.equal(sizeBucket(0xffffffff), NBD_SIZE_BUCKETS.length)
  })

  test('latency buckets have inclusive upper bounds', () => {
    NBD_LATENCY_BUCKETS.forEach((bound, bucket) => {
      assert.equal(latencyBucket(bound), bucket)
      assert.equal(latencyBucket(bound * 1.001), bucket + 1)
    })
  })
})
