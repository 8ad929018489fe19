/**
 * What a client is told when something cannot be had, by a whole server: the errors are made in one thread
 * and answered in another, and keep their code and what the code means.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { get } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import type { ServerProcess } from './server-process.ts'
import { startServerProcess } from './server-process.ts'

const IMAGE = fileURLToPath(new URL('../fixtures/erofs/plain.erofs', import.meta.url))
const NOTHING = `sha256:${'0'.repeat(64)}`
const REP_ERR_UNKNOWN = 2 ** 31 + 6

/** Method, path, JSON body, and the status and code that are expected. */
const REFUSED: readonly (readonly [string, string, unknown, number, string])[] = [
  ['GET', '/v1/images/demo/absent:1', undefined, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['GET', `/v1/images/demo/plain@${NOTHING}`, undefined, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['GET', '/v1/images/absent/absent:1/-/raw', undefined, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['GET', '/v1/images/demo/absent:1/-/files/etc', undefined, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['GET', '/v1/images/demo/plain:1/-/files/absent', undefined, 404, 'ERR_FILE_NOT_FOUND'],
  ['GET', '/v1/images/demo/plain:1/-/dev/7', undefined, 404, 'ERR_DEVICE_NOT_FOUND'],
  ['GET', `/v1/blobs/demo/${NOTHING}`, undefined, 404, 'ERR_BLOB_NOT_FOUND'],
  ['GET', '/v1/jobs/absent', undefined, 404, 'ERR_JOB_NOT_FOUND'],
  ['PUT', '/v1/images/demo/new:1', { from: 'demo/absent:1' }, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['DELETE', '/v1/images/demo/absent:1', undefined, 404, 'ERR_IMAGE_NOT_FOUND'],
  ['GET', '/v1/images/Demo/plain:1', undefined, 400, 'ERR_REF_INVALID'],
  ['POST', '/v1/images/demo/new:1', undefined, 400, 'ERR_IMPORT_EMPTY'],
]

describe('refusals of a whole server', () => {
  let server: ServerProcess
  before(async () => {
    server = await startServerProcess()
    const imported = await server.run('import', 'erofs', IMAGE, 'demo/plain:1', '--quiet')
    assert.equal(imported.code, 0, imported.stderr)
  })
  after(() => server[Symbol.asyncDispose]())

  for (const [method, path, body, status, code] of REFUSED) {
    test(`${method} ${path.replace(NOTHING, 'sha256:0…')} → ${status} ${code}`, async () => {
      const json = { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
      const init = { method, ...(body === undefined ? {} : json) }
      const response = await fetch(server.http + path, init)
      const problem = (await response.json()) as { code: string; title: string }
      assert.deepEqual([response.status, problem.code], [status, code])
      assert.equal(problem.title, status === 404 ? 'Not Found' : 'Bad Request')
    })
  }

  test('a name that the web may have pointed here → 421 ERR_HTTP_HOST_NOT_ALLOWED', async () => {
    assert.deepEqual(await askedAs(server, 'evil.example'), [421, 'ERR_HTTP_HOST_NOT_ALLOWED'])
    assert.deepEqual(await askedAs(server, 'localhost:1'), [200, undefined])
    await using named = await startServerProcess({ args: ['--http-allowed-hosts', '*.example'] })
    assert.deepEqual(await askedAs(named, 'good.example'), [200, undefined])
    assert.deepEqual(await askedAs(named, 'evil.test'), [421, 'ERR_HTTP_HOST_NOT_ALLOWED'])
  })

  test('NBD: an absent export → NBD_REP_ERR_UNKNOWN', async () => {
    assert.equal(await refusalOf(server, 'demo/absent:1'), REP_ERR_UNKNOWN)
    assert.equal(await refusalOf(server, 'demo/plain:1/-/dev/7'), REP_ERR_UNKNOWN)
  })
})

/** Status and code of `/v1/images` with this Host header. */
async function askedAs(
  server: ServerProcess,
  host: string,
): Promise<[number | undefined, string | undefined]> {
  const request = get(`${server.http}/v1/images`, { headers: { host }, agent: false })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const body = JSON.parse(await text(response)) as { code?: string }
  return [response.statusCode, body.code]
}

/** The type of the reply to NBD_OPT_GO for `name`. */
async function refusalOf(server: ServerProcess, name: string): Promise<number> {
  const bytes = Buffer.from(name)
  const go = Buffer.alloc(4 + 16 + 4 + bytes.length + 2)
  go.writeUInt32BE(3, 0) // fixed newstyle, no zeroes
  go.write('IHAVEOPT', 4)
  go.writeUInt32BE(7, 12) // NBD_OPT_GO
  go.writeUInt32BE(6 + bytes.length, 16)
  go.writeUInt32BE(bytes.length, 20)
  bytes.copy(go, 24)
  const socket = connect(server.nbdPort, server.nbdHost)
  socket.write(go)
  let received = Buffer.alloc(0)
  for await (const chunk of socket) {
    received = Buffer.concat([received, chunk as Buffer])
    // Greeting of 18 bytes, then the magic and the option of the reply.
    if (received.length >= 18 + 16) break
  }
  socket.destroy()
  return received.readUInt32BE(18 + 12)
}
