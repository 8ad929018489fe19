/**
 * Paths in every encoding, against a whole server and an image made by mkfs.erofs whose names hold every byte
 * but `/` and NUL: each name is found however it may be written, and what may not be written is refused.
 */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import { evidence } from '../evidence.ts'
import { missing } from '../requires.ts'
import { post } from './http-support/target.ts'
import { RawClient } from '../http/raw-client.ts'
import type { RawResponse } from '../http/raw-client.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'

const SLASH = 0x2f
/** Every byte that a name may hold. */
const BYTES = Array.from({ length: 255 }, (_, i) => i + 1).filter((byte) => byte !== SLASH)
// mkfs.erofs 1.5 fails on the longest name of all, of 255 bytes.
const LONG = 'n'.repeat(254)
/** Directories below one another: a path of some 3,000 bytes. */
const DEEP = Array<string>(12).fill(LONG).join('/')
const FILES = '/v1/images/demo/names:1/-/files'

function percent(bytes: Iterable<number>, upper = true): string {
  const text = [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
  return upper ? text.toUpperCase() : text
}

describe('paths', { skip: missing('mkfs.erofs') }, () => {
  let folder: string
  let server: ServerProcess
  let client: RawClient
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'commonpage-names-'))
    await makeTree(join(folder, 'tree'))
    const image = join(folder, 'names.erofs')
    await runOk('mkfs.erofs', ['-T0', image, join(folder, 'tree')])
    server = await startServerProcess({ args: ['--workers', '2'] })
    assert.equal(
      await post(`${server.http}/v1/images/demo/names:1?wait=true`, await readFile(image)),
      201,
    )
    client = await RawClient.open(Number(new URL(server.http).port))
  })
  after(async () => {
    await client?.[Symbol.asyncDispose]()
    await server?.[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  async function ask(target: string): Promise<RawResponse> {
    if (client.socket.destroyed) client = await RawClient.open(Number(new URL(server.http).port))
    client.get(target)
    const response = await client.next()
    if (response === undefined) throw new Error(`no answer to ${target}`)
    if (response.headers.get('connection') === 'close') await client.ended()
    return response
  }

  test('every byte is found percent-encoded, in a name and as a name', async () => {
    const wrong: string[] = []
    for (const byte of BYTES) {
      const name = Buffer.from([0x6e, byte, 0x6e])
      for (const path of [percent(name), percent(name, false), `%6E${percent([byte])}n`]) {
        const { status, body } = await ask(`${FILES}/${path}`)
        if (status !== 200 || String(body) !== `byte ${byte}`) wrong.push(`${path}: ${status}`)
      }
      if (byte === 0x2e) continue // `.` is the directory itself
      const { status, body } = await ask(`${FILES}/single/${percent([byte])}`)
      if (status !== 200 || String(body) !== `only ${byte}`) wrong.push(`only ${byte}: ${status}`)
    }
    assert.deepEqual(wrong, [])
    evidence('http-paths', { bytes: BYTES.length })
  })

  test('every byte as it is: visible ASCII is found, the rest is refused', async () => {
    const wrong: string[] = []
    for (let byte = 0; byte <= 255; byte++) {
      const { status, body } = await ask(`${FILES}/n${String.fromCharCode(byte)}n`)
      const found = status === 200 ? String(body) : status
      const expected = rawByte(byte)
      if (found !== expected) wrong.push(`${byte}: ${found}, expected ${expected}`)
    }
    assert.deepEqual(wrong, [])
  })

  test('a listing names every entry so that it can be asked for', async () => {
    const names = new Set<string>()
    let cursor = ''
    do {
      const { body } = await ask(`${FILES}/single?limit=50${cursor}`)
      const page = JSON.parse(String(body)) as { entries: { name: string }[]; nextCursor?: string }
      for (const { name } of page.entries) names.add(name)
      cursor = page.nextCursor === undefined ? '' : `&cursor=${page.nextCursor}`
    } while (cursor !== '')
    assert.equal(names.size, BYTES.length - 1)
    const wrong: string[] = []
    for (const name of names) {
      // Names are text with percent-encoded bytes where they are none: what is not ASCII goes through UTF-8.
      const path = name.replace(/[^\w%]/gu, (text) => percent(Buffer.from(text)))
      const { status } = await ask(`${FILES}/single/${path}`)
      if (status !== 200) wrong.push(`${JSON.stringify(name)} as ${path}: ${status}`)
    }
    assert.deepEqual(wrong, [])
  })

  const found = 'found'
  const rows: readonly (readonly [string, number, string])[] = [
    ['%252F', 200, found], // decoded once: the name has a percent sign
    ['%252f', 404, 'ERR_FILE_NOT_FOUND'],
    ['%25252F', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir%2Fplain', 400, 'ERR_HTTP_PATH_INVALID'],
    ['dir%2fplain', 400, 'ERR_HTTP_PATH_INVALID'],
    ['dir/plain%00', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%00', 400, 'ERR_HTTP_PATH_INVALID'],
    ['..', 400, 'ERR_HTTP_PATH_INVALID'],
    ['../files/dir/plain', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%2e%2e/x', 400, 'ERR_HTTP_PATH_INVALID'],
    ['dir/%2E./plain', 400, 'ERR_HTTP_PATH_INVALID'],
    ['dir/..%2fplain', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%252e%252e/x', 404, 'ERR_FILE_NOT_FOUND'],
    ['%c0%ae%c0%ae/x', 404, 'ERR_FILE_NOT_FOUND'], // overlong UTF-8 is bytes like any other
    ['dir%c0%afplain', 404, 'ERR_FILE_NOT_FOUND'],
    ['%e0%80%af', 404, 'ERR_FILE_NOT_FOUND'],
    ['%u002e', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%2', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%+1', 400, 'ERR_HTTP_PATH_INVALID'],
    ['%zz', 400, 'ERR_HTTP_PATH_INVALID'],
    ['...', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir//plain', 200, found],
    ['/dir/plain', 200, found],
    ['dir/./plain', 200, found],
    ['./dir/%2e/plain', 200, found],
    ['dir/plain?', 200, found],
    ['dir/plain??', 200, found],
    ['dir/plain?ns=example.org&x=%zz', 200, found],
    ['dir/plain%3F', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir/plain#', 400, 'ERR_HTTP_MALFORMED'],
    ['dir/plain%23', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir/plain;x=y', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir/plain+', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir/plain/', 400, 'ERR_FILE_NOT_DIRECTORY'],
    ['dir/plain/x', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir/PLAIN', 404, 'ERR_FILE_NOT_FOUND'],
    ['dir\\plain', 404, 'ERR_FILE_NOT_FOUND'],
    [LONG, 200, 'any'],
    [`${LONG}n`, 404, 'ERR_FILE_NOT_FOUND'],
    [`${DEEP}/plain`, 200, found],
    [DEEP.replaceAll('n', '%6e') + '/plain', 200, found],
    [`${'./'.repeat(10_000)}dir/plain`, 200, found],
    [`${'/'.repeat(60_000)}dir/plain`, 414, 'ERR_EROFS_PATH_TOO_LONG'],
    ['x/'.repeat(16_000), 404, 'any'],
    ['a'.repeat(70_000), 400, 'ERR_HTTP_HEADERS_TOO_LARGE'],
  ]
  test('a table of spellings', async () => {
    const wrong: string[] = []
    for (const [path, status, code] of rows) {
      const response = await ask(`${FILES}/${path}`)
      const text = String(response.body)
      const answer = response.status === 200 ? text : String(JSON.parse(text).code)
      const right = response.status === status && (code === 'any' || answer === code)
      if (!right)
        wrong.push(
          `${path.slice(0, 40)}: ${response.status} ${answer.slice(0, 40)}, expected ${status} ${code}`,
        )
    }
    assert.deepEqual(wrong, [])
  })
})

/** What `n`, the byte as it is, `n` finds. */
function rawByte(byte: number): string | number {
  const text = String.fromCharCode(byte)
  if (text === '?') return 404 // the query starts
  if (text === '/') return 404 // two components
  if (text === '#' || text === '%') return 400
  return byte > 0x20 && byte < 0x7f ? `byte ${byte}` : 400
}

async function makeTree(root: string): Promise<void> {
  await mkdir(join(root, 'single'), { recursive: true })
  await mkdir(join(root, 'dir'))
  await mkdir(join(root, DEEP), { recursive: true })
  for (const path of ['dir/plain', '%2F', `${DEEP}/plain`])
    await writeFile(join(root, path), 'found')
  const at = (...name: readonly number[]): Buffer =>
    Buffer.concat([Buffer.from(`${root}/`), Buffer.from(name)])
  for (const byte of BYTES) {
    await writeFile(at(0x6e, byte, 0x6e), `byte ${byte}`)
    if (byte !== 0x2e) await writeFile(at(...Buffer.from('single/'), byte), `only ${byte}`)
  }
}
