/**
 * The same Range headers to nginx and to us: status, Content-Range and bytes have to agree. Where we differ
 * on purpose the row says why.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'

import { freePort } from '../free-port.ts'
import { digestOf } from '../../src/core/index.ts'
import type { Part } from './multipart.ts'
import { readMultipart } from './multipart.ts'
import { startTestServer } from './test-server.ts'
import { until } from './until.ts'

const installed = spawnSync('nginx', ['-v']).status === 0

const SAME: readonly string[] = [
  'bytes=0-0',
  'bytes=0-',
  'bytes=999999-',
  'bytes=-1',
  'bytes=-2000000',
  'bytes=-0',
  'bytes=999990-2000000',
  'bytes=1000000-',
  'bytes=10-5',
  'bytes=x',
  'bytes=1',
  'items=0-5',
  'bytes=0-9,20-29',
  'bytes=20-29,0-9',
  'bytes=0-9,10-19',
  'bytes=0-9, 20-29',
  'bytes=0-9,1000000-',
  'bytes=2000000-,3000000-',
  'bytes=0-,0-,0-,0-,0-',
  'bytes=0-999999,0-0',
  'bytes=5-9,3-7',
  'BYTES=0-9',
  `bytes=${Array.from({ length: 300 }, (_, i) => `${i * 3}-${i * 3 + 1}`).join(',')}`,
]

/** Header, what we answer, what nginx answers, why. */
const DIFFERENT: readonly (readonly [string, number, number, string])[] = [
  [
    'bytes=',
    416,
    200,
    'nginx takes no header below seven characters for a range; ours is 416 as for any malformed one',
  ],
  ['bytes=0-9,', 206, 416, 'RFC 9110 §5.6.1.2: empty list elements are to be ignored'],
  [
    'bytes=0-99999999999999999999',
    206,
    416,
    'RFC 9110 §14.1.2: a last position beyond the end is clamped',
  ],
  ['bytes=0 - 9', 416, 206, 'RFC 9110 §14.1.1 has no space inside a range'],
]

describe('nginx', { skip: installed ? false : 'nginx is not installed' }, async () => {
  if (!installed) return
  const server = await startTestServer()
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-nginx-'))
  await chmod(folder, 0o755)
  await writeFile(join(folder, 'big.bin'), server.big, { mode: 0o644 })
  const port = await freePort()
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  )
  await writeFile(
    join(folder, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log;
     events {} http { access_log off; ${paths.join(' ')}
     server { listen 127.0.0.1:${port}; root ${folder}; } }`,
  )
  const nginx = spawn(
    'nginx',
    ['-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')],
    { stdio: 'ignore' },
  )
  let ready = false
  const theirs = `http://127.0.0.1:${port}/big.bin`
  const ours = `${server.url}/v1/blobs/demo/${server.blob}`
  const probe = setInterval(
    () =>
      void fetch(theirs, { method: 'HEAD' }).then(
        () => (ready = true),
        () => undefined,
      ),
    20,
  )
  await until(() => ready)
  clearInterval(probe)
  after(async () => {
    const exited = once(nginx, 'exit')
    nginx.kill('SIGQUIT')
    await exited
    await rm(folder, { recursive: true, force: true })
    await server[Symbol.asyncDispose]()
  })

  const ask = async (url: string, range: string) => {
    const response = await fetch(url, { headers: { range } })
    const body = Buffer.from(await response.arrayBuffer())
    const type = response.headers.get('content-type') ?? ''
    const parts = type.startsWith('multipart/')
      ? readMultipart(type.trim(), trimStart(body))
      : undefined
    return {
      status: response.status,
      contentRange: response.headers.get('content-range'),
      bytes: response.status >= 400 ? '' : (parts?.map(describePart) ?? digestOf(body)),
    }
  }

  for (const range of SAME) {
    test(`${range.slice(0, 40)} is answered alike`, async () => {
      assert.deepEqual(await ask(ours, range), await ask(theirs, range))
    })
  }
  for (const [range, mine, other, why] of DIFFERENT) {
    test(`${range} is not: ${why}`, async () => {
      assert.equal((await ask(ours, range)).status, mine)
      assert.equal((await ask(theirs, range)).status, other)
    })
  }
})

/** Digests instead of bytes: the difference of two megabytes takes minutes to print. */
function describePart(part: Part): string {
  return `${part.contentRange} ${digestOf(part.bytes)}`
}

/** nginx starts a multipart body with an empty line (a preamble, RFC 2046 §5.1.1). */
function trimStart(body: Buffer): Buffer {
  return body.toString('latin1', 0, 2) === '\r\n' ? body.subarray(2) : body
}
