/** What `image rm` asks of the server, and that a damaged image can be removed as well. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { FakeServer } from './fake-server.ts'
import { makeImage, sendProblem, startFakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

function run(server: FakeServer, ...args: string[]) {
  return runCommand(['image', 'rm', ...args], { env: { COMMONPAGE_SERVER: server.url } })
}

function deletions(server: FakeServer): string[] {
  return server.received.filter(({ method }) => method === 'DELETE').map(({ url }) => url)
}

test('a damaged image is removed: its name is all that it takes', async () => {
  await using server = await startFakeServer()
  server.override = (request, response) => {
    if (request.method !== 'GET' || request.url !== '/v1/images/demo/base:1') return false
    sendProblem(response, 502, 'ERR_STORE_CORRUPT', 'the map of device 7 is damaged')
    return true
  }
  const { code, stdout, stderr } = await run(server, '--yes', '--json', 'demo/base:1')
  assert.equal(code, 0, stderr)
  assert.match(stderr, /removes demo\/base:1 \(damaged: the map of device 7 is damaged\)/)
  assert.deepEqual(JSON.parse(stdout), [{ ref: 'demo/base:1', removed: true, stays: [] }])
  assert.deepEqual(deletions(server), ['/v1/images/demo/base:1'])
})

test('an image that is not there ends it before anything is removed', async () => {
  await using server = await startFakeServer()
  assert.equal((await run(server, '--yes', 'demo/base:1', 'demo/none:1')).code, 3)
  assert.deepEqual(deletions(server), [])
})

test('many names: one request at a time, one report of disk usage for each domain', async () => {
  await using server = await startFakeServer()
  const refs = [...Array(30).keys()].map((i) => `${i % 2 === 0 ? 'demo' : 'other'}/base:t${i}`)
  server.images = refs.map((ref) => makeImage(ref))
  let open = 0
  let most = 0
  server.override = (_, response) => {
    most = Math.max(most, ++open)
    response.once('close', () => open--)
    return false
  }
  const { code, stderr } = await run(server, '--yes', ...refs)
  assert.equal(code, 0, stderr)
  assert.equal(deletions(server).length, refs.length)
  assert.ok(most <= 2, `${most} at once; the end of one may be noticed after the start of the next`)
  const reports = server.received.map(({ url }) => url).filter((url) => url.startsWith('/v1/du'))
  assert.deepEqual(reports, ['/v1/du?domain=demo', '/v1/du?domain=other'])
})
