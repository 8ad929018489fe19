/**
 * Every interleaving of two readers and the keeper over one frame and one index slot, with the real word
 * operations of src/cache/pin-protocol.ts. Each process is a list of steps, each step touches shared memory once;
 * the search visits every reachable state of (shared words, program counters, locals), which covers every order
 * in which the steps can happen. A reader must never finish with bytes of another page than it looked up.
 *
 * Two sabotaged protocols show that the search can find what it looks for.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { addPin, claim, EVICTING, pinsOf, publish, unpin } from '../../src/cache/pin-protocol.ts'

/** Shared words: the frame's state, its key, two halves of its bytes (each holds the key), the index slot. */
const STATE = 0
const KEY = 1
const BYTES_A = 2
const BYTES_B = 3
const INDEX = 4
const WORDS = 5

const PAGE_ONE = 1
const PAGE_TWO = 2

/** One atomic step. @returns the next step, or DONE. A step that cannot proceed returns itself. */
type Step = (words: Int32Array, locals: Int32Array) => number
const DONE = -1

interface Protocol {
  readonly name: string
  /** False: the pin has to be given back. */
  readonly addPin: (words: Int32Array) => boolean
  readonly rereadsKey: boolean
  readonly claim: (words: Int32Array) => boolean
  readonly addWaiterPin: (words: Int32Array) => void
  readonly publish: (words: Int32Array, waiterPins: number) => void
}

const SHIPPED: Protocol = {
  name: 'shipped',
  addPin: (words) => addPin(words, STATE),
  rereadsKey: true,
  claim: (words) => claim(words, STATE),
  addWaiterPin: (words) => void Atomics.add(words, STATE, 1),
  publish: (words) => publish(words, STATE, 0),
}

/** Pin and verify the key, but the keeper only looks whether pins are 0 instead of setting EVICTING. */
const WITHOUT_BIT: Protocol = {
  ...SHIPPED,
  name: 'without the EVICTING bit',
  addPin: (words) => {
    Atomics.add(words, STATE, 1)
    return true
  },
  claim: (words) => Atomics.load(words, STATE) === 0,
  publish: () => undefined,
}

/** The bit, but the key is not read again after the pin. */
const WITHOUT_REREAD: Protocol = {
  ...SHIPPED,
  name: 'without reading the key again',
  rereadsKey: false,
}

/** The keeper publishes with a store, which erases transient pins. */
const WITH_STORE: Protocol = {
  ...SHIPPED,
  name: 'publishing with a store',
  addWaiterPin: () => undefined,
  publish: (words, waiterPins) => void Atomics.store(words, STATE, waiterPins),
}

const A = 0
const B = 1

/** Looks PAGE_ONE up and uses it, `rounds` times. Locals: the two halves read, the rounds done. */
function reader(protocol: Protocol, rounds: number, wrong: (what: string) => void): Step[] {
  const end = (locals: Int32Array) => {
    locals[A] = 0
    locals[B] = 0
    locals[2] = (locals[2] ?? 0) + 1
    return locals[2] === rounds ? DONE : 0
  }
  return [
    (words, locals) => (words[INDEX] === 1 ? 1 : end(locals)),
    (words, locals) => (words[KEY] === PAGE_ONE ? 2 : end(locals)),
    (words) => (protocol.addPin(words) ? 3 : 7),
    (words) => (!protocol.rereadsKey || words[KEY] === PAGE_ONE ? 4 : 7),
    (words, locals) => ((locals[A] = words[BYTES_A] ?? 0), 5),
    (words, locals) => ((locals[B] = words[BYTES_B] ?? 0), 6),
    (words, locals) => {
      if (locals[A] !== PAGE_ONE || locals[B] !== PAGE_ONE) wrong(`read ${locals[A]}, ${locals[B]}`)
      unpin(words, STATE)
      return end(locals)
    },
    (words, locals) => (unpin(words, STATE), end(locals)),
  ]
}

/** Gives the frame to PAGE_TWO, then back to PAGE_ONE with a pin for a waiting reader, who then returns it. */
function keeper(protocol: Protocol): Step[] {
  const turn = (base: number, key: number): Step[] => [
    (words) => (protocol.claim(words) ? base + 1 : base),
    (words) => ((words[INDEX] = 0), base + 2),
    (words) => ((words[KEY] = key), base + 3),
    (words) => ((words[INDEX] = 1), base + 4),
    (words) => ((words[BYTES_A] = key), base + 5),
    (words) => ((words[BYTES_B] = key), base + 6),
  ]
  return [
    ...turn(0, PAGE_TWO),
    (words) => (protocol.publish(words, 0), 7),
    ...turn(7, PAGE_ONE),
    (words) => (protocol.addWaiterPin(words), 14),
    (words) => (protocol.publish(words, 1), 15),
    (words) => (unpin(words, STATE), DONE),
  ]
}

interface Search {
  readonly states: number
  readonly ends: number
  readonly wrong: readonly string[]
}

/** Visits every reachable state once. */
function explore(protocol: Protocol, rounds: number): Search {
  const wrong: string[] = []
  const report = (what: string) => wrong.push(what)
  const processes = [
    reader(protocol, rounds, report),
    reader(protocol, rounds, report),
    keeper(protocol),
  ]
  const localsAt = (process: number) => WORDS + processes.length + process * 3
  const size = localsAt(processes.length)
  const first = new Int32Array(size)
  first.set([0, PAGE_ONE, PAGE_ONE, PAGE_ONE, 1])
  const seen = new Set<string>([first.join()])
  const todo = [first]
  let ends = 0
  for (let state = todo.pop(); state !== undefined; state = todo.pop()) {
    let moved = false
    for (const [process, steps] of processes.entries()) {
      const counter = state[WORDS + process] ?? DONE
      const step = steps[counter]
      if (step === undefined) continue
      const next = state.slice()
      const locals = next.subarray(localsAt(process), localsAt(process + 1))
      next[WORDS + process] = step(next.subarray(0, WORDS), locals)
      const key = next.join()
      if (key === state.join()) continue
      moved = true
      if (seen.has(key)) continue
      seen.add(key)
      todo.push(next)
    }
    if (moved) continue
    ends++
    const word = state[STATE] ?? 0
    if (pinsOf(word) !== 0 || (word & EVICTING) !== 0) wrong.push(`left the word at ${word}`)
    for (let process = 0; process < processes.length; process++) {
      if (state[WORDS + process] !== DONE) wrong.push(`process ${process} is stuck`)
    }
  }
  return { states: seen.size, ends, wrong }
}

describe('pin protocol, every interleaving of two readers and the keeper', () => {
  const rounds = process.env['COMMONPAGE_FULL'] === '1' ? 6 : 3

  test('no reader ever uses bytes of another page, no pin is left, nobody is stuck', () => {
    const { states, ends, wrong } = explore(SHIPPED, rounds)
    assert.deepEqual(wrong, [])
    assert.ok(states > 2_000, `${states} states`)
    assert.ok(ends > 0)
  })

  for (const protocol of [WITHOUT_BIT, WITHOUT_REREAD, WITH_STORE]) {
    test(`the search finds what is wrong ${protocol.name}`, () => {
      assert.notEqual(explore(protocol, rounds).wrong.length, 0)
    })
  }
})
