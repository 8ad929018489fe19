/** The budget of all connections: nobody who waits is overtaken for ever. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Budget } from '../../src/nbd/budget.ts'

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

test('who gives up waiting lets the next one go, and more than the limit fits alone', () => {
  const budget = new Budget(100)
  const woken: string[] = []
  const first = () => void woken.push('first')
  const second = () => void woken.push('second')
  budget.take(50)
  budget.wait(first)
  budget.wait(second)
  budget.cancel(first)
  assert.deepEqual(woken, ['second'])
  budget.cancel(second)
  assert.equal(budget.fits(500, first), false)
  budget.give(50)
  assert.equal(budget.fits(500, first), true)
})
