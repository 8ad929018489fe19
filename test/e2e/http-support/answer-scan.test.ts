/** Nothing that a server answers may slip through the fuzzing: large bodies around it, and cuts at every byte. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AnswerScan } from './answer-scan.ts'

const BODY = Buffer.alloc(300_000, 'HTTP/1.1 ')
const ANSWERS = Buffer.concat([
  Buffer.from('HTTP/1.1 206 Partial Content\r\n\r\n'),
  BODY,
  Buffer.from(
    'HTTP/1.1 500 Internal Server Error\r\n\r\n{"code":"ERR_INTERNAL"}HTTP/1.1 200 OK\r\n\r\n',
  ),
  BODY,
])

test('status lines and faults are found in front of and behind large bodies', () => {
  const scan = new AnswerScan()
  for (let at = 0; at < ANSWERS.length; at += 65_536) scan.push(ANSWERS.subarray(at, at + 65_536))
  assert.deepEqual([scan.statuses, scan.hasFault], [['206', '500', '200'], true])
})

test('each is found once, wherever it is cut', () => {
  const text = Buffer.from(
    'x HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Internal\r\n\r\nERR_INTERNAL',
  )
  for (let cut = 0; cut <= text.length; cut++) {
    const scan = new AnswerScan()
    scan.push(text.subarray(0, cut))
    scan.push(text.subarray(cut))
    assert.deepEqual([scan.statuses, scan.hasFault], [['204', '500'], true], `cut at ${cut}`)
  }
  const scan = new AnswerScan()
  for (const byte of text) scan.push(Buffer.of(byte))
  assert.deepEqual([scan.statuses, scan.hasFault], [['204', '500'], true])
})

test('what is no fault is none', () => {
  const scan = new AnswerScan()
  scan.push(Buffer.from('HTTP/1.1 404 Not Found\r\n\r\nERR_IMAGE_NOT_FOUND'))
  assert.deepEqual([scan.statuses, scan.hasFault], [['404'], false])
})
