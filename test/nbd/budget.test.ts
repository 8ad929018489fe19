/** The budget of all connections: nobody who waits is overtaken for ever. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Budget, BudgetShare } from '../../src/nbd/budget.ts'

test('a large request is not overtaken by small ones that would fit', () => {
  const budget = new Budget(100)
  const woken: string[] = []
  const large = () => void woken.push('large')
  const small = () => void woken.push('small')
  budget.take(60)
  assert.equal(budget.fits(80, large), false)
  budget.wait(large)
  assert.equal(budget.fits(10, small), false, 'it would fit, but came later')
  budget.wait(small)
  budget.give(20)
  assert.deepEqual(woken, ['large'])
  assert.equal(budget.fits(80, large), false)
  budget.give(40)
  assert.equal(budget.fits(80, large), true)
  budget.take(80)
  budget.cancel(large)
  assert.deepEqual(woken, ['large', 'large', 'small'])
  assert.equal(budget.fits(10, small), true)
})

test('who gives up waiting lets the next one go', () => {
  const budget = new Budget(100)
  const woken: string[] = []
  const first = () => void woken.push('first')
  const second = () => void woken.push('second')
  budget.take(50)
  budget.wait(first)
  budget.wait(second)
  budget.cancel(first)
  assert.deepEqual(woken, ['second'])
})

const MIB = 1024 * 1024
const OWN = MIB / 8
const NEVER = (): never => assert.fail('woken')

test('one read counts 32 KiB at least and a quarter at most, of the smallest budgets something', () => {
  const budget = new Budget(4 * MIB)
  assert.deepEqual(
    [1, 32_768, 32_769, MIB, MIB + 1, 32 * MIB].map((n) => budget.charge(n)),
    [32_768, 32_768, 32_769, MIB, MIB, MIB],
  )
  assert.equal(new Budget(1).charge(MIB), 1)
})

test('what connections have of their own keeps nobody waiting', () => {
  const budget = new Budget(4 * MIB)
  for (let i = 0; i < 1000; i++) {
    const share = new BudgetShare(budget, NEVER)
    for (let read = 0; read < 4; read++) {
      assert.ok(share.hasRoom(share.charge(4096)))
      share.take(share.charge(4096))
    }
    assert.equal(share.bytes, OWN)
  }
  assert.equal(budget.used, 0)
  const large = new BudgetShare(budget, NEVER)
  assert.ok(large.hasRoom(large.charge(32 * MIB)))
})

test('a share takes and gives back what is beyond its own, in any order and at its end', () => {
  const budget = new Budget(4 * MIB)
  const woken: string[] = []
  const share = new BudgetShare(budget, NEVER)
  for (const bytes of [OWN - 1, 2, MIB]) share.take(bytes)
  assert.equal(budget.used, MIB + 1)
  share.give(2)
  assert.equal(budget.used, MIB - 1)
  share.take(3 * MIB)
  const other = new BudgetShare(budget, () => void woken.push('other'))
  assert.ok(other.hasRoom(OWN + 1), 'the last byte of the budget')
  assert.equal(other.hasRoom(OWN + 2), false)
  assert.deepEqual(woken, [])
  share.close()
  assert.deepEqual([share.bytes, budget.used, woken], [0, 0, ['other']])
  other.close()
  assert.ok(new BudgetShare(budget, NEVER).hasRoom(4 * MIB), 'nobody waits any more')
})
