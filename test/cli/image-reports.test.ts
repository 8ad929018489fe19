/** What lists and reports of images show beside the plain case: several devices, domains that are not there. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import * as schemas from '../../src/server/http/schemas.ts'
import type { FakeServer } from './fake-server.ts'
import { DISK_USAGE, sendJson, SHARING, startFakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

async function withServer(use: (server: FakeServer) => Promise<void>): Promise<void> {
  await using server = await startFakeServer()
  await use(server)
}

function run(server: FakeServer, ...args: string[]) {
  return runCommand(args, { env: { COMMONPAGE_SERVER: server.url } })
}

test('an image of two devices: every size by its name, the flattened view where it is another', () =>
  withServer(async (server) => {
    const [image] = server.images
    assert.ok(image !== undefined)
    const data = { sizeBytes: 20_971_520, digest: image.digest, extents: 7 }
    server.images = [{ ...image, devices: [...image.devices, data] }]
    const listed = await run(server, 'image', 'ls')
    assert.match(listed.stdout, /\s11\.0 MiB\s+32\.0 MiB\s+1,234\s+2\s/)
    const shown = await run(server, 'image', 'show', image.ref)
    assert.match(shown.stdout, /logical +11\.0 MiB \(11,534,336 bytes\)\n/i)
    assert.match(shown.stdout, /size +32\.0 MiB \(33,554,432 bytes\)\n/i)
    assert.match(shown.stdout, /flattened +12\.0 MiB \(12,582,912 bytes\)\n/i)
    server.images = [image]
    const single = await run(server, 'image', 'show', image.ref)
    assert.doesNotMatch(single.stdout, /flattened/i)
  }))

test('a domain that is not there is said to be unknown, with the closest; one that is empty is not', () =>
  withServer(async (server) => {
    let domains = ['demo', 'production']
    server.override = (request, response) => {
      const { pathname } = new URL(request.url ?? '', server.url)
      if (pathname === '/v1/images') return sendJson(response, schemas.ImageList, { images: [] })
      if (pathname === '/v1/domains') return sendJson(response, schemas.DomainList, { domains })
      if (pathname === '/v1/du') {
        return sendJson(response, schemas.DiskUsage, { ...DISK_USAGE, images: [] })
      }
      return sendJson(response, schemas.Sharing, { ...SHARING, images: [] })
    }
    for (const command of [['image', 'ls'], ['du'], ['sharing']]) {
      const mistyped = await run(server, ...command, '--domain', 'dmeo')
      assert.deepEqual([mistyped.code, mistyped.stdout], [0, ''])
      assert.match(mistyped.stderr, /no domain is called dmeo, closest: demo\n/)
      const empty = await run(server, ...command, '--domain', 'demo')
      assert.doesNotMatch(empty.stderr, /no domain is called/)
    }
    domains = []
    const nothing = await run(server, 'du', '--domain', 'dmeo')
    assert.match(nothing.stderr, /no domain is called dmeo: nothing is stored yet/)
  }))

test('image show by digest names the tags', () =>
  withServer(async (server) => {
    const [image] = server.images
    assert.ok(image !== undefined)
    const { tag: _, ...untagged } = { ...image, ref: `demo/base@${image.digest}` }
    server.override = (request, response) =>
      request.url?.includes('@') === true && sendJson(response, schemas.Image, untagged)
    const shown = await run(server, 'image', 'show', untagged.ref)
    assert.match(shown.stdout, /tags +demo\/base:1\n/)
    assert.doesNotMatch((await run(server, 'image', 'show', image.ref)).stdout, /tags/)
  }))
